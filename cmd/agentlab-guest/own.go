package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/pkg/sftp"
)

// port joins standard input and output to a TCP port of this machine.
func port(ctx context.Context, number string) error {
	if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q: want 1 to 65535", number)
	}
	nc, err := dialSelf(ctx, number)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	if _, err := io.WriteString(os.Stdout, "\n"); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(nc, os.Stdin) // either end may close when it likes
		if half, ok := nc.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}()
	if _, err := io.Copy(os.Stdout, nc); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// dialSelf connects to a port of this machine by either version of IP.
func dialSelf(ctx context.Context, port string) (nc net.Conn, err error) {
	var d net.Dialer
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		if nc, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, port)); err == nil {
			return nc, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// serveFiles speaks SFTP on standard input and output until its end.
func serveFiles(ctx context.Context, dir string) error {
	server, err := sftp.NewServer(standard{os.Stdin, os.Stdout}, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve() }()
	select {
	case err := <-ended:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// standard is standard input and output as one.
type standard struct {
	io.Reader
	io.WriteCloser
}
