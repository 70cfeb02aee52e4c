package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Check implements [provisioner.Checker].
func (p *Provisioner) Check(ctx context.Context) error {
	t, err := p.tools()
	if err != nil {
		return err
	}
	st, err := p.state()
	if err != nil {
		return err
	}
	return errors.Join(
		unavailable(checkRunsc(ctx, t)),
		unavailable(checkPlatform(t.platform)),
		unavailable(st.checkSearchable()),
	)
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", err, provisioner.ErrUnavailable)
}

// checkRunsc says whether runsc runs, and runs in a user namespace.
func checkRunsc(ctx context.Context, t tools) error {
	if out, err := exec.CommandContext(ctx, t.runsc, "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not run (%w: %.200s): build it anew with make build", t.runsc, err, out)
	}
	cmd := exec.CommandContext(ctx, t.runsc, "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("no user namespace can be made (%w): %s", err, userNamespaceHelp())
	}
	return nil
}

// userNamespaceHelp names the settings that forbid user namespaces here.
func userNamespaceHelp() string {
	var help []string
	for _, s := range []struct{ path, bad, want string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if v, err := os.ReadFile(s.path); err == nil && strings.TrimSpace(string(v)) == s.bad {
			help = append(help, "as root: "+s.want)
		}
	}
	if len(help) == 0 {
		return "in a container, its seccomp profile or missing CAP_SYS_ADMIN may forbid it"
	}
	return strings.Join(help, "; ")
}

func checkPlatform(platform string) error {
	if platform != "kvm" {
		return nil
	}
	if err := unix.Access("/dev/kvm", unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("platform kvm: /dev/kvm (%w): join the group kvm, or use platform systrap", err)
	}
	return nil
}

// checkSearchable says whether the user that root's machines run as may reach
// what they need.
func (st *state) checkSearchable() error {
	if st.rootless() {
		return nil
	}
	for dir := st.dir; ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if fi.Mode()&0o001 == 0 {
			return fmt.Errorf("machines run as nobody, who can't pass %s to reach %s: chmod o+x %s, or use another state directory", dir, st.dir, dir)
		}
		if dir == "/" {
			return nil
		}
	}
}
