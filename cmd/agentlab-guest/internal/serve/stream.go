package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// pieceSize is how much of a file is read at once.
const pieceSize = 128 << 10

// pieces are shared, and held only while a file is read.
var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// run serves a connection of kind wire.Run. The host cancels by closing it.
func (h *hostSession) run(nc net.Conn, in *wire.StreamReader, out *wire.StreamWriter, req wire.RunRequest) wire.EndStream {
	p, err := h.Host.Start(proc.Cmd{
		Cmd: req.Cmd.Guest(), Stdin: req.Stdin, TTY: req.TTY, Term: req.Term, Size: guest.Size(req.Size),
	})
	if err != nil {
		return wire.EndStream{Err: wire.ToError(err)}
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		listen(p, in, out)
		kill(p)
	})
	exit := relay(p, out.Writer(wire.Data), out.Writer(wire.ErrData))
	_ = nc.SetReadDeadline(time.Now()) // ends listening; fails on a closed connection only
	listening.Wait()
	return wire.EndStream{Exit: exit}
}

// listen takes what the host says to p, until it says no more. Standard input is
// asked for part by part: one that p does not read never hides an end.
func listen(p *proc.Proc, in *wire.StreamReader, out *wire.StreamWriter) {
	input := make(chan []byte, 1)
	defer close(input)
	if p.Stdin != nil {
		go feed(p, input, out)
	}
	for {
		kind, err := in.Next()
		if err != nil {
			return
		}
		switch kind {
		case wire.Data, wire.EOF:
			part, err := io.ReadAll(in)
			if err != nil || len(input) == cap(input) { // more than was asked for
				return
			}
			input <- part
		case wire.Resize:
			var size wire.Size
			if in.JSON(&size) == nil && p.TTY {
				_ = p.Resize(guest.Size(size)) // a wrong size harms nobody
			}
		default: // says nothing to a command
		}
	}
}

// feed gives p its standard input, up to an empty part.
func feed(p *proc.Proc, input <-chan []byte, out *wire.StreamWriter) {
	for out.Send(wire.More, nil) == nil {
		part, ok := <-input
		if !ok {
			return // the host broke off
		}
		if len(part) == 0 {
			break
		}
		if _, err := p.Stdin.Write(part); err != nil {
			break // the program has closed it: it may when it likes
		}
	}
	endInput(p)
}

// endInput ends the standard input of p.
func endInput(p *proc.Proc) {
	if p.TTY {
		_, _ = p.Stdin.Write([]byte{4}) // what a terminal has instead of an end
		return
	}
	_ = p.Stdin.Close()
}

// kill kills what p started, if p itself still runs or is waited for: of one
// that has come to its end in peace, what it left behind is left alone.
func kill(p *proc.Proc) {
	if !p.Released() {
		p.Kill()
	}
}

// relay sends the output of p to the host until p ends.
func relay(p *proc.Proc, out, errOut io.Writer) guest.Exit {
	var copies sync.WaitGroup
	join := func(w io.Writer, r *os.File) {
		if r != nil {
			copies.Go(func() { _, _ = p.Copy(w, r) }) // fails with the connection, which kills p
		}
	}
	join(errOut, p.Stderr)
	join(out, p.Stdout)
	<-p.Done()
	copies.Wait()
	p.Release()
	return p.Exit()
}

// read serves a connection of kind wire.Read.
func (h *hostSession) read(out *wire.StreamWriter, req wire.ReadRequest) wire.EndStream {
	r, info, err := h.Files.Open(string(req.Path), req.Off, req.N)
	if err != nil {
		return wire.EndStream{Err: wire.ToError(err)}
	}
	defer r.Close()
	if err := out.SendJSON(wire.Begin, wire.FromFileInfo(info)); err != nil {
		return wire.EndStream{} // nobody will get it
	}
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	_, err = io.CopyBuffer(out.Writer(wire.Data), onlyReader{r}, buf[:])
	return wire.EndStream{Err: wire.ToError(err)}
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

// write serves a connection of kind wire.Write.
func (h *hostSession) write(in *wire.StreamReader, req wire.WriteRequest) wire.EndStream {
	opt := guest.WriteOptions{Append: req.Append, Mode: req.Mode}
	if req.Unless != nil {
		fi := req.Unless.Guest()
		opt.Unless = &fi
	}
	w, err := h.Files.Create(string(req.Path), opt)
	if err != nil {
		return wire.EndStream{Err: wire.ToError(err)}
	}
	if err := receive(w, in); err != nil {
		w.Abort()
		return wire.EndStream{Err: wire.ToError(fmt.Errorf("write %s: %w", req.Path, err))}
	}
	res, err := w.Commit()
	if err != nil {
		return wire.EndStream{Err: wire.ToError(err)}
	}
	return wire.EndStream{Wrote: &res}
}

// receive takes the content of a file. Only the host's wire.Commit with the
// right number of bytes is its end: any other is that of a connection that broke.
func receive(w io.Writer, in *wire.StreamReader) error {
	var total int64
	for {
		kind, err := in.Next()
		if err != nil {
			return errAborted
		}
		if kind == wire.Commit {
			sent, err := io.ReadAll(in)
			if err != nil || string(sent) != strconv.FormatInt(total, 10) {
				return errAborted
			}
			return nil
		}
		n, err := copyPart(w, in)
		if total += n; err != nil {
			return err
		}
	}
}

// copyPart writes the rest of a part to w, without waiting for all of it.
func copyPart(w io.Writer, in *wire.StreamReader) (total int64, err error) {
	for {
		b, err := in.Piece()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, errAborted
		}
		n, err := w.Write(b)
		if total += int64(n); err != nil {
			return total, err
		}
	}
}

var errAborted = errors.New("the host broke off")
