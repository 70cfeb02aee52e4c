// Command agentlab-guest is the inside of a local sandbox: its process 1, and
// an SSH server on a Unix socket in a directory shared with the host. It runs
// just as well as an ordinary process of any Linux machine:
//
//	agentlab-guest serve DIR
//
// reads and removes DIR/seed.json ([guest.Seed]), listens on DIR/ssh.sock and
// serves whoever holds the client key, until it gets a SIGTERM.
//
//	agentlab-guest start DIR <seed.json
//
// returns when such a server listens on DIR/ssh.sock, detached from its caller:
// one that was started before, or a new one. And
//
//	agentlab-guest dial DIR
//
// joins standard input and output to DIR/ssh.sock. What it serves can run more of
// it as [guest.Program]:
//
//	agentlab-guest port N
//
// joins standard input and output to what listens on TCP port N of the machine
// itself, after an empty line that says that something does, and
//
//	agentlab-guest sftp DIR
//
// speaks SFTP there; relative paths begin in DIR.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/confine"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/keep"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/serve"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// logDir is where the logs of processes are in a sandbox.
const logDir = "/var/log/agentlab"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], log); err != nil {
		log.Error("agentlab-guest", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) != 2 {
		return errUsage
	}
	dir := args[1]
	switch args[0] {
	case "serve":
		seed, err := readSeed(filepath.Join(dir, guest.SeedFile))
		if err != nil {
			return err
		}
		table := &keep.Table{Dir: filepath.Join(dir, "log")}
		if os.Getpid() == 1 {
			table.Dir = logDir
		}
		return serveSocket(ctx, dir, seed, table, log)
	case "start":
		return start(ctx, dir, os.Stdin)
	case daemonCommand:
		return daemon(ctx, dir, os.Stdin, log)
	case "dial":
		return dial(ctx, dir)
	case "port":
		return port(ctx, args[1])
	case "sftp":
		return serveFiles(ctx, dir)
	}
	return errUsage
}

var errUsage = errors.New("usage: agentlab-guest serve|start|dial|sftp DIR, or port N")

// serveSocket serves whoever connects to the socket in dir until ctx ends.
func serveSocket(ctx context.Context, dir string, seed guest.Seed, table *keep.Table, log *slog.Logger) error {
	// Idle, this process is all that the guest's memory is spent on.
	debug.SetGCPercent(50)
	syscall.Umask(0o022)
	host := &proc.Host{Home: seed.Home}
	table.Host = host
	server, err := serve.New(ctx, seed, host, table, log)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, filepath.Join(dir, guest.Socket))
	if err != nil {
		return err
	}
	if err := confine.Confine(ctx, host, seed, dir); err != nil {
		return err
	}
	if seed.Pooled {
		if err := server.Rehearse(); err != nil {
			return err
		}
	}
	return server.Serve(listener)
}

// readSeed reads the seed and removes it: it holds the host key.
func readSeed(path string) (guest.Seed, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return guest.Seed{}, fmt.Errorf("read seed: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return guest.Seed{}, fmt.Errorf("remove seed: %w", err)
	}
	return parseSeed(text)
}

func parseSeed(text []byte) (guest.Seed, error) {
	var seed guest.Seed
	if json.Unmarshal(text, &seed) != nil {
		return seed, errors.New("read seed: malformed") // the cause would quote it
	}
	return seed, nil
}

// listen returns a socket at path that only its owner may connect to.
func listen(ctx context.Context, path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
