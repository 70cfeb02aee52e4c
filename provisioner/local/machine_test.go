package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
)

// programsEnv names the directory with runsc and agentlab-guest when these
// tests run again as an ordinary user, who can't build them.
const programsEnv = "AGENTLAB_TEST_PROGRAMS"

// TestMain gives all tests the runsc of make build and an agentlab-guest of
// this tree, in a directory that everybody may use.
func TestMain(m *testing.M) {
	if os.Getenv(programsEnv) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "agentlab-local-test")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), makePrograms(dir), os.Setenv(programsEnv, dir))
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func makePrograms(dir string) error {
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	module := filepath.Dir(strings.TrimSpace(string(gomod)))
	runsc, err := os.ReadFile(filepath.Join(module, "bin", "runsc"))
	if err != nil {
		return fmt.Errorf("%w: run make build first", err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./cmd/agentlab-guest")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build agentlab-guest: %w\n%s", err, out)
	}
	return os.WriteFile(filepath.Join(dir, "runsc"), runsc, 0o755)
}

func programs(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(programsEnv)
	if dir == "" {
		t.Fatal("TestMain made no programs")
	}
	return dir
}

// place is a directory with machines and one provisioner on it.
type place struct {
	*Provisioner
	st *state
}

func newPlace(t testing.TB, bin string) *place {
	t.Helper()
	p := &Provisioner{
		Dir: tempDir(t), Key: testKey(t), Instance: testInstance,
		Runsc: filepath.Join(bin, "runsc"), Guest: filepath.Join(bin, "agentlab-guest"),
	}
	st, err := p.state()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, left := range leftovers(t, st) {
			t.Errorf("left over: %s", left)
		}
	})
	return &place{Provisioner: p, st: st}
}

// create makes a machine that is destroyed at the end of the test.
func (p *place) create(t testing.TB, spec provisioner.Spec) provisioner.Ref {
	t.Helper()
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.destroy(t, m.Ref) })
	return m.Ref
}

func (p *place) destroy(t testing.TB, ref provisioner.Ref) {
	t.Helper()
	if err := p.Destroy(context.WithoutCancel(t.Context()), ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

// sh runs a shell command in a machine and returns all its output and its exit.
func (p *place) sh(t *testing.T, ref provisioner.Ref, command string) (string, guest.Exit) {
	t.Helper()
	out, exit, err := p.try(t, ref, command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out, exit
}

// try is sh for a command that may not even start.
func (p *place) try(t *testing.T, ref provisioner.Ref, command string) (string, guest.Exit, error) {
	t.Helper()
	conn, err := p.Dial(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var out bytes.Buffer
	exit, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"/bin/sh", "-c", "exec 2>&1\n" + command}}, guest.Streams{Stdout: &out})
	return strings.TrimSpace(out.String()), exit, err
}

// leftovers names all that exists of machines in a Dir: processes, mounts,
// cgroups and files.
func leftovers(t testing.TB, st *state) []string {
	t.Helper()
	var left []string
	procs, err := st.processes()
	if err != nil {
		t.Fatal(err)
	}
	for id, ps := range procs {
		left = append(left, fmt.Sprintf("processes of %s: %v", id, ps))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, st.dir) {
			left = append(left, "mount "+line)
		}
	}
	for _, pattern := range []string{
		filepath.Join(st.machinesDir(), "*"), filepath.Join(st.machinesDir(), ".*"),
		filepath.Join(st.runscDir(), "*"), filepath.Join(st.rootfsDir(), ".*"),
		filepath.Join(cgroupRoot, "*", cgroupParent, st.cgroupName("*")), filepath.Join(cgroupRoot, cgroupParent, st.cgroupName("*")),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, paths...)
	}
	return left
}

// setPapers puts other papers on a machine.
func setPapers(t *testing.T, st *state, id, sealed string) {
	t.Helper()
	path := filepath.Join(st.machineDir(id), configFile)
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Annotations[papersAnnotation] = sealed
	if err := ignoreGone(os.Remove(filepath.Join(st.machineDir(id), papersLink))); err != nil {
		t.Fatal(err)
	}
	if config, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	bin := programs(t)
	provisionertest.Run(t, func(t *testing.T) provisionertest.Backend {
		dir := tempDir(t)
		open := func(_ *testing.T, instance string, key provisioner.Key) provisioner.Provisioner {
			return &Provisioner{
				Dir: dir, Key: key, Instance: instance,
				Runsc: filepath.Join(bin, "runsc"), Guest: filepath.Join(bin, "agentlab-guest"),
			}
		}
		st := &state{dir: dir, uid: os.Geteuid()}
		return provisionertest.Backend{
			Open:      open,
			Spec:      testSpec(""),
			SetPapers: func(t *testing.T, ref provisioner.Ref, sealed string) { setPapers(t, st, ref.Sandbox, sealed) },
			Leftovers: func(t *testing.T) []string { return leftovers(t, st) },
		}
	})
}

