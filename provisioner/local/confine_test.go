package local

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// What agentlab-guest set up can't be undone by root inside, in a user
// namespace of its own either.
func TestConfined(t *testing.T) {
	p := newPlace(t, programs(t))
	t.Run("own", func(t *testing.T) { p.confined(t, p.create(t, testSpec("sb-confined"))) })
	t.Run("in-pool", func(t *testing.T) { p.confined(t, p.pooled(t, "sb-pool")) })
	t.Run("claimed", func(t *testing.T) {
		ref := p.pooled(t, "sb-claimed")
		p.rekey(t, ref, claim(ref), nil)
		p.confined(t, ref)
		if got, _ := p.sh(t, ref, "grep -c '^CapPrm:.*[2367abef].....$' /proc/1/status"); got != "0" {
			t.Error("process 1 keeps what it needed to be renamed, though there is a command")
		}
	})
}

func (p *place) confined(t *testing.T, ref provisioner.Ref) {
	for _, tt := range []struct{ name, command, want string }{
		{"shared-directory-hidden", "ls -A /run/agentlab", ""},
		{"no-cgroups-in-reach", "find / -xdev -name pids.max 2>/dev/null; ls -A /sys/fs/cgroup 2>/dev/null", ""},
		{"no-mount", "mount -t tmpfs none /mnt 2>/dev/null; grep -c ' /mnt ' /proc/mounts", "0"},
		{"no-cgroup-mount", "mkdir /tmp/c; mount -t cgroup -o pids none /tmp/c 2>/dev/null; ls -A /tmp/c", ""},
		{"no-mount-in-namespaces", "mkdir /tmp/d; unshare -Urm --propagation unchanged sh -c 'mount -t tmpfs none /tmp/d && echo mounted; mount -t cgroup -o pids none /tmp/d && echo mounted' 2>/dev/null; echo end", "end"},
		{"namespace-made", "unshare -Urm --propagation unchanged id -u", "0"},
		{"no-admin", "grep -c '^CapBnd:.*[2367abef].....$' /proc/self/status", "0"},
		{"no-other-name", "hostname another 2>/dev/null; uname -n | grep -c another", "0"},
		{"init-not-killed", "kill -9 1 2>/dev/null || echo refused", "refused"},
		{"init-not-stopped", "kill -STOP 1 2>/dev/null || echo refused", "refused"},
		{"init-not-queued", `perl -e 'syscall(62, 1, 19) == -1 && print "refused"'`, "refused"},
		{"init-survives-all", "trap '' TERM; kill -TERM -1 2>/dev/null; echo alive", "alive"},
		{"others-killed", "sh -c 'sleep 100 & kill -9 $!; wait $!; echo $?' 2>/dev/null", "137"},
		{"init-files", "for f in /proc/1/fd/* /proc/1/task/*/fd/* /proc/1/cwd/run/agentlab /proc/1/root/run/agentlab; do [ -d $f/ ] && ls -A $f/; done | grep -c ssh.sock", "0"},
		{"init-memory", "head -c 1 /proc/1/mem 2>/dev/null | wc -c", "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := p.sh(t, ref, tt.command); got != tt.want {
				t.Errorf("%s\nprints %q, want %q", tt.command, got, tt.want)
			}
		})
	}
	p.wantRunning(t, ref.Sandbox, true)
}

// Memory that is taken hits the machine's limit, also when the command that
// started who takes it has ended long ago.
func TestMemoryInside(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.create(t, testSpec("sb-memory"))
	t.Run("marks-the-command", func(t *testing.T) {
		if _, exit := p.sh(t, ref, "exec perl -e '$x = \"x\" x (1 << 30)'"); !exit.OOM {
			t.Errorf("a command that took 1 GB ended with %+v, want OOM", exit)
		}
	})
	t.Run("left-behind", func(t *testing.T) {
		p.sh(t, ref, "setsid perl -e 'sleep 1; $x = \"x\" x (1 << 30); sleep 1000' >/dev/null 2>&1 & echo $! > /workspace/pid")
		p.awaitSh(t, ref, "pgrep -c perl; true", "0")
	})
	p.wantRunning(t, ref.Sandbox, true)
}

// What gVisor itself needs for a machine is no memory inside. The wall outside
// stops it: a cgroup, or Guard.
func TestMemoryOutside(t *testing.T) {
	p := newPlace(t, programs(t))
	guard, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Guard(guard) }()
	t.Cleanup(func() { stop(); <-ended })
	spec := testSpec("sb-sockets")
	spec.Papers.MemoryMB = spec.MemoryMB // Guard knows it from the papers
	ref := p.create(t, spec)
	neighbour := p.create(t, testSpec("sb-neighbour"))
	conn, err := p.Dial(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sockets = `perl -MSocket -MIO::Handle -e 'while (socketpair(my $x, my $y, AF_UNIX, SOCK_STREAM, 0)) { setsockopt($x, SOL_SOCKET, SO_SNDBUF, 4 << 20); $x->blocking(0); 1 while syswrite($x, "x" x 65536); push @k, $x, $y } sleep 1000'`
	if exit, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", sockets}}, guest.Streams{}); err == nil {
		t.Fatalf("the sockets fit: %+v", exit)
	}
	p.awaitDead(t, ref)
	p.wantRunning(t, neighbour.Sandbox, true)
}

// awaitSh runs command until it prints want.
func (p *place) awaitSh(t *testing.T, ref provisioner.Ref, command, want string) {
	t.Helper()
	for t.Context().Err() == nil {
		if got, _ := p.sh(t, ref, "sleep 1.5; "+command); strings.TrimSpace(got) == want {
			return
		}
	}
	t.Errorf("%s never printed %s", command, want)
}

// awaitDead waits until the sandbox of a machine is gone.
func (p *place) awaitDead(t *testing.T, ref provisioner.Ref) {
	t.Helper()
	for t.Context().Err() == nil {
		if running, err := p.st.running(ref.Sandbox); err != nil || !running {
			return
		}
		time.Sleep(alivePoll)
	}
	t.Errorf("%s is still running", ref.Sandbox)
}
