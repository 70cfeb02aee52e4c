package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var noDeadline time.Time

// account is a line of /etc/passwd.
type account struct {
	name     string
	uid, gid uint32
	home     string
	shell    string
}

// launch is what is needed to fork a command.
type launch struct {
	path       string
	dir        string
	env        []string
	mark       string
	credential *syscall.Credential
}

// prepare checks all that can be wrong with cmd, in the order in which people
// would mend it.
func (h *Host) prepare(cmd Cmd) (launch, error) {
	var l launch
	if len(cmd.Args) == 0 || cmd.Args[0] == "" {
		return l, fmt.Errorf("%w: the command is empty", guest.ErrNoCommand)
	}
	user, credential, err := h.account(cmd.User)
	if err != nil {
		return l, err
	}
	l.credential = credential
	if l.dir = cmd.Dir; l.dir == "" {
		l.dir = startDir(user)
	} else if !filepath.IsAbs(l.dir) {
		l.dir = filepath.Join(startDir(user), l.dir)
	}
	if info, err := os.Stat(l.dir); err != nil {
		return l, fmt.Errorf("%w: %s: %v", guest.ErrNoDir, l.dir, errors.Unwrap(err))
	} else if !info.IsDir() {
		return l, fmt.Errorf("%w: %s is not a directory", guest.ErrNoDir, l.dir)
	}
	l.mark = h.nonce + "-" + strconv.FormatInt(h.commands.Add(1), 10) + ";"
	l.env = environment(user, cmd, l.mark)
	if cmd.Args[0] == guest.Program {
		l.path, err = os.Executable()
	} else {
		l.path, err = lookPath(cmd.Args[0], l.dir, l.env)
	}
	return l, err
}

// account returns who runs a command: us, or another if we may.
func (h *Host) account(name string) (account, *syscall.Credential, error) {
	if name == "" || name == h.user.name {
		return h.user, nil, nil
	}
	user, ok := findAccount(func(a account) bool { return a.name == name })
	if !ok {
		return user, nil, fmt.Errorf("%w: %s", guest.ErrNoUser, name)
	}
	if os.Getuid() != 0 {
		return user, nil, fmt.Errorf("run a command as %s: %w", name, fs.ErrPermission)
	}
	return user, &syscall.Credential{Uid: user.uid, Gid: user.gid, Groups: groupsOf(user)}, nil
}

// Shell returns the login shell of a user, empty for our own.
func (h *Host) Shell(name string) string {
	h.once.Do(h.init)
	if user, _, err := h.account(name); err == nil {
		return user.shell
	}
	return "/bin/sh"
}

// ourselves returns the account this process runs as. What /etc/passwd doesn't
// say has defaults: a root file system may have none.
func ourselves(home string) account {
	uid := uint32(os.Getuid())
	user, ok := findAccount(func(a account) bool { return a.uid == uid })
	if !ok {
		user = account{name: strconv.Itoa(int(uid)), uid: uid, gid: uint32(os.Getgid())}
		if uid == 0 {
			user.name = "root"
		}
	}
	if home != "" {
		user.home = home
	}
	if user.shell == "" {
		user.shell = "/bin/sh"
	}
	return user
}

func startDir(user account) string {
	if info, err := os.Stat(user.home); err == nil && info.IsDir() {
		return user.home
	}
	return "/"
}

func findAccount(is func(account) bool) (found account, ok bool) {
	eachLine("/etc/passwd", 7, func(f []string) bool {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return true
		}
		found = account{f[0], uint32(uid), uint32(gid), f[5], f[6]}
		ok = is(found)
		return !ok
	})
	return found, ok
}

func groupsOf(user account) []uint32 {
	groups := []uint32{user.gid}
	eachLine("/etc/group", 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && slices.Contains(strings.Split(f[3], ","), user.name) {
			groups = append(groups, uint32(gid))
		}
		return true
	})
	return groups
}

// eachLine calls use with the fields of each line that has n of them, until it
// returns false.
func eachLine(path string, n int, use func(fields []string) bool) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Split(lines.Text(), ":"); len(fields) == n && !use(fields) {
			return
		}
	}
}

// environment returns the defaults overlaid with what cmd brings; the last of
// several values counts.
func environment(user account, cmd Cmd, mark string) []string {
	base := []string{
		defaultPath, "HOME=" + user.home, "USER=" + user.name, "LOGNAME=" + user.name,
		"SHELL=" + user.shell, "LANG=C.UTF-8",
	}
	if cmd.TTY && cmd.Term != "" {
		base = append(base, "TERM="+cmd.Term)
	}
	base = append(append(base, cmd.Env...), markName+"="+mark)
	if len(cmd.Env) == 0 {
		return base
	}
	last := make(map[string]int, len(base))
	for i, v := range base {
		name, _, _ := strings.Cut(v, "=")
		last[name] = i
	}
	out := base[:0]
	for i, v := range base {
		if name, _, _ := strings.Cut(v, "="); last[name] == i {
			out = append(out, v)
		}
	}
	return out
}

// lookPath finds the program name on the PATH of env, or from dir if it has a
// slash, as a shell would.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if err := executable(path); err != nil {
			return "", fmt.Errorf("%w: %s: %v", guest.ErrNoCommand, name, err)
		}
		return path, nil
	}
	var why error = syscall.ENOENT
	for _, v := range env {
		list, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, in := range filepath.SplitList(list) {
			if !filepath.IsAbs(in) {
				in = filepath.Join(dir, in)
			}
			path := filepath.Join(in, name)
			err := executable(path)
			if err == nil {
				return path, nil
			}
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				why = err
			}
		}
	}
	if errors.Is(why, syscall.ENOENT) {
		return "", fmt.Errorf("%w: %s", guest.ErrNoCommand, name)
	}
	return "", fmt.Errorf("%w: %s: %v", guest.ErrNoCommand, name, why)
}

func executable(path string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return syscall.EISDIR
	}
	if st.Mode&0o111 == 0 {
		return syscall.EACCES
	}
	return nil
}