// TestAsOrdinaryUser runs all other tests that make machines again, as a user
// who is not root and has no entry anywhere.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("these tests run as an ordinary user already")
		return
	}
	const uid = 48_211
	bin := programs(t)
	test, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	home := tempDir(t)
	self := filepath.Join(filepath.Dir(home), "local.test")
	if err := os.WriteFile(self, test, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, uid, uid)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.failfast")
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, programsEnv + "=" + bin}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", uid, err, out)
	}
}

// TestIsolation looks at the host from inside.
func TestIsolation(t *testing.T) {
	p := newPlace(t, programs(t))
	t.Setenv("AGENTLAB_SECRET", "host-environment")
	spec := testSpec("sb-iso")
	spec.Hostname = "box"
	ref := p.create(t, spec)
	for _, tt := range []struct{ name, command, want string }{
		{"root-inside", "id -u", "0"},
		{"hostname", "hostname", "box"},
		{"environment", "env | grep -c host-environment", "0"},
		{"environment-of-init", "cat /proc/1/environ 2>/dev/null | tr '\\0' '\\n' | grep -c -e host-environment -e TMPDIR", "0"},
		{"homes", "ls -A /home /root /opt /srv | grep -v :$ | tr -d '\\n'", ""},
		{"shadow", "cat /etc/shadow 2>&1", "cat: /etc/shadow: No such file or directory"},
		{"users", "cut -d: -f1 /etc/passwd | xargs", "root daemon nobody"},
		{"docker-socket", "ls /var/run/docker.sock 2>&1 | grep -c 'No such'", "1"},
		{"state-directory", "ls " + p.Dir + " 2>&1 | grep -c 'No such'", "1"},
		{"host-paths-in-mounts", "grep -c " + p.Dir + " /proc/mounts /proc/self/mountinfo | xargs", "/proc/mounts:0 /proc/self/mountinfo:0"},
		{"host-paths-in-proc", "cat /proc/cmdline /proc/1/cmdline /proc/*/cgroup | tr '\\0' ' ' | grep -c -e " + p.Dir + " -e sb-iso", "0"},
		{"processes", "ls /proc | grep -c '^[0-9]' | awk '{print ($1 < 10)}'", "1"},
		{"interfaces", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | xargs", "lo"},
		{"usr-read-only", "touch /usr/x 2>&1 | grep -c 'Read-only file system'", "1"},
		{"etc-is-ours", "echo x > /etc/x && cat /etc/x", "x"},
		{"tmp-on-disk", "df --output=target /tmp | tail -1", "/"},
		{"shared-memory-small", "df -m --output=size /dev/shm | tail -1 | tr -d ' '", "64"},
		{"disk-size", "df -m --output=size / | tail -1 | tr -d ' '", "200"},
		{"awk-alternative", "awk 'BEGIN {print 1+1}'", "2"},
		{"null-device", "echo x > /dev/null && echo ok", "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := p.sh(t, ref, tt.command); got != tt.want {
				t.Errorf("%s\nprints %q, want %q", tt.command, got, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(p.st.machineDir(ref.Sandbox), runDir, guest.SeedFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the seed, with the host key, is still there: %v", err)
	}
}

// A guest that puts something else in the place of its socket must not make
// us talk to the host.
func TestSocketThatIsAnother(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.create(t, testSpec("sb-sock"))
	p.sh(t, ref, "true")
	socket := filepath.Join(p.st.machineDir(ref.Sandbox), runDir, guest.Socket)
	victim := filepath.Join(t.TempDir(), "victim")
	l, err := net.Listen("unix", victim)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan struct{}, 1)
	go func() {
		if _, err := l.Accept(); err == nil {
			accepted <- struct{}{}
		}
	}()
	for name, put := range map[string]func() error{
		"link": func() error { return os.Symlink(victim, socket) },
		"file": func() error { return os.WriteFile(socket, nil, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(socket); err != nil {
				t.Fatal(err)
			}
			if err := put(); err != nil {
				t.Fatal(err)
			}
			_, err := p.Dial(t.Context(), ref)
			if !errors.Is(err, guest.ErrUnreachable) || !errors.Is(err, errSocket) {
				t.Errorf("Dial: %v", err)
			}
			select {
			case <-accepted:
				t.Error("a socket of the host was dialled")
			default:
			}
		})
	}
}
