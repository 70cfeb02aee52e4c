package pvetest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A guest of a stock image is a process as others are, but its agent is silent
// until the package qemu-guest-agent was installed and started, and it does
// with the drive of cloud-init what that does: it runs user-data that is a
// script, once for each instance-id. What a distribution would do is done by
// small programs of ours, which note what they were asked.
const (
	stockEnv    = "PVETEST_STOCK"
	agentIsHere = "/var/lib/pvetest/agent"      // what says that the agent was started once
	agentStarts = "/var/lib/pvetest/agent-fifo" // where its start is waited for
	scriptFile  = "/var/lib/cloud/instance/user-data.txt"
)

// stockPrograms are those of a distribution that a template's recipe needs.
var stockPrograms = map[string]string{
	"apt-get": `echo "$*" >>/var/log/apt-get.log
case " $* " in
*' update '*) mkdir -p /var/lib/apt/lists && echo list >/var/lib/apt/lists/stock ;;
*' install '*) for p; do case $p in -*|*=*|install) ;; *) echo "$p" >>/var/lib/pvetest/packages ;; esac; done ;;
esac
`,
	"systemctl": `case " $* " in
*' is-active '*qemu-guest-agent*) [ -e ` + agentIsHere + ` ] ;;
*' start '*qemu-guest-agent*)
    grep -qx qemu-guest-agent /var/lib/pvetest/packages || { echo 'Unit qemu-guest-agent.service not found.' >&2; exit 5; }
    : >` + agentIsHere + ` && echo >` + agentStarts + ` ;;
esac
`,
	"cloud-init": `case $1 in
status) [ -e /var/lib/cloud/data/status.json ] || exec sleep 3600 ;;
clean) rm -rf /var/lib/cloud/instance /var/lib/cloud/data /var/log/cloud-init.log ;;
esac
`,
	"fstrim": "",
}

// traces are what a first boot leaves that no two machines may share.
func traces() map[string]string {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return map[string]string{
		"etc/machine-id": hex.EncodeToString(id) + "\n", "etc/ssh/ssh_host_ed25519_key": "secret\n", "etc/ssh/ssh_host_ed25519_key.pub": "public\n",
		"var/lib/dhcp/dhclient.eth0.leases": "lease\n", "var/log/cloud-init.log": "log\n", "var/log/syslog": "log\n",
		"root/.bash_history": "ls\n", "var/lib/cloud/data/status.json": "{}\n", "var/lib/systemd/random-seed": "seed\n",
	}
}

// prepareStock makes what is on the disk of a stock image when cloud-init has
// looked at its drive.
func (p *ProcessGuests) prepareStock(spec GuestSpec, dir string) error {
	root := filepath.Join(dir, "root")
	files := map[string]string{"var/lib/pvetest/packages": ""}
	if spec.Fresh { // what is there is of another machine that had this VMID
		if err := os.RemoveAll(root); err != nil {
			return err
		}
	}
	seed := spec.seed()
	instance := filepath.Join(root, "var/lib/cloud/data/instance-id")
	known, err := os.ReadFile(instance) //nolint:gosec // the guest's
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil { // never booted
		maps.Copy(files, traces())
	}
	if seed != nil && !bytes.Equal(known, seed["meta-data"]) {
		files["var/lib/cloud/data/instance-id"] = string(seed["meta-data"])
		files[scriptFile[1:]] = string(seed["user-data"])
	} else if err := os.Remove(filepath.Join(root, scriptFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as in any system
			return err
		}
		if _, err := os.Lstat(path); err == nil && text == "" {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	programs := maps.Clone(stockPrograms)
	maps.Copy(programs, p.Programs)
	return writePrograms(dir, programs)
}

// writePrograms puts scripts where guests have them in /usr/local/sbin.
func writePrograms(dir string, programs map[string]string) error {
	own := filepath.Join(dir, "sbin")
	if err := os.MkdirAll(own, 0o755); err != nil { //nolint:gosec // programs
		return err
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(own, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil { //nolint:gosec // a program
			return err
		}
	}
	return nil
}

// Installed implements [Installer].
func (g *processGuest) Installed() bool {
	_, err := os.Stat(filepath.Join(g.root, agentIsHere))
	return err == nil
}

// firstBoot is in the guest, before the agent: it starts what cloud-init would,
// which the guest's process 1 reaps.
func firstBoot() error {
	if err := unix.Mkfifo(agentStarts, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s: %w", agentStarts, err)
	}
	text, err := os.ReadFile(scriptFile)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(text, []byte("#!")) {
		return nil // nothing that we do
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(scriptFile, 0o700); err != nil { //nolint:gosec // a program
		return err
	}
	_, err = syscall.ForkExec(scriptFile, []string{scriptFile}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"HOME=/root", guestPath}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// awaitInstallation blocks the agent of a stock image until it is started. It
// keeps the fifo open: whoever starts it must neither wait nor fail.
func awaitInstallation() error {
	fd, err := unix.Open(agentStarts, unix.O_RDWR|unix.O_CLOEXEC, 0) // for writing, too, so that it need not wait here
	if err != nil {
		return fmt.Errorf("%s: %w", agentStarts, err)
	}
	if _, err := os.Stat(agentIsHere); err == nil {
		return nil
	}
	for {
		if _, err = unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
