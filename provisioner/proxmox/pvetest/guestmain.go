package pvetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const guestEnv = "PVETEST_GUEST"

// GuestDir returns a directory for the guests of a test, which may be nobody
// and pass through it.
func GuestDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil { //nolint:gosec // see above
			t.Fatal(err)
		}
	}
	return dir
}

// GuestMain must be called first in main or TestMain of a program that uses
// [ProcessGuests] or [Server.Shell]: when the program was started to be a guest
// or a node's pvesh, it is that, and never returns.
func GuestMain() {
	if filepath.Base(os.Args[0]) == "pvesh" {
		os.Exit(PveshMain())
	}
	var err error
	switch os.Getenv(guestEnv) {
	case "":
		return
	case "init":
		err = guestInit()
	case "agent":
		err = guestAgent()
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "pvetest guest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// guestPath is the PATH in a guest (measured).
const guestPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// guestInit is process 1: it makes the root directory, starts the agent and
// reaps. TERM switches the machine off, HUP restarts it.
func guestInit() error {
	if err := enterRoot(os.Getenv("PVETEST_ROOT")); err != nil {
		return fmt.Errorf("make the root directory: %w", err)
	}
	if err := unix.Sethostname([]byte(os.Getenv("PVETEST_NAME"))); err != nil {
		return fmt.Errorf("set the name: %w", err)
	}
	if user := os.Getenv(guestUserEnv); user != "" {
		if err := serveSSH(user, os.Getenv(guestKeysEnv)); err != nil {
			return fmt.Errorf("start the SSH server: %w", err)
		}
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGTERM, unix.SIGHUP)
	go func() {
		for s := range sig {
			if s == unix.SIGTERM {
				os.Exit(0)
			}
			_ = unix.Kill(-1, unix.SIGKILL) // all but ourselves; the agent is started anew
		}
	}()
	stock := os.Getenv(stockEnv)
	if stock != "" {
		if err := firstBoot(); err != nil {
			return fmt.Errorf("start cloud-init: %w", err)
		}
	}
	env := []string{guestEnv + "=agent", stockEnv + "=" + stock, "SHLVL=2", "HOME=/root", "_=/usr/sbin/qemu-ga", "TERM=linux", guestPath,
		"PVETEST_NAME=" + os.Getenv("PVETEST_NAME"), "PVETEST_MAC=" + os.Getenv("PVETEST_MAC"), "PVETEST_IP=" + os.Getenv("PVETEST_IP")}
	for {
		agent, err := syscall.ForkExec("/proc/self/exe", []string{"/usr/sbin/qemu-ga"}, &syscall.ProcAttr{
			Dir: "/", Env: env, Files: []uintptr{0, 1, 2, 3}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return fmt.Errorf("start the agent: %w", err)
		}
		for {
			pid, err := syscall.Wait4(-1, nil, 0, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("wait: %w", err)
			}
			if pid == agent {
				break
			}
		}
	}
}

// guestAgent is qemu-ga. Its environment is that of what it runs.
func guestAgent() error {
	q := &qga{name: os.Getenv("PVETEST_NAME"), mac: os.Getenv("PVETEST_MAC"), ip: os.Getenv("PVETEST_IP")}
	if os.Getenv(stockEnv) != "" {
		if err := awaitInstallation(); err != nil {
			return fmt.Errorf("await the installation: %w", err)
		}
	}
	for _, k := range []string{guestEnv, stockEnv, "PVETEST_NAME", "PVETEST_MAC", "PVETEST_IP"} {
		_ = os.Unsetenv(k)
	}
	q.run = &runner{procs: map[int]*guestProcess{}, files: map[int]*os.File{}}
	q.shutdown = func(mode string) {
		sig := unix.SIGTERM
		if mode == "reboot" {
			sig = unix.SIGHUP
		}
		_ = unix.Kill(1, sig)
	}
	unix.CloseOnExec(3)
	return q.serve(os.NewFile(3, "virtio-port"))
}

// ownFiles of /etc are copied for the guest to change.
var ownFiles = []string{"passwd", "group", "os-release", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "profile", "hosts", "debian_version"}

// enterRoot builds a root file system below dir from the host's programs, and
// changes into it.
func enterRoot(dir string) error {
	root := filepath.Join(dir, "root")
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // as in any system
		return err
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil { // only a mount can become the root
		return fmt.Errorf("%s: %w", root, err)
	}
	for d, mode := range map[string]fs.FileMode{
		"": 0o755, "etc": 0o755, "tmp": 0o777 | fs.ModeSticky, "root": 0o700, "home": 0o755, "var": 0o755, "var/tmp": 0o777 | fs.ModeSticky,
		"run": 0o755, "proc": 0o555, "dev": 0o755, "sys": 0o555, "opt": 0o755, "srv": 0o755, "mnt": 0o755,
	} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil { //nolint:gosec // as in any system
			return err
		}
		if err := os.Chmod(filepath.Join(root, d), mode); err != nil {
			return err
		}
	}
	for _, d := range []string{"usr", "bin", "sbin", "lib", "lib64", "etc/alternatives"} {
		if err := bindReadOnly("/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	for _, f := range ownFiles {
		if err := copyOnce("/etc/"+f, filepath.Join(root, "etc", f)); err != nil {
			return err
		}
	}
	if err := powerCommands(dir, root); err != nil {
		return err
	}
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	unix.Umask(0o022)
	return changeRoot(root)
}

// changeRoot makes a mount the root directory, and takes the old one away. Below
// a mere chroot there would be no user namespaces (user_namespaces(7)).
func changeRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root directory: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the old root directory away: %w", err)
	}
	return os.Chdir("/")
}

// bindReadOnly shows a directory of the host; a symbolic link stays one.
func bindReadOnly(from, to string) error {
	st, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // as on the host
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	var fsInfo unix.Statfs_t
	if unix.Statfs(to, &fsInfo) == nil { // flags that a user namespace may not drop
		flags |= uintptr(fsInfo.Flags) & (unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_RELATIME)
	}
	if err := unix.Mount("", to, "", flags, ""); err != nil {
		return fmt.Errorf("%s read-only: %w", from, err)
	}
	return nil
}

func copyOnce(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	data, err := os.ReadFile(from) //nolint:gosec // a fixed list
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644) //nolint:gosec // as on the host
}

// powerCommands puts poweroff and reboot into /usr/local/sbin.
func powerCommands(dir, root string) error {
	own, programs := filepath.Join(dir, "sbin"), map[string]string{}
	for name, sig := range map[string]string{"poweroff": "TERM", "reboot": "HUP"} {
		programs[name] = "exec kill -" + sig + " 1\n"
	}
	if err := writePrograms(dir, programs); err != nil {
		return err
	}
	return unix.Mount(own, filepath.Join(root, "usr/local/sbin"), "", unix.MS_BIND, "")
}
