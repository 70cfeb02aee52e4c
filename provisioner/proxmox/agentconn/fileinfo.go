package agentconn

import (
	"cmp"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// checkPath returns the path as scripts take it.
func checkPath(p string) (string, error) {
	if p == "" || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%q: %w", p, fs.ErrInvalid)
	}
	if p[0] != '/' {
		p = "./" + p
	}
	return p, nil
}

// parseInfo reads "%f %s %y %u %g" of stat, in the time zone UTC or any other.
func parseInfo(line, name string) (guest.FileInfo, error) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return guest.FileInfo{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	mode, err1 := strconv.ParseUint(f[0], 16, 32)
	size, err2 := strconv.ParseInt(f[1], 10, 64)
	mtime, err3 := time.Parse("2006-01-02 15:04:05 -0700", strings.Join(f[2:5], " "))
	uid, err4 := strconv.ParseUint(f[5], 10, 32)
	gid, err5 := strconv.ParseUint(f[6], 10, 32)
	if err := cmp.Or(err1, err2, err3, err4, err5); err != nil {
		return guest.FileInfo{}, unreachable(fmt.Errorf("%.200q describes no file: %w", line, err))
	}
	return guest.FileInfo{Path: name, Size: max(size, 0), Mode: fileMode(mode), MTime: mtime, UID: uint32(uid), GID: uint32(gid)}, nil
}

// fileMode translates st_mode.
func fileMode(m uint64) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, f := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= f
		}
	}
	switch m & 0o170000 {
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o060000:
		mode |= fs.ModeDevice
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	return mode
}
