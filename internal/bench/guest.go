package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
)

// Work of the measurements on the plain host.
const (
	callers    = 16
	outputSize = 20_000_000 // bytes
)

// guest compares agentlab-guest, run on the plain host and driven over its
// socket, with doing the same here and now.
func (b *bench) guest(ctx context.Context) (_ []figure, err error) {
	conn, stop, err := b.startGuest(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var figures []figure
	for _, compare := range []func(context.Context, guest.Conn) (figure, error){
		compareExec, compareCallers, compareOutput,
	} {
		f, err := compare(ctx, conn)
		if err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// startGuest starts agentlab-guest and connects to it.
func (b *bench) startGuest(ctx context.Context) (_ guest.Conn, stop func() error, err error) {
	dir := filepath.Join(b.stage.Dir, "guest")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	_, host, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	public, client, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	seed, err := json.Marshal(guest.Seed{HostKey: host.Seed(), ClientKey: public, Home: dir})
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, guest.SeedFile), seed, 0o600); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, b.stage.Bin("agentlab-guest"), "serve", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	terminate := func() error {
		return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	}
	conn, err := connect(filepath.Join(dir, guest.Socket), host, client)
	if err != nil {
		return nil, nil, errors.Join(err, terminate())
	}
	return conn, func() error { return errors.Join(conn.Close(), terminate()) }, nil
}

// connect returns a channel to the guest that listens, or soon will, at path.
func connect(path string, host, client ed25519.PrivateKey) (guest.Conn, error) {
	hostKey, err := ssh.NewPublicKey(host.Public())
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(client)
	if err != nil {
		return nil, err
	}
	return sshguest.New(sshguest.Config{
		HostKey: hostKey,
		Signer:  signer,
		Dial: func(ctx context.Context) (net.Conn, error) {
			poll := time.NewTicker(time.Millisecond)
			defer poll.Stop()
			for {
				c, err := new(net.Dialer).DialContext(ctx, "unix", path)
				if err == nil || ctx.Err() != nil {
					return c, err
				}
				<-poll.C
			}
		},
	}), nil
}

// compareExec is one command after the other.
func compareExec(ctx context.Context, conn guest.Conn) (figure, error) {
	const n = 200
	argv := []string{"/bin/true"}
	var ours, floor sample
	for range n {
		start := time.Now()
		if err := startAndWait(ctx, conn, argv); err != nil {
			return figure{}, err
		}
		ours = append(ours, time.Since(start))
		took, err := fork(ctx, argv)
		if err != nil {
			return figure{}, err
		}
		floor = append(floor, took)
	}
	return slower("guest_exec", "plain host: exec true / fork+exec", ours, floor, 1.5), nil
}

// startAndWait runs a command as the exec tool does.
func startAndWait(ctx context.Context, conn guest.Conn, argv []string) error {
	p, _, err := conn.Processes().Start(ctx, guest.Cmd{Args: argv}, guest.StartOptions{Wait: time.Minute, Max: 4096})
	if err == nil && (p.Running || p.Exit.Code != 0) {
		err = fmt.Errorf("%q ended with %+v", argv, p.Exit)
	}
	return err
}

// compareCallers is many at once.
func compareCallers(ctx context.Context, conn guest.Conn) (figure, error) {
	const rounds, each = 10, 20
	argv := []string{"/bin/true"}
	crowd := func(one func(context.Context) error) (time.Duration, error) {
		start := time.Now()
		g, ctx := errgroup.WithContext(ctx)
		for range callers {
			g.Go(func() error {
				for range each {
					if err := one(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		err := g.Wait()
		return time.Since(start), err
	}
	var ours, floor sample
	for range rounds {
		took, err := crowd(func(ctx context.Context) error { return startAndWait(ctx, conn, argv) })
		if err != nil {
			return figure{}, err
		}
		ours = append(ours, took)
		took, err = crowd(func(ctx context.Context) error { _, err := fork(ctx, argv); return err })
		if err != nil {
			return figure{}, err
		}
		floor = append(floor, took)
	}
	what := fmt.Sprintf("plain host: %d exec by %d callers, rate / direct", callers*each, callers)
	return faster("guest_callers", what, ours, floor, 0.8), nil
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// compareOutput is much standard output.
func compareOutput(ctx context.Context, conn guest.Conn) (figure, error) {
	const n = 15
	argv := []string{"/usr/bin/head", "-c", strconv.Itoa(outputSize), "/dev/zero"}
	timed := func(run func(io.Writer) error) (time.Duration, error) {
		var got counter
		start := time.Now()
		err := run(&got)
		if err == nil && got != outputSize {
			err = fmt.Errorf("%q: got %d bytes", argv, got)
		}
		return time.Since(start), err
	}
	var ours, floor sample
	for range n {
		took, err := timed(func(w io.Writer) error {
			_, err := conn.Run(ctx, guest.Cmd{Args: argv}, guest.Streams{Stdout: w})
			return err
		})
		if err != nil {
			return figure{}, err
		}
		ours = append(ours, took)
		took, err = timed(func(w io.Writer) error {
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Stdout = w
			return cmd.Run()
		})
		if err != nil {
			return figure{}, err
		}
		floor = append(floor, took)
	}
	return slower("guest_output", "plain host: 20 MB of output / direct", ours, floor, 3), nil
}
