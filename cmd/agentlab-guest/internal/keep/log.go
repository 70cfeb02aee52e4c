package keep

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// maxMemory is how much of a log stays in memory before it becomes a file.
const maxMemory = 32 << 10

// outputLog keeps the latest of what a process wrote, by the offset in the
// whole: in memory while it is short, then in a file, which at guest.MaxLog
// loses its older half. Where no file can be written it keeps the latest
// maxMemory bytes. It is guarded by its process.
type outputLog struct {
	path   string // of the file, if there will be one
	mem    []byte
	file   *os.File
	noFile bool  // it was tried, or nobody will read the log any more
	first  int64 // offset of the oldest byte kept
	size   int64 // of the whole
}

// Write adds b, and always succeeds: a full disk costs output, not a process.
func (l *outputLog) Write(b []byte) {
	if l.file == nil && len(l.mem)+len(b) > maxMemory {
		l.spill()
	}
	l.size += int64(len(b))
	if l.file == nil {
		l.remember(b)
		return
	}
	if _, err := l.file.WriteAt(b, l.size-int64(len(b))-l.first); err != nil {
		l.drop()
		l.first = l.size - int64(len(b))
		l.remember(b)
		return
	}
	if l.size-l.first >= guest.MaxLog {
		if err := l.halve(); err != nil {
			l.drop()
			l.first = l.size
		}
	}
}

// remember adds b to the end of the memory and drops its oldest.
func (l *outputLog) remember(b []byte) {
	l.mem = append(l.mem, b...)
	if over := len(l.mem) - maxMemory; over > 0 {
		l.mem = append(l.mem[:0], l.mem[over:]...)
		l.first += int64(over)
	}
}

// spill moves the memory to the file.
func (l *outputLog) spill() {
	if l.noFile || l.file != nil {
		return
	}
	file, err := create(l.path)
	if err != nil {
		l.noFile = true
		return
	}
	l.file = file
	if _, err := file.WriteAt(l.mem, 0); err != nil {
		l.drop()
		return
	}
	l.mem = nil
}

// halve makes a new file of the newer half.
func (l *outputLog) halve() error {
	next, err := create(l.path + ".new")
	if err != nil {
		return err
	}
	cut := (l.size - l.first) / 2
	_, err = io.Copy(next, io.NewSectionReader(l.file, cut, l.size-l.first-cut))
	if err == nil {
		err = os.Rename(next.Name(), l.path)
	}
	if err != nil {
		return errors.Join(err, next.Close(), os.Remove(next.Name()))
	}
	err = l.file.Close()
	l.file = next
	l.first += cut
	return err
}

// drop gives up the file and the space it takes.
func (l *outputLog) drop() {
	if l.file != nil {
		_ = l.file.Close() // nothing in it is wanted any more
		_ = os.Remove(l.path)
	}
	l.file, l.noFile = nil, true
}

// discard drops all there is, and of what is still to come keeps the end only.
func (l *outputLog) discard() {
	l.drop()
	l.mem, l.first = nil, l.size
}

// ReadAt fills b with what is kept from offset off on, which must not be
// before l.first.
func (l *outputLog) ReadAt(b []byte, off int64) int {
	b = b[:max(0, min(int64(len(b)), l.size-off))]
	if l.file == nil {
		return copy(b, l.mem[off-l.first:])
	}
	n, _ := l.file.ReadAt(b, off-l.first)
	if n == 0 && len(b) > 0 { // somebody cut the file: it is lost
		l.drop()
		l.first = l.size
	}
	return n
}

// Path returns the file's path, if there is one.
func (l *outputLog) Path() string {
	if l.file == nil {
		return ""
	}
	return l.path
}

// create makes the file path, which must be nobody else's: what stands there
// was put there by a program of the guest.
func create(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create log: %w", err)
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o644)
}
