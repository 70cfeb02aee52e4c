package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// pieceSize is how much of a file is read at once.
const pieceSize = 128 << 10

// run serves a channel of type wire.Run. The host cancels by closing it.
func (c *conn) run(ch ssh.Channel, requests <-chan *ssh.Request) {
	var req wire.RunRequest
	if wire.ReadFrame(ch, &req) != nil {
		go ssh.DiscardRequests(requests)
		return
	}
	p, err := c.Host.Start(proc.Cmd{
		Cmd: req.Cmd.Guest(), Stdin: req.Stdin, TTY: req.TTY, Term: req.Term, Size: guest.Size(req.Size),
	})
	if err != nil {
		go ssh.DiscardRequests(requests)
		c.end(ch, wire.EndStream{Err: wire.ToError(err)})
		return
	}
	go func() {
		for r := range requests {
			var size wire.Size
			if r.Type == wire.Resize && json.Unmarshal(r.Payload, &size) == nil {
				_ = p.Resize(guest.Size(size)) // a wrong size harms nobody
			}
		}
		kill(p)
	}()
	var in io.Reader
	if req.Stdin {
		in = ch
	}
	c.end(ch, wire.EndStream{Exit: relay(p, in, ch, ch.Stderr())})
}

// kill kills what p started, if p itself still runs or is waited for: of one
// that has come to its end in peace, what it left behind is left alone.
func kill(p *proc.Proc) {
	if !p.Released() {
		p.Kill()
	}
}

// relay joins the streams of p with those of the host until p ends.
func relay(p *proc.Proc, in io.Reader, out, errOut io.Writer) guest.Exit {
	if in != nil && p.Stdin != nil {
		go func() {
			_, _ = io.Copy(p.Stdin, in) // either end may close when it likes
			if p.TTY {
				_, _ = p.Stdin.Write([]byte{4}) // what a terminal has instead of an end
				return
			}
			_ = p.Stdin.Close()
		}()
	}
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

// read serves a channel of type wire.Read.
func (c *conn) read(ch ssh.Channel, requests <-chan *ssh.Request) {
	go ssh.DiscardRequests(requests)
	var req wire.ReadRequest
	if wire.ReadFrame(ch, &req) != nil {
		return
	}
	r, info, err := c.Files.Open(string(req.Path), req.Off, req.N)
	if err != nil {
		c.end(ch, wire.EndStream{Err: wire.ToError(err)})
		return
	}
	defer r.Close()
	c.tell(ch, wire.Begin, wire.FromFileInfo(info))
	_, err = io.CopyBuffer(onlyWriter{ch}, r, make([]byte, pieceSize))
	c.end(ch, wire.EndStream{Err: wire.ToError(err)})
}

// onlyWriter hides what else a writer can do.
type onlyWriter struct{ io.Writer }

// write serves a channel of type wire.Write. Only the host's wire.Commit with
// the right number of bytes makes the file appear: an end that comes without
// it is that of a connection that broke.
func (c *conn) write(ch ssh.Channel, requests <-chan *ssh.Request) {
	commit := make(chan string, 1)
	go func() {
		defer close(commit)
		for r := range requests {
			if r.Type == wire.Commit {
				select {
				case commit <- string(r.Payload):
				default:
				}
			}
		}
	}()
	var req wire.WriteRequest
	if wire.ReadFrame(ch, &req) != nil {
		return
	}
	res, err := c.writeFile(ch, req, commit)
	if err != nil {
		c.end(ch, wire.EndStream{Err: wire.ToError(err)})
		return
	}
	c.end(ch, wire.EndStream{Wrote: &res})
}

func (c *conn) writeFile(ch ssh.Channel, req wire.WriteRequest, commit <-chan string) (guest.WriteResult, error) {
	opt := guest.WriteOptions{Append: req.Append, Mode: req.Mode}
	if req.Unless != nil {
		fi := req.Unless.Guest()
		opt.Unless = &fi
	}
	w, err := c.Files.Create(string(req.Path), opt)
	if err != nil {
		return guest.WriteResult{}, err
	}
	n, err := io.CopyBuffer(onlyWriter{w}, onlyReader{ch}, make([]byte, pieceSize))
	if err == nil {
		if sent, ok := <-commit; !ok || sent != strconv.FormatInt(n, 10) {
			err = fmt.Errorf("write %s: %w", req.Path, errAborted)
		}
	}
	if err != nil {
		w.Abort()
		return guest.WriteResult{}, err
	}
	return w.Commit()
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

var errAborted = errors.New("the host broke off")
