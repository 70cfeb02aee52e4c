package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// serveLines serves one client over a socket, one message a line, until it is
// gone, or from ending until all that it had asked is answered. A client that
// has closed only its writing side still gets the answers to what it had asked;
// when it is gone altogether, its calls are cancelled.
func (s *Server) serveLines(ctx context.Context, nc *net.UnixConn, ending <-chan struct{}) {
	c := s.connect(ctx, nil)
	defer c.close()
	stop := context.AfterFunc(c.ctx, func() { _ = nc.Close() })
	defer stop()
	c.out = &outlet{
		put: func(line []byte, _ *response) error {
			_ = nc.SetWriteDeadline(time.Now().Add(s.writeTimeout())) // fails when closed, as Write then does
			_, err := nc.Write(line)
			return err
		},
		broke: func(err error) {
			s.Log.Debug("write to client", "conn", c.name(), "err", err)
			c.cancel()
		},
	}
	c.out.send(nil, []byte("agentlab "+s.Version+"\n"), nil)
	var watch sync.WaitGroup
	watch.Go(c.broadcasts)
	watch.Go(func() {
		select {
		case <-ending:
			c.drain()
			c.cancel()
		case <-c.ctx.Done():
		}
	})
	if err := c.readLines(nc, nc); err != nil {
		s.Log.Debug("connection broke", "conn", c.name(), "err", err)
		c.cancel()
	}
	watch.Go(func() {
		if hungUp(nc) == nil {
			c.cancel()
		}
	})
	c.wait()
	c.cancel()
	_ = nc.Close()
	watch.Wait()
}

// broadcasts sends what belongs to no request until the client is gone.
func (c *conn) broadcasts() {
	for {
		select {
		case n := <-c.notes:
			c.out.send(nil, c.encode(n), nil)
		case <-c.ctx.Done():
			return
		}
	}
}

// readLines serves messages until the client sends no more. The first line may
// be a [Hello].
func (c *conn) readLines(src io.Reader, nc reader) error {
	lines := &lineReader{src: bufio.NewReaderSize(src, 64<<10), max: maxLine}
	ctx := c.ctx
	for first := true; ; first = false {
		line, err := lines.next()
		if hello, there, herr := parseHello(line); first && there {
			if herr == nil {
				ctx, herr = hello.apply(ctx)
			}
			if herr != nil {
				c.reject(nil, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: herr.Error()})
				return herr
			}
			if hello.Terminal {
				c.srv.terminal(ctx, lines.src, nc)
				return nil
			}
			continue
		}
		var long *tooLong
		switch {
		case errors.As(err, &long):
			c.reject(long.id(), &mcp.JSONRPCErrorDetails{
				Code: mcp.INVALID_REQUEST, Message: fmt.Sprintf("message of more than %d MiB; write large files in parts, with append", maxLine>>20),
			})
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(bytes.TrimSpace(line)) > 0:
			c.handle(ctx, line)
		}
	}
}
