package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// starterEnv is the variable with the command that alone starts the daemon of an
// installation, such as that of a service whose unit confines it. Empty is that
// whoever needs one may start one.
const starterEnv = "AGENTLAB_STARTED_BY"

// launch starts a daemon in a session of its own, so that it outlives us and
// our terminal, and waits until it listens or has ended. said is what an ended
// one said on its standard error.
//
// Its standard error is a pipe to us, which the daemon lets go when it is
// ready (see detach) and the kernel when it dies: there is nothing to poll.
func launch(configFile string) (said string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command(self, "serve", "--auto", "--config", configFile) //nolint:noctx // no end of ours is its end
	cmd.Dir = "/"
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return "", err
	}
	go func() { _ = cmd.Wait() }() // leave no zombie while we live on
	wait := handover(configFile) + patience
	if err := r.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(r, most))
	if os.IsTimeout(err) {
		return "", fmt.Errorf("it was not ready within %v: %s", wait, text)
	}
	return string(text), err
}
