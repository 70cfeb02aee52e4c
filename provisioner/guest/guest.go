// Package guest says how the host talks to the inside of a machine. A machine
// may be a gVisor sandbox behind an SSH server of ours, a virtual machine with
// its own sshd, or one that answers only through the QEMU guest agent: whoever
// uses a machine sees a [Conn] and cannot tell. The suite in guesttest holds
// every implementation to the promises made here.
//
// The guest is not trusted. An implementation bounds what it reads from it and
// never lets it choose a path, a size or a time on the host.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Errors that the methods of a [Conn] return, wrapped. Those of the guest's
// file system are [fs.ErrNotExist], [fs.ErrPermission] and [fs.ErrExist].
var (
	// ErrUnreachable: the guest can't be reached or broke off in the middle.
	// What was asked may have happened: a command may have started.
	ErrUnreachable = errors.New("guest unreachable")
	// ErrNoDir: the working directory of a command is missing or not a directory.
	ErrNoDir = errors.New("no such working directory")
	// ErrNoUser: the guest has no user of that name.
	ErrNoUser = errors.New("no such user in the guest")
	// ErrNoCommand: the program to run is not in the guest.
	ErrNoCommand = errors.New("no such command in the guest")
	// ErrNoBecome: no program in the guest runs others as another user. It is an ErrNoCommand.
	ErrNoBecome = fmt.Errorf("%w to become another user with", ErrNoCommand)
	// ErrNoProcess: the guest knows no process of that id.
	ErrNoProcess = errors.New("no such process")
	// ErrExited: the process has ended, so it takes no input and no signal.
	ErrExited = errors.New("process has ended")
	// ErrBusy: the guest has no room for one more process.
	ErrBusy = errors.New("too many processes in the guest")
	// ErrIsDir: a file was wanted and the path names a directory.
	ErrIsDir = errors.New("is a directory")
	// ErrNotDir: a directory was wanted, or a part of the path is a file.
	ErrNotDir = errors.New("not a directory")
	// ErrNotRegular: the path names a device, a socket or a pipe.
	ErrNotRegular = errors.New("not a regular file")
	// ErrNoSpace: the guest's disk is full.
	ErrNoSpace = errors.New("no space left in the guest")
	// ErrChanged: the file is no longer the one that WriteOptions.Unless names.
	ErrChanged = errors.New("file changed meanwhile")
)

// Conn is a channel to the inside of one machine. It may be used from many
// goroutines at once. It re-dials by itself when the connection breaks, and
// never repeats anything that may have had an effect.
type Conn interface {
	// Run runs cmd, streams its output and waits. A command that ran and
	// failed is not an error: its code is in Exit. Cancelling ctx kills the
	// command and all of its process group, also what ignores TERM; so does a
	// connection that breaks. A writer that stalls makes the command wait and
	// never makes us grow.
	//
	// Errors: ErrUnreachable, ErrNoDir, ErrNoUser, ErrNoCommand, ErrBusy,
	// ctx.Err, and whatever Streams returned.
	Run(ctx context.Context, cmd Cmd, std Streams) (Exit, error)

	// Processes returns what keeps commands running without us.
	Processes() Processes

	// ReadFile opens path for reading n bytes from off; n < 0 is up to the
	// end, off < 0 counts from the end. Symbolic links are followed. Reading
	// past the end gives nothing and no error. The caller closes the reader.
	//
	// Errors: fs.ErrNotExist, fs.ErrPermission, ErrIsDir, ErrNotDir,
	// ErrNotRegular, ErrUnreachable.
	ReadFile(ctx context.Context, path string, off, n int64) (io.ReadCloser, FileInfo, error)

	// WriteFile makes path hold what r gives. Whoever reads path meanwhile sees the old file or
	// the new one, never a part, and when it fails the old one stays (except
	// with opt.Append, which writes in place). Missing parents are made. A
	// symbolic link is followed, and mode and owner of an existing file kept.
	//
	// Errors: ErrIsDir, ErrNotDir, ErrNotRegular, fs.ErrPermission,
	// ErrNoSpace, ErrChanged, ErrUnreachable, and what r returned.
	WriteFile(ctx context.Context, path string, r io.Reader, opt WriteOptions) (WriteResult, error)

	// ListFiles lists what is below the directory path, sorted by path, at
	// most opt.Limit of it; Listing.Total counts all. A path that names a
	// file lists that file. Symbolic links are not followed below path.
	//
	// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotDir, ErrUnreachable.
	ListFiles(ctx context.Context, path string, opt ListOptions) (Listing, error)

	// Close gives up the connection. What Processes started goes on.
	Close() error
}

// Processes are commands that the guest keeps by itself: they, their output
// and their exit codes outlive the connection and a restart of ours, until the
// machine dies. Output is kept up to [MaxLog] bytes a process, the oldest
// dropped first; the latest [MaxEnded] ended processes are remembered.
type Processes interface {
	// Start starts cmd and waits up to opt.Wait for its end. If ctx is
	// cancelled meanwhile, the process group is killed. A process that
	// outlives the wait goes on by itself.
	//
	// Errors: as Conn.Run.
	Start(ctx context.Context, cmd Cmd, opt StartOptions) (Process, Output, error)

	// Read returns output from req.Offset on, and waits up to req.Wait for
	// some, for the end, or for req.Until to match. Cancelling ctx ends the
	// waiting only.
	//
	// Errors: ErrNoProcess, ErrUnreachable.
	Read(ctx context.Context, id string, req ReadRequest) (Process, Output, error)

	// Control writes to the standard input of a process, closes it, or sends
	// its process group a signal, in this order.
	//
	// Errors: ErrNoProcess, ErrExited, ErrUnreachable.
	Control(ctx context.Context, id string, in Input) (Process, error)

	// List returns the known processes, the oldest first.
	List(ctx context.Context) ([]Process, error)
}

