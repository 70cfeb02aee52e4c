package local

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
)

// patience bounds what waits for a real machine, on a slow host.
const patience = 2 * time.Minute

// pooled makes a machine ahead that is destroyed at the end of the test.
func (p *place) pooled(t testing.TB, id string) provisioner.Ref {
	t.Helper()
	spec := testSpec(id)
	spec.Pooled = true
	return p.create(t, spec)
}

// claim returns the spec by which a machine is handed over for the first time.
func claim(ref provisioner.Ref) provisioner.Spec {
	spec := testSpec(ref.Sandbox)
	spec.Hostname, spec.Papers.Owner, spec.Papers.Keys = "claimed", "local:1001", 1
	return spec
}

// rekey hands a machine over and returns the channel, which is closed at the end.
func (p *place) rekey(t *testing.T, ref provisioner.Ref, spec provisioner.Spec, conn guest.Conn) guest.Conn {
	t.Helper()
	next, err := p.Rekey(t.Context(), ref, spec, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// dialled opens a channel that is closed at the end.
func (p *place) dialled(t *testing.T, ref provisioner.Ref) *sshguest.Conn {
	t.Helper()
	conn, err := p.Dial(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*sshguest.Conn)
}

// wantRefused checks that a machine was not handed over, and is as it was.
func (p *place) wantRefused(t *testing.T, conn guest.Conn, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("error %v, want one with %q", err, why)
	}
	if _, err := conn.Processes().List(t.Context()); err != nil {
		t.Errorf("the channel from before: %v", err)
	}
	list, err := p.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Papers.Keys != 0 || list[0].Papers.Owner != "" {
		t.Errorf("List: %+v, %v", list, err)
	}
	if drafts, err := filepath.Glob(filepath.Join(p.st.machinesDir(), "*", draftLink)); err != nil || len(drafts) > 0 {
		t.Errorf("papers that were not put in force are left: %v, %v", drafts, err)
	}
}

// A guest takes no keys that are not the next ones, nor on any but its own word.
func TestGuestGuardsItsKeys(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-guards")
	now := testSpec("sb-guards")
	conn := p.dialled(t, ref)
	names := "uname -n; cat /etc/machine-id; ls -A /var/log/agentlab"
	before, _ := p.sh(t, ref, names)
	after, err := p.channel(p.st, "sb-guards", 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(to *guest.Rekey){
		"earlier-generation":         func(to *guest.Rekey) { to.Generation = -1 },
		"same-generation-other-keys": func(to *guest.Rekey) { to.Generation = 0 },
		"same-host-key-other-client": func(to *guest.Rekey) {
			of, err := p.told(t, now)
			if err != nil {
				t.Fatal(err)
			}
			to.Generation, to.HostKey = 0, of.HostKey
		},
		"short-host-key":   func(to *guest.Rekey) { to.HostKey = to.HostKey[1:] },
		"short-client-key": func(to *guest.Rekey) { to.ClientKey = to.ClientKey[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			to, err := p.told(t, claim(ref))
			if err != nil {
				t.Fatal(err)
			}
			edit(&to)
			_, err = conn.Rekey(t.Context(), to, after, func() {})
			p.wantRefused(t, conn, err, "keys")
			if got, _ := p.sh(t, ref, names); got != before {
				t.Errorf("it was\n%s\nand is\n%s", before, got)
			}
		})
	}
	to, err := p.told(t, now)
	if err != nil {
		t.Fatal(err)
	}
	same, err := p.channel(p.st, "sb-guards", 0)
	if err != nil {
		t.Fatal(err)
	}
	again, err := conn.Rekey(t.Context(), to, same, func() {})
	if err != nil {
		t.Fatalf("the same generation with the same keys: %v", err)
	}
	_ = again.Close()
}

// What still runs, whoever started it, would be in its next owner's machine.
func TestRekeyWhileSomethingRuns(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-busy")
	conn := p.dialled(t, ref)
	for name, command := range map[string]string{
		"command":     "echo up; exec sleep 4713",
		"left-behind": "setsid sleep 4713 >/dev/null 2>&1 & echo up",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := guest.Cmd{Args: []string{"sh", "-c", command}}
			ran, _, err := conn.Processes().Start(t.Context(), cmd, guest.StartOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.Processes().Read(t.Context(), ran.ID, guest.ReadRequest{Wait: patience, Until: "up"}); err != nil {
				t.Fatal(err)
			}
			_, err = p.Rekey(t.Context(), ref, claim(ref), p.dialled(t, ref))
			p.wantRefused(t, conn, err, "still runs")
			p.sh(t, ref, "pkill -KILL sleep")
			p.awaitSh(t, ref, "pgrep -c sleep; true", "0")
		})
	}
	next := p.rekey(t, ref, claim(ref), conn)
	first, _, err := next.Processes().Start(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.StartOptions{Wait: patience})
	if err != nil || first.ID != "p_1" {
		t.Errorf("the first process of the new owner: %+v, %v", first, err)
	}
}

// Nobody gets in with keys from before, or stays in.
func TestKeysFromBeforeAreGoodForNothing(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-before")
	before, err := p.channel(p.st, ref.Sandbox, 0)
	if err != nil {
		t.Fatal(err)
	}
	after, err := p.channel(p.st, ref.Sandbox, 1)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() net.Conn {
		nc, err := before.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}
	open := func(nc net.Conn, cfg sshguest.Config) (ssh.Conn, error) {
		sc, channels, requests, err := ssh.NewClientConn(nc, "guest", cfg.ClientConfig())
		if err == nil {
			go ssh.DiscardRequests(requests)
			go func() {
				for range channels { // it opens none
				}
			}()
		}
		return sc, err
	}
	inside, err := open(connect(), before)
	if err != nil {
		t.Fatal(err)
	}
	early := connect()
	p.rekey(t, ref, claim(ref), nil)
	cut := make(chan struct{})
	go func() { _ = inside.Wait(); close(cut) }()
	select {
	case <-cut:
	case <-time.After(patience):
		t.Error("an SSH connection from before is still open")
	}
	mixed := after
	mixed.Signer = before.Signer
	for _, tt := range []struct {
		name string
		nc   net.Conn
		cfg  sshguest.Config
	}{{"host key", connect(), before}, {"client key", connect(), mixed}, {"connection", early, before}} {
		if _, err := open(tt.nc, tt.cfg); err == nil {
			t.Errorf("the %s from before opens the door", tt.name)
		}
	}
	if _, err := open(connect(), after); err != nil {
		t.Errorf("the new keys: %v", err)
	}
}

// A channel of another machine is not taken for that of the one which is handed over.
func TestRekeyOverChannelOfAnother(t *testing.T) {
	p := newPlace(t, programs(t))
	ref, other := p.pooled(t, "sb-one"), p.pooled(t, "sb-other")
	before, _ := p.sh(t, other, "uname -n")
	next := p.rekey(t, ref, claim(ref), p.dialled(t, other))
	if _, err := next.Processes().List(t.Context()); err != nil {
		t.Error(err)
	}
	if got, _ := p.sh(t, ref, "uname -n"); got != "claimed" {
		t.Errorf("the machine is %q", got)
	}
	if got, _ := p.sh(t, other, "uname -n"); got != before {
		t.Errorf("the other was %q and is %q", before, got)
	}
}

// A machine that was not made for it, and papers that say what it is not.
func TestRekeyRefusesWhatMachineIsNot(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.create(t, testSpec("sb-own"))
	conn := p.dialled(t, ref)
	_, err := p.Rekey(t.Context(), ref, claim(ref), p.dialled(t, ref))
	p.wantRefused(t, conn, err, "host name")
	spec := claim(ref)
	spec.Papers.MemoryMB = 512
	_, err = p.Rekey(t.Context(), ref, spec, p.dialled(t, ref))
	p.wantRefused(t, conn, err, "512 MB")
	if !errors.Is(err, provisioner.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

// Wherever a hand-over breaks off, another process brings it to its end.
func TestRekeyIsInterrupted(t *testing.T) {
	p := newPlace(t, programs(t))
	for _, step := range []string{"local rekey guest", "local write papers", "local name papers"} {
		for _, done := range []bool{false, true} {
			name := strings.ReplaceAll(step, " ", "-") + map[bool]string{false: "-before", true: "-after"}[done]
			t.Run(name, func(t *testing.T) {
				ref := p.pooled(t, "sb-"+strings.ToLower(name))
				dies := p.restarted()
				dies.Step = func(name string, do func() error) error {
					if name != step {
						return do()
					}
					if done {
						if err := do(); err != nil {
							t.Error(err)
						}
					}
					return errors.New("it dies here")
				}
				if _, err := dies.Rekey(t.Context(), ref, claim(ref), nil); err == nil {
					t.Fatal("it did not die")
				}
				after := &place{Provisioner: p.restarted(), st: p.st}
				after.rekey(t, ref, claim(ref), nil)
				if got, _ := after.sh(t, ref, "uname -n"); got != "claimed" {
					t.Errorf("the machine is %q", got)
				}
				if got, err := after.bundle(p.st, ref.Sandbox); err != nil || !cmp.Equal(got.papers, claim(ref).Papers) {
					t.Errorf("papers %+v, %v", got.papers, err)
				}
			})
		}
	}
}

// restarted returns a provisioner over the same place, as a new process has it.
func (p *place) restarted() *Provisioner {
	return &Provisioner{Dir: p.Dir, Key: p.Key, Instance: p.Instance, Runsc: p.Runsc, Guest: p.Guest}
}

// Papers that were changed are in force alone: if they can't be what we wrote, the
// machine is left alone, whatever it was made with.
func TestPapersThatWereChanged(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-changed")
	papers := testSpec("sb-changed").Papers
	papers.Owner = "alice"
	link := filepath.Join(p.st.machineDir(ref.Sandbox), papersLink)
	if err := os.Symlink("of a crash", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := p.Relabel(t.Context(), ref, papers); err != nil {
		t.Fatal(err)
	}
	if list, err := p.List(t.Context()); err != nil || len(list) != 1 || list[0].Papers != papers {
		t.Fatalf("List: %+v, %v", list, err)
	}
	sealed, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(sealed[:len(sealed)-1], link)); err != nil {
		t.Fatal(err)
	}
	if list, err := p.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List of what is not ours: %+v, %v", list, err)
	}
	if err := p.Destroy(t.Context(), ref); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("Destroy of what is not ours: %v", err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(sealed, link)); err != nil {
		t.Fatal(err)
	}
}

// told is what the guest of a machine that is handed over by spec is told.
func (p *place) told(t *testing.T, spec provisioner.Spec) (guest.Rekey, error) {
	t.Helper()
	keys, err := p.channelKeys(spec.Papers.Sandbox, spec.Papers.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return p.handover(spec, keys)
}

// A machine-id that was longer, as that of another root may be, leaves nothing.
func TestRekeyReplacesALongerMachineID(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-longer")
	if _, exit := p.sh(t, ref, "seq 100 > /etc/machine-id"); exit.Code != 0 {
		t.Fatal(exit)
	}
	next := p.rekey(t, ref, claim(ref), nil)
	var out strings.Builder
	exit, err := next.Run(t.Context(), guest.Cmd{Args: []string{"cat", "/etc/machine-id"}}, guest.Streams{Stdout: &out})
	if id, tail, _ := strings.Cut(out.String(), "\n"); err != nil || exit.Code != 0 || len(id) != 32 || tail != "" {
		t.Errorf("machine-id %q, exit %+v, %v: want one line of 32", out.String(), exit, err)
	}
}
