package agentconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// maxQueue is how much input may wait in the guest.
const maxQueue = 4 << 20

// given is what a reader gave.
type given struct {
	data []byte
	err  error
}

// attend passes a command's input and the changes of its terminal's size on, in
// the order in which they come.
func (c *Conn) attend(ctx context.Context, fail context.CancelCauseFunc, key string, std guest.Streams) {
	var sizes <-chan guest.Size
	if std.TTY != nil {
		sizes = std.TTY.Resize
	}
	inputs, next := make(chan given), make(chan struct{})
	if std.Stdin != nil {
		go read(ctx, std.Stdin, inputs, next)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			_, _ = c.do(ctx, "resize", nil, key, fmt.Sprint(s.Rows), fmt.Sprint(s.Cols)) // it is only looks
		case in := <-inputs:
			if in.err != nil && !errors.Is(in.err, io.EOF) {
				fail(in.err)
				return
			}
			taken := c.give(ctx, key, guest.Input{Stdin: in.data, CloseStdin: in.err != nil})
			if !taken || in.err != nil {
				inputs = nil
				continue
			}
			next <- struct{}{}
		}
	}
}

// read hands on what r gives, and reads on when told.
func read(ctx context.Context, r io.Reader, to chan<- given, next <-chan struct{}) {
	buf := make([]byte, 8*inputMax)
	for {
		n, err := r.Read(buf)
		select {
		case to <- given{buf[:n], err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// give tries until the command has begun and has room for the input. It
// reports false when the command takes no more; how it ended, follow knows.
func (c *Conn) give(ctx context.Context, key string, in guest.Input) bool {
	pause := 20 * time.Millisecond
	for {
		err := c.control(ctx, key, in, maxQueue)
		if !errors.Is(err, guest.ErrBusy) && !errors.Is(err, guest.ErrNoProcess) {
			return err == nil
		}
		if !pve.Sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, time.Second)
	}
}