// Limits of what a guest keeps.
const (
	MaxLog   = 64 << 20 // bytes of output a process
	MaxEnded = 256      // ended processes remembered
	MaxStdin = 1 << 20  // bytes of StartOptions.Stdin and Input.Stdin
)

// Program is the name by which Run finds agentlab-guest itself, for what a machine
// may lack a program for. In a machine without it that is ErrNoCommand, before
// anything was read of Streams.Stdin.
const Program = "agentlab-guest"

// Cmd says what to run.
type Cmd struct {
	Args []string // the program, looked up on the guest's PATH, and its arguments
	Env  []string // NAME=value, in addition to what the guest's user starts with
	Dir  string   // working directory; empty is the guest's default
	User string   // who runs it; empty is the guest's default user
}

// Streams are the standard streams of a command under Run. Nil is nothing to
// read and nowhere to write.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	TTY    *TTY // with a terminal, what goes to standard error comes out of Stdout
}

// TTY asks for a terminal.
type TTY struct {
	Term       string // the value of TERM
	Cols, Rows uint16
	Resize     <-chan Size // changes of its size; nil if there are none
}

// Size is that of a terminal in characters.
type Size struct{ Cols, Rows uint16 }

// Exit is how a command ended.
type Exit struct {
	Code   int    // 0 to 255; 128 + the signal's number when a signal ended it
	Signal string // "KILL", "TERM", ...; empty if it ended by itself
	OOM    bool   // it was killed since the machine's memory limit was reached
}

// StartOptions are those of Processes.Start.
type StartOptions struct {
	Stdin     []byte        // at most MaxStdin
	KeepStdin bool          // leave standard input open for Control
	Timeout   time.Duration // the process group is killed after it; 0 is never
	Wait      time.Duration // how long to wait for the end
	Max       int           // bytes of each stream to return, the middle cut out
}

// Process is what the guest knows of one.
type Process struct {
	ID       string // "p_1", unique in its machine for all time
	Command  string // the last of Cmd.Args, cut at 200 bytes, for people
	Running  bool
	Exit     Exit // of an ended one
	TimedOut bool // StartOptions.Timeout killed it
	Started  time.Time
	Duration time.Duration // so far, or until its end
	Stdout   int64         // bytes written so far
	Stderr   int64
	LogPath  string // file in the guest with both streams in order; empty while they are only in memory
}

// Output is a piece of what a process wrote. Start returns the streams apart;
// Read returns them together, as they came, in Both.
type Output struct {
	Stdout, Stderr Clip
	Both           []byte
	Runs           []int // how many bytes of Both came in turn from standard output, error, output, ...; nil if the guest can't say
	Offset, Next   int64 // where Both begins and ends in the whole output
	First          int64 // the oldest byte still kept
	Matched        bool  // ReadRequest.Until matched
}

// Clip is a stream with its middle left out when it is longer than wanted.
type Clip struct {
	Head, Tail []byte // Tail is empty when nothing is left out
	Total      int64  // bytes of the whole stream
}

// ReadRequest is that of Processes.Read.
type ReadRequest struct {
	Offset   int64         // in both streams together; negative counts from the end
	FromLast bool          // instead of Offset: where the last Read or Start of this process ended
	Peek     bool          // not to count as one: FromLast stays where it is
	Max      int           // bytes to return
	Wait     time.Duration // how long to wait if there is nothing new
	Until    string        // RE2; wait until the output from Offset on matches
}

// Input is that of Processes.Control.
type Input struct {
	Stdin      []byte // at most MaxStdin
	CloseStdin bool
	Signal     string // INT, TERM, KILL or HUP; empty is none
}

// FileInfo describes a file in the guest.
type FileInfo struct {
	Path  string // as asked, or joined to the listed directory; any bytes but NUL
	Size  int64
	Mode  fs.FileMode
	MTime time.Time
	UID   uint32
	GID   uint32
	Link  string // target of a symbolic link
}

// WriteOptions are those of Conn.WriteFile.
type WriteOptions struct {
	Append bool
	Mode   fs.FileMode // permission bits; 0 keeps those of an existing file, else 0o644
	Unless *FileInfo   // write only if the file still has this size and mtime, else ErrChanged
}

// WriteResult says what WriteFile did.
type WriteResult struct {
	Bytes   int64
	Created bool // there was no such file before
}

// ListOptions are those of Conn.ListFiles.
type ListOptions struct {
	Pattern string // glob with * and ** on the path below the directory; empty is all
	Depth   int    // levels below the directory; 0 is 1
	Limit   int    // 0 is 200
}

// Listing is a list of files.
type Listing struct {
	Files []FileInfo
	Total int  // how many match in all
	More  bool // counting stopped at a limit of the guest's: Total is a lower bound
}
