package wire

import (
	"io/fs"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Bytes is a string of any bytes: JSON would mend what is not UTF-8.
type Bytes []byte

// Cmd is guest.Cmd.
type Cmd struct {
	Args []Bytes `json:"args"`
	Env  []Bytes `json:"env,omitempty"`
	Dir  Bytes   `json:"dir,omitempty"`
	User Bytes   `json:"user,omitempty"`
}

// FromCmd returns cmd in the form that travels.
func FromCmd(cmd guest.Cmd) Cmd {
	return Cmd{Args: toBytes(cmd.Args), Env: toBytes(cmd.Env), Dir: Bytes(cmd.Dir), User: Bytes(cmd.User)}
}

// Guest returns c as guest.Cmd.
func (c Cmd) Guest() guest.Cmd {
	return guest.Cmd{Args: toStrings(c.Args), Env: toStrings(c.Env), Dir: string(c.Dir), User: string(c.User)}
}

// Size is that of a terminal.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// RunRequest opens a connection for Run.
type RunRequest struct {
	Cmd   Cmd    `json:"cmd"`
	Stdin bool   `json:"stdin,omitempty"` // there will be some; else it is /dev/null
	TTY   bool   `json:"tty,omitempty"`
	Term  string `json:"term,omitempty"`
	Size  Size   `json:"size,omitzero"`
}

// EndStream ends a stream: at most one of its results is set.
type EndStream struct {
	Err   *Error             `json:"err,omitempty"`
	Exit  guest.Exit         `json:"exit,omitzero"`
	Wrote *guest.WriteResult `json:"wrote,omitempty"`
}

// ReadRequest opens a connection for Read.
type ReadRequest struct {
	Path Bytes `json:"path"`
	Off  int64 `json:"off,omitempty"`
	N    int64 `json:"n"`
}

// WriteRequest opens a connection for Write.
type WriteRequest struct {
	Path   Bytes       `json:"path"`
	Append bool        `json:"append,omitempty"`
	Mode   fs.FileMode `json:"mode,omitempty"`
	Unless *FileInfo   `json:"unless,omitempty"`
}

// FileInfo is guest.FileInfo.
type FileInfo struct {
	Path  Bytes       `json:"path"`
	Size  int64       `json:"size"`
	Mode  fs.FileMode `json:"mode"`
	MTime int64       `json:"mtime"` // nanoseconds since 1970
	UID   uint32      `json:"uid"`
	GID   uint32      `json:"gid"`
	Link  Bytes       `json:"link,omitempty"`
}

// FromFileInfo returns fi in the form that travels.
func FromFileInfo(fi guest.FileInfo) FileInfo {
	return FileInfo{
		Path: Bytes(fi.Path), Size: fi.Size, Mode: fi.Mode, MTime: fi.MTime.UnixNano(),
		UID: fi.UID, GID: fi.GID, Link: Bytes(fi.Link),
	}
}

// Guest returns f as guest.FileInfo.
func (f FileInfo) Guest() guest.FileInfo {
	return guest.FileInfo{
		Path: string(f.Path), Size: f.Size, Mode: f.Mode, MTime: time.Unix(0, f.MTime),
		UID: f.UID, GID: f.GID, Link: string(f.Link),
	}
}

// FilesRequest is the request of OpFiles, FilesResult its answer.
type FilesRequest struct {
	Path    Bytes `json:"path"`
	Pattern Bytes `json:"pattern,omitempty"`
	Depth   int   `json:"depth,omitempty"`
	Limit   int   `json:"limit,omitempty"`
}

// FilesResult is the answer of OpFiles.
type FilesResult struct {
	Files []FileInfo `json:"files"`
	Total int        `json:"total"`
	More  bool       `json:"more,omitempty"`
}

// StartRequest is the request of OpStart.
type StartRequest struct {
	Cmd     Cmd                `json:"cmd"`
	Options guest.StartOptions `json:"options"`
}

// ReadProcess is the request of OpRead.
type ReadProcess struct {
	ID  string            `json:"id"`
	Req guest.ReadRequest `json:"req"`
}

// ControlProcess is the request of OpControl.
type ControlProcess struct {
	ID string      `json:"id"`
	In guest.Input `json:"in"`
}

// ProcessResult is the answer of OpStart, OpRead and OpControl.
type ProcessResult struct {
	Process Process      `json:"process"`
	Output  guest.Output `json:"output,omitzero"`
}

// Process is guest.Process with a command of any bytes.
type Process struct {
	guest.Process
	Command Bytes `json:"Command"`
}

// FromProcess returns p in the form that travels.
func FromProcess(p guest.Process) Process {
	return Process{Process: p, Command: Bytes(p.Command)}
}

// Guest returns p as guest.Process.
func (p Process) Guest() guest.Process {
	p.Process.Command = string(p.Command)
	return p.Process
}

// ListResult is the answer of OpList.
type ListResult struct {
	Processes []Process `json:"processes"`
}

// RekeyResult is the answer of OpRekey: what was read back.
type RekeyResult struct {
	Hostname  string `json:"hostname"`
	MachineID string `json:"machine_id"`
}

func toBytes(list []string) []Bytes {
	out := make([]Bytes, len(list))
	for i, s := range list {
		out[i] = Bytes(s)
	}
	return out
}

func toStrings(list []Bytes) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}
