package pvetest

import (
	"cmp"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	guestUserEnv = "PVETEST_USER"
	guestKeysEnv = "PVETEST_KEYS"
	// guestUID is that of the user cloud-init makes.
	guestUID = 1000
	// sshSocket is the descriptor in a guest on which its SSH server listens.
	sshSocket = 4

	sshd       = "/usr/sbin/sshd"
	sshdConfig = "/etc/ssh/sshd_config"
)

// listenSSH returns the socket for a guest's SSH server, and its IP address if
// it has one.
func (p *ProcessGuests) listenSSH(spec GuestSpec) (f *os.File, ip string, err error) {
	if _, err := os.Stat(sshd); err != nil {
		return nil, "", fmt.Errorf("guests with an SSH server need the package openssh-server: %w", err)
	}
	l, err := p.ListenSSH(spec)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = l.Close() }()
	switch l := l.(type) {
	case *net.TCPListener:
		f, err = l.File()
		ip = l.Addr().(*net.TCPAddr).IP.String() //nolint:forcetypeassert // it is one
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		f, err = l.File()
	default:
		return nil, "", fmt.Errorf("a guest can't listen on %v", l.Addr())
	}
	return f, ip, err
}

// sshEnv tells the guest what cloud-init would be told.
func (spec GuestSpec) sshEnv() []string {
	keys, _ := url.PathUnescape(spec.Config["sshkeys"]) // checked when it was set
	return []string{guestUserEnv + "=" + cmp.Or(spec.Config["ciuser"], "root"), guestKeysEnv + "=" + keys}
}

// serveSSH does what cloud-init does for SSH, and starts a server as inetd does:
// each connection has its own process.
func serveSSH(user, keys string) error {
	home, err := addLogin(user)
	if err != nil {
		return err
	}
	// No password, but not locked either, as sshd takes a missing line.
	if err := os.WriteFile("/etc/shadow", []byte(user+":*:19000:0:99999:7:::\n"), 0o600); err != nil {
		return err
	}
	if err := writeSSH(home, keys); err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{guestPath}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if ownsOneUser() {
		// Where no other user can be made, it runs as the one it lets in.
		attr.Sys.Cloneflags = syscall.CLONE_NEWUSER
		attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: guestUID, HostID: 0, Size: 1}}
		attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: guestUID, HostID: 0, Size: 1}}
	}
	unix.CloseOnExec(sshSocket)
	if err := unix.SetNonblock(sshSocket, false); err != nil {
		return err
	}
	go func() {
		for {
			nc, _, err := unix.Accept4(sshSocket, unix.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			attr.Files = []uintptr{uintptr(nc), uintptr(nc), 2}
			if _, err := syscall.ForkExec(sshd, []string{sshd, "-i", "-e", "-f", sshdConfig}, attr); err != nil {
				_, _ = fmt.Fprintln(os.Stderr, "start sshd:", err)
			}
			_ = unix.Close(nc)
		}
	}()
	return nil
}

// ownsOneUser says whether this namespace knows no user but root.
func ownsOneUser() bool {
	text, _ := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return len(f) == 3 && f[2] == "1"
}

// addLogin makes a user, unless it is there, and returns its home.
func addLogin(name string) (home string, err error) {
	if name == "root" {
		return "/root", nil
	}
	home = "/home/" + name
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, guestUID, guestUID, home)
	if !strings.Contains(string(passwd), line) {
		if err := os.WriteFile("/etc/passwd", append([]byte(line), passwd...), 0o644); err != nil { //nolint:gosec // as in any system
			return "", err
		}
	}
	return home, nil
}

// writeSSH writes the files of the SSH server.
func writeSSH(home, keys string) error {
	for _, d := range []string{"/etc/ssh", "/run/sshd", filepath.Join(home, ".ssh")} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // as in any system
			return err
		}
	}
	if home != "/root" && !ownsOneUser() {
		if err := os.Chown(home, guestUID, guestUID); err != nil {
			return err
		}
	}
	const hostKey = "/etc/ssh/ssh_host_ed25519_key"
	if _, err := os.Stat(hostKey); err != nil {
		if err := newHostKey(hostKey); err != nil {
			return err
		}
	}
	config := "HostKey " + hostKey + "\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n" +
		"KbdInteractiveAuthentication no\nLogLevel ERROR\n"
	if err := os.WriteFile(sshdConfig, []byte(config), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(home, ".ssh/authorized_keys"), []byte(keys), 0o644) //nolint:gosec // public keys
}

func newHostKey(path string) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	// The private half comes last: it says that there is a key, also to the next
	// boot of a machine that was switched off in between.
	if err := os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(key), 0o644); err != nil { //nolint:gosec // public
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}
