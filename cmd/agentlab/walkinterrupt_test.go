package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/failpoint"
)

// interrupted interrupts a command when it is half-way.
func (w *walker) interrupted(c command) {
	if c.never != "" {
		return
	}
	args := c.args
	if c.halfArgs != "" {
		args = c.halfArgs
	}
	halfway, release := w.prepare(c)
	cmd := w.command(c, args)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Stdin = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}` + "\n") // of mcp
	w.ts.Check(cmd.Start())
	if !w.until(cmd, halfway) {
		w.errorf(c, "is not half-way in time")
	}
	w.ts.Check(cmd.Process.Signal(os.Interrupt))
	release()
	code := w.await(c, cmd)
	if code != cli.ExitInterrupted {
		w.errorf(c, "exit code %d, want %d: %s", code, cli.ExitInterrupted, errs.String())
	}
	if c.name != "mcp" && !strings.Contains(errs.String(), "agentlab: interrupted") {
		w.errorf(c, "does not say that it was interrupted: %s", errs.String())
	}
	if left, err := filepath.Glob(w.ts.MkAbs("state/backup-*")); err != nil || len(left) > 0 {
		w.errorf(c, "leaves %v, %v", left, err)
	}
}

// twice interrupts a command again and again that is held at a fail-point, where it
// does not hear the first.
func (w *walker) twice(c command) {
	if c.half == "" || c.half == atDaemon || c.half == atServer || c.half == atFIFO {
		return
	}
	halfway, release := w.prepare(c)
	defer release()
	cmd := w.command(c, c.args)
	w.ts.Check(cmd.Start())
	if !w.until(cmd, halfway) {
		w.errorf(c, "is not half-way in time")
	}
	ended := make(chan int, 1)
	go func() { ended <- w.await(c, cmd) }()
	for {
		select {
		case code := <-ended:
			if code != cli.ExitInterrupted {
				w.errorf(c, "exit code %d, want %d", code, cli.ExitInterrupted)
			}
			return
		case <-time.After(10 * time.Millisecond):
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended just now
		}
	}
}

// until waits for a command to be half-way.
func (w *walker) until(cmd *exec.Cmd, halfway func() bool) bool {
	for end := time.Now().Add(testPatience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if halfway() {
			return true
		}
		if syscall.Kill(cmd.Process.Pid, 0) != nil {
			return false
		}
	}
	return false
}

// prepare sees to it that a command waits. The caller releases it.
func (w *walker) prepare(c command) (halfway func() bool, release func()) {
	switch c.half {
	case atDaemon:
		file := ""
		paths, err := config.Locate(file, os.Geteuid(), w.ts.Getenv("HOME"), w.ts.Getenv)
		w.ts.Check(err)
		ln, err := net.Listen("unix", filepath.Join(paths.Runtime, paths.Socket))
		w.ts.Check(err)
		return silent(ln, fmt.Sprintf("agentlab %s\n", version()))
	case atServer, atFIFO:
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		w.ts.Check(err)
		w.ts.Setenv("SERVER", "https://"+ln.Addr().String())
		halfway, end := silent(ln, "")
		if c.half == atServer {
			deconfigure := w.configure(c)
			return halfway, func() { deconfigure(); end() }
		}
		fifo := w.ts.MkAbs("fifo")
		w.ts.Check(syscall.Mkfifo(fifo, 0o600))
		var writer *os.File
		return func() bool { // until somebody reads it
				writer, err = os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
				return err == nil
			}, func() {
				w.ts.Defer(func() { _ = writer.Close() })
				end()
			}
	}
	dir := failpoint.Dir(w.ts.MkAbs("points"))
	w.ts.Check(os.MkdirAll(string(dir), 0o700))
	w.ts.Setenv(failpoint.Env, string(dir))
	open, err := dir.Hold(c.half)
	w.ts.Check(err)
	return func() bool {
			passed, err := dir.Passed()
			return err == nil && slices.Contains(passed, c.half)
		}, func() {
			w.ts.Check(open())
			w.ts.Check(dir.Disarm())
			w.ts.Setenv(failpoint.Env, "")
		}
}

// configure names $SERVER as the Proxmox of a profile, until what it returns is called.
func (w *walker) configure(c command) (deconfigure func()) {
	if c.halfArgs != "" { // it is named there
		return func() {}
	}
	file := w.ts.MkAbs("config/agentlab/config.yaml")
	w.ts.Check(appendFile(file, "proxmox_api_url: "+w.ts.Getenv("SERVER")+"\nproxmox_api_token: agentlab@pve!lab=00000000-0000-0000-0000-000000000000\nproxmox_tls_insecure: true\n"))
	profile := w.ts.MkAbs("config/agentlab/profiles/vm.yaml")
	w.ts.Check(appendFile(profile, "backend: proxmox\ntemplate: none\n"))
	return func() { w.ts.Check(errors.Join(os.Remove(file), os.Remove(profile))) }
}

// silent greets whoever connects and says nothing more. Half-way is that somebody
// said something.
func silent(ln net.Listener, greeting string) (halfway func() bool, release func()) {
	asked := make(chan struct{}, 16)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Write([]byte(greeting)) // who is gone asks nothing
				if n, _ := conn.Read(make([]byte, 1)); n == 0 {
					return
				}
				asked <- struct{}{}
				_, _ = conn.Read(make([]byte, 1<<20))
				select {} // until the test ends
			}()
		}
	}()
	return func() bool { return len(asked) > 0 }, func() { _ = ln.Close() }
}
