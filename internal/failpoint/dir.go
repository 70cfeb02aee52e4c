package failpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dir is a directory through which a test and the process that it is to kill
// understand each other. Empty is none.
type Dir string

const (
	orderFile  = "order"  // what to do: a point to die at, or to record
	passedFile = "passed" // the points passed since the order was given, one a line
	recordOnly = "record"
	holdOrder  = "hold "
	gateFile   = "gate" // locked while somebody is to be held
)

// Record begins a list of the points that are passed.
func (d Dir) Record() error { return d.give(recordOnly) }

// Kill makes the process that passes the point, as Passed has named it, die
// there of SIGKILL. Points are counted anew from here.
func (d Dir) Kill(point string) error { return d.give(point) }

// Hold makes whoever passes the point stop there until release is called, or the
// test has ended. Others pass their points meanwhile. Points are counted anew
// from here.
func (d Dir) Hold(point string) (release func() error, err error) {
	gate, err := os.OpenFile(filepath.Join(string(d), gateFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(syscall.Flock(int(gate.Fd()), syscall.LOCK_EX), d.give(holdOrder+point)); err != nil {
		return nil, errors.Join(err, gate.Close())
	}
	return gate.Close, nil
}

// wait returns when nobody holds the gate.
func (d Dir) wait() error {
	gate, err := os.Open(filepath.Join(string(d), gateFile))
	if err != nil {
		return err
	}
	for {
		err = syscall.Flock(int(gate.Fd()), syscall.LOCK_SH)
		if !errors.Is(err, syscall.EINTR) {
			return errors.Join(err, gate.Close())
		}
	}
}

// Disarm makes points be passed without a trace.
func (d Dir) Disarm() error {
	err := os.Remove(filepath.Join(string(d), orderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Passed returns the points passed since the order was given, in their order,
// such as "store move READY after #1": what is done, on which side of it, and
// how manieth of these it is.
func (d Dir) Passed() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(string(d), passedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' }), err
}

// give replaces the order, whole: it may be read at any moment.
func (d Dir) give(order string) error {
	if err := d.Disarm(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(string(d), passedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	draft := filepath.Join(string(d), orderFile+".new")
	if err := os.WriteFile(draft, []byte(order), 0o600); err != nil {
		return err
	}
	return os.Rename(draft, filepath.Join(string(d), orderFile))
}

func (d Dir) order() string {
	text, _ := os.ReadFile(filepath.Join(string(d), orderFile)) // none is no order
	return string(text)
}

func (d Dir) note(point string) error {
	f, err := os.OpenFile(filepath.Join(string(d), passedFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(point + "\n")
	return errors.Join(err, f.Close())
}
