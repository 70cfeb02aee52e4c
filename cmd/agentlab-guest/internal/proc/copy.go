package proc

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes of what is read from a pipe at once: the first until a read fills it.
// The pipe itself grows with the latter, so that much output takes few turns.
const (
	smallRead = 4 << 10
	bigRead   = 128 << 10
)

// gather is how long much output may gather in the pipe: a program that writes
// it in small pieces would cost several switches for each.
const gather = 50 * time.Microsecond

// maxLeft bounds what is read from a pipe that others hold open after the
// command has ended: more than a pipe holds is not the command's.
const maxLeft = 1 << 20

// buffers are shared, and held only while there is something to read: hundreds
// of silent commands cost no buffer.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallRead]byte) }}
	bigBuffers   = sync.Pool{New: func() any { return new([bigRead]byte) }}
)

// Copy copies what the command writes to r, one of Stdout and Stderr, to w,
// until its end. When the command has ended and others hold the stream open,
// it returns held and a nil error after a short while; calling it again goes on.
func (p *Proc) Copy(w io.Writer, r *os.File) (held bool, err error) {
	conn, err := r.SyscallConn()
	if err != nil {
		return false, err
	}
	big := false
	for {
		n, err := chunk(conn.Read, w, big)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := r.SetReadDeadline(noDeadline); err != nil {
				return false, err
			}
			return copyLeft(conn, w)
		case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO): // EIO: a terminal nobody holds
			return false, nil
		case err != nil:
			return false, err
		}
		if big && n < bigRead/2 {
			pause := unix.NsecToTimespec(int64(gather))
			_ = unix.Nanosleep(&pause, nil) // time.Sleep takes a millisecond at least
		}
		if !big && n == smallRead {
			big = true
			_ = conn.Control(func(fd uintptr) { // may be refused: then it stays small
				_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 2*bigRead)
			})
		}
	}
}

// copyLeft copies what is in the pipe now.
func copyLeft(conn syscall.RawConn, w io.Writer) (held bool, err error) {
	now := func(f func(fd uintptr) bool) error { return conn.Control(func(fd uintptr) { f(fd) }) }
	for left := maxLeft; left > 0; {
		n, err := chunk(now, w, true)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return true, nil
		case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
			return false, nil
		case err != nil:
			return false, err
		}
		left -= n
	}
	return true, nil
}

// chunk moves one piece from the file behind conn to w. It takes a buffer only
// when there is something to read.
func chunk(conn func(func(fd uintptr) bool) error, w io.Writer, big bool) (n int, err error) {
	var buf []byte
	var free func()
	connErr := conn(func(fd uintptr) bool {
		buf, free = buffer(big)
		for {
			n, err = syscall.Read(int(fd), buf)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if errors.Is(err, syscall.EAGAIN) {
			free()
			free = nil
			return false
		}
		return true
	})
	if free != nil {
		defer free()
	}
	if connErr != nil {
		return 0, connErr
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	_, err = w.Write(buf[:n])
	return n, err
}

func buffer(big bool) (buf []byte, free func()) {
	if big {
		b := bigBuffers.Get().(*[bigRead]byte)
		return b[:], func() { bigBuffers.Put(b) }
	}
	b := smallBuffers.Get().(*[smallRead]byte)
	return b[:], func() { smallBuffers.Put(b) }
}
