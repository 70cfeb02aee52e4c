package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// trouble makes calls and tasks of a Create fail, the first so many times.
type trouble struct {
	call  string        // that fails,
	fault pvetest.Fault // so
	task  string        // or the type of task that ends
	exit  string        // so
	times int
}

// arm lets it happen from now on, and returns how often it did.
func (tr trouble) arm(l *lab, tasks *taskFaults) (happened func() int) {
	var mu sync.Mutex
	n := 0
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if n >= tr.times {
			return false
		}
		n++
		return true
	}
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if tr.call == "" || callName(r) != tr.call || !next() {
			return nil
		}
		return &tr.fault
	})
	tasks.set(func(typ, _ string) string {
		if tr.task == "" || typ != tr.task || !next() {
			return ""
		}
		return tr.exit
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// taskFaults is a TaskFail that may change.
type taskFaults struct {
	mu   sync.Mutex
	fail func(typ, id string) string
}

func (f *taskFaults) set(fail func(typ, id string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *taskFaults) TaskFail(typ, id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return ""
	}
	return f.fail(typ, id)
}

// troubles are all the steps of a Create in all the ways that they can fail,
// with an error.
func troubles() map[string]trouble {
	const lock = "can't lock file '/var/lock/qemu-server/lock-9000.conf' - got timeout"
	all := map[string]trouble{}
	for _, call := range []string{"POST clone", "GET config", "PUT config", "PUT resize", "POST start"} {
		name := strings.ReplaceAll(call, " ", "-")
		all[name+"/refused"] = trouble{call: call, fault: pvetest.Fault{Status: 500, Reason: "unable to write"}}
		if call != "GET config" {
			all[name+"/lock-timeout"] = trouble{call: call, fault: pvetest.Fault{Status: 500, Reason: lock}}
		}
		if call != "POST clone" { // a worker that could not be started has done nothing
			all[name+"/failed-after"] = trouble{call: call, fault: pvetest.Fault{Status: 500, Reason: "unable to write", After: true}}
		}
	}
	for _, task := range []string{"qmclone", "resize", "qmstart"} {
		all[task+"/failed"] = trouble{task: task, exit: "something broke"}
		all[task+"/lock-timeout"] = trouble{task: task, exit: lock}
		all[task+"/died"] = trouble{task: task, exit: "unexpected status"}
		all[task+"/no-space"] = trouble{task: task, exit: "unable to write: No space left on device"}
	}
	return all
}

// A step that fails once is undone once, and the machine is made in the end. One
// that always fails is tried twice on each node at most, and nothing is left.
// Machines of others are there all the time.
func TestEveryStepFails(t *testing.T) {
	for name, tr := range troubles() {
		for _, times := range []int{1, 1000} {
			t.Run(fmt.Sprintf("%s/%d", name, times), func(t *testing.T) {
				tasks := &taskFaults{}
				l := newLab(t, &pvetest.Server{TaskFail: tasks.TaskFail})
				l.addNodes(1)
				l.srv.Edit(func(c *pvetest.Cluster) {
					for id := testRange.First; id < testRange.First+20; id++ {
						c.AddVM("pve", id, "box-1").Running = true
					}
				})
				foreign := l.configs()
				tr.times = times
				p := l.provisioner()
				happened := tr.arm(l, tasks)
				m, err := p.Create(t.Context(), testSpec(1))
				tries := happened()
				if calls := l.counted(); times == 1 && calls["DELETE "] > 1 {
					t.Errorf("undone %d times", calls["DELETE "])
				}
				trouble{}.arm(l, tasks)
				switch {
				case times == 1 && (err != nil || tries != 1):
					t.Errorf("after failing %d times: %v", tries, err)
				case times > 1 && err == nil:
					t.Errorf("succeeds after failing %d times", tries)
				case times > 1 && (tries > 2*2 || !strings.Contains(err.Error(), "create sb-1: ")):
					t.Errorf("tried %d times: %v", tries, err)
				}
				if err == nil {
					if err := p.Destroy(t.Context(), m.Ref); err != nil {
						t.Error(err)
					}
				}
				after := l.configs()
				if diff := cmp.Diff(foreign, after); diff != "" {
					t.Errorf("left over, or of others and touched (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// A task that hangs is ended when the caller gives up, and what it made goes.
func TestTaskHangs(t *testing.T) {
	for _, task := range []string{"qmclone", "resize", "qmstart"} {
		t.Run(task, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{TaskTime: map[string]time.Duration{task: -1}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			looks := 0
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) == "GET status" && strings.Contains(r.URL.Path, ":"+task+":") {
					if looks++; looks == 3 {
						cancel()
					}
				}
				return nil
			})
			if _, err := l.provisioner().Create(ctx, testSpec(1)); !errors.Is(err, context.Canceled) {
				t.Errorf("Create: %v", err)
			}
			l.wantNothingLeft(t)
		})
	}
}

// The node goes down between two steps: the machine can't be removed now, which
// is said, and can be when the node is back.
func TestNodeGoesDownInBetween(t *testing.T) {
	for _, at := range []string{"GET config", "PUT config", "PUT resize", "POST start"} {
		t.Run(strings.ReplaceAll(at, " ", "-"), func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			l.addNodes(1)
			l.srv.Edit(func(c *pvetest.Cluster) { // the entry stays up, the other is chosen
				grant(c, "/nodes", "Sys.Audit")
				c.Nodes[1].Memory *= 2
			})
			cloned := false
			l.onCall(func(r *http.Request) *pvetest.Fault {
				cloned = cloned || callName(r) == "POST clone"
				if cloned && callName(r) == at {
					l.srv.Edit(func(c *pvetest.Cluster) { c.Nodes[1].Down = true })
				}
				return nil
			})
			spec := testSpec(1)
			spec.Intend = func(_ context.Context, handle string) error { spec.Handle = handle; return nil }
			if _, err := l.provisioner().Create(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "undo: ") {
				t.Errorf("Create: %v", err)
			}
			l.onCall(nil)
			l.srv.Edit(func(c *pvetest.Cluster) { c.Nodes[1].Down = false })
			if err := l.provisioner().Destroy(t.Context(), provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: spec.Handle}); err != nil {
				t.Error(err)
			}
			l.wantNothingLeft(t)
		})
	}
}

// A machine that runs is not taken for rubbish because its config could not be
// read for a moment.
func TestCreateKeepsWhatItCanNotRead(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	before := l.configs()
	tr := trouble{call: "GET config", fault: pvetest.Fault{Status: http.StatusInternalServerError, Reason: "got timeout"}, times: 1}
	happened := tr.arm(l, &taskFaults{})
	if again, err := p.Create(t.Context(), testSpec(1)); err == nil || happened() != 1 {
		t.Errorf("after %d failures Create returns %+v", happened(), again)
	}
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("machines (-before +after):\n%s", diff)
	}
	if again, err := p.Create(t.Context(), testSpec(1)); err != nil || again.Ref != m.Ref {
		t.Errorf("later Create returns %+v, %v, want %+v", again, err, m)
	}
}
