package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// probe is a command that shows whether the sandbox sees something of the host.
type probe struct {
	command string
	seen    func(text string, ex exit) bool // whether it does
	of      part
}

// part is what of the host a probe goes for.
type part string

const (
	system  part = "system"
	files   part = "files"
	network part = "network"
)

// isolation tries to reach the host in the ways that are open to any program.
func (d *demo) isolation(ctx context.Context) error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	file := filepath.Join(d.stage.Dir, "of-the-host")
	if err := os.WriteFile(file, []byte("for anyone to read\n"), 0o644); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port

	succeeded := func(_ string, ex exit) bool { return ex.Code == 0 }
	for _, p := range []probe{
		{"cat /etc/shadow", succeeded, system},
		{"cat " + file, succeeded, files},
		{"ls -A /home /root /srv", d.homesOfHost, files},
		{"hostname || cat /etc/hostname", func(text string, _ exit) bool { return containsLine(text, hostname) }, files},
		{"env | grep " + strings.Split(secret, "=")[0], succeeded, files},
		{fmt.Sprintf("timeout 2 bash -c 'echo hello > /dev/tcp/127.0.0.1/%d'", port), succeeded, network},
		{"timeout 2 bash -c 'echo hello > /dev/tcp/192.0.2.1/53'", succeeded, network}, // of no host, RFC 5737
	} {
		if why := d.on.spares(p.of); why != "" {
			d.out.step("not tried", p.command+"\n"+why)
			continue
		}
		text, ex, err := d.exec(ctx, p.command)
		if err != nil {
			return err
		}
		if p.seen(text, ex) {
			return fmt.Errorf("the sandbox sees the host through %q:\n%s", p.command, text)
		}
		d.out.step("exec", p.command+"\n"+text)
	}
	return noCaller(listener.(*net.TCPListener))
}

// homesOfHost finds names of the host's private directories in text, but for
// those that there are in any account.
func (d *demo) homesOfHost(text string, _ exit) bool {
	for _, dir := range []string{"/home", "/root", "/srv"} {
		entries, _ := os.ReadDir(dir) // one that we can't read is not compared
		for _, e := range entries {
			if _, err := os.Lstat(filepath.Join("/etc/skel", e.Name())); err == nil || e.Name() == ".ssh" {
				continue
			}
			if containsLine(text, e.Name()) {
				return true
			}
		}
	}
	return false
}

func containsLine(text, line string) bool {
	for got := range strings.Lines(text) {
		if strings.TrimSpace(got) == line {
			return true
		}
	}
	return false
}

// noCaller makes sure that nobody has come to the host's port.
func noCaller(l *net.TCPListener) error {
	if err := l.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err == nil {
		return errors.Join(errors.New("the sandbox reached a port of the host"), conn.Close())
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
