package template

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func matches(pattern, text string) bool {
	return regexp.MustCompile("(?s)" + pattern).MatchString(text)
}

// distinct returns the calls of a build by name, each once.
func distinct(t *testing.T, prepare func(*Builder)) []string {
	t.Helper()
	l := newLab(t, &pvetest.Server{})
	b := l.builder()
	prepare(b)
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	return slices.Compact(slices.Sorted(slices.Values(l.called())))
}

// once lets a fault happen to the first call of that name.
func once(name string, fault pvetest.Fault, also func()) func(*http.Request) *pvetest.Fault {
	done := false
	return func(r *http.Request) *pvetest.Fault {
		if done || callName(r) != name {
			return nil
		}
		done = true
		also()
		return &fault
	}
}

func trying(*Builder) {}

func faults(t *testing.T, prepare func(*Builder), run func(t *testing.T, call string, after bool)) {
	for _, call := range distinct(t, prepare) {
		for _, after := range []bool{false, true} {
			if after && strings.HasPrefix(call, "GET ") {
				continue // it changes nothing
			}
			t.Run(fmt.Sprintf("%s-after-%v", strings.ReplaceAll(call, " ", "-"), after), func(t *testing.T) {
				t.Parallel()
				run(t, call, after)
			})
		}
	}
}

// Whatever call breaks once, before or after it took effect, there is a template
// in the end, or nothing.
func TestOneFault(t *testing.T) {
	faults(t, trying, func(t *testing.T, call string, after bool) {
		l := newLab(t, &pvetest.Server{})
		l.onCall(once(call, pvetest.Fault{Drop: true, After: after}, func() {}))
		if _, err := l.builder().Build(l.ctx()); err != nil {
			t.Logf("error %v", err)
			l.empty()
			return
		}
		l.complete()
	})
}

// A call that is refused fails the build, and leaves nothing.
func TestOneRefusal(t *testing.T) {
	for _, call := range distinct(t, trying) {
		t.Run(strings.ReplaceAll(call, " ", "-"), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, &pvetest.Server{})
			l.onCall(once(call, pvetest.Fault{Status: 500, Reason: "refused by the test"}, func() {}))
			_, err := l.builder().Build(l.ctx())
			switch {
			case err == nil:
				l.complete() // it was not needed
			case !strings.Contains(err.Error(), "refused by the test") && !strings.Contains(err.Error(), "await task"):
				t.Errorf("error %v", err)
			case strings.HasPrefix(err.Error(), "tidy: "), strings.Contains(err.Error(), "remove pool"), strings.Contains(err.Error(), "verify: destroy"):
				// What could not be removed is named.
			default:
				l.empty()
			}
		})
	}
}

// Whatever call breaks once while a build that failed is undone, nothing is left.
func TestOneFaultWhileUndoing(t *testing.T) {
	fails := func(t *testing.T) *lab { // in clean, with exec-status as its last call
		l := newLab(t, &pvetest.Server{})
		l.program("cloud-init", "")
		return l
	}
	l := fails(t)
	if _, err := l.builder().Build(l.ctx()); err == nil {
		t.Fatal("the build did not fail")
	}
	calls := l.called()
	for slices.Contains(calls, "GET exec-status") {
		calls = calls[1:]
	}
	for _, call := range slices.Compact(slices.Sorted(slices.Values(calls))) {
		for _, after := range []bool{false, true} {
			if after && strings.HasPrefix(call, "GET ") {
				continue
			}
			t.Run(fmt.Sprintf("%s-after-%v", strings.ReplaceAll(call, " ", "-"), after), func(t *testing.T) {
				t.Parallel()
				l := fails(t)
				undoing, broken := false, false
				l.onCall(func(r *http.Request) *pvetest.Fault {
					name := callName(r)
					undoing = undoing || name == "GET exec-status"
					if !undoing || broken || name != call {
						return nil
					}
					broken = true
					return &pvetest.Fault{Drop: true, After: after}
				})
				if _, err := l.builder().Build(l.ctx()); err == nil || !strings.Contains(err.Error(), "could not be cleaned") || !broken {
					t.Errorf("broken %v, error %v", broken, err)
				}
				l.empty()
			})
		}
	}
}

// The process dies before or after a call took effect. The next build goes on,
// or begins anew, and leaves nothing but the template.
func TestKilledAndRunAgain(t *testing.T) {
	notTrying := func(b *Builder) { b.Try = noTry } // what a sandbox leaves is for the daemon
	faults(t, notTrying, func(t *testing.T, call string, after bool) {
		l := newLab(t, &pvetest.Server{})
		ctx, die := context.WithCancel(l.ctx())
		defer die()
		dead := false
		first := once(call, pvetest.Fault{Drop: true, After: after}, func() { dead = true })
		l.onCall(func(r *http.Request) *pvetest.Fault {
			if dead { // the call before this one has taken effect by now, if it was to
				die()
				return &pvetest.Fault{Drop: true}
			}
			return first(r)
		})
		b := l.builder()
		notTrying(b)
		b.Keep = true // who is dead removes nothing
		if _, err := b.Build(ctx); err == nil && call != "GET log" {
			t.Fatal("the build survived")
		}
		l.onCall(nil)
		l.srv.Edit(func(c *pvetest.Cluster) { delete(c.Pools, testPool) }) // is left, empty; setup would make it
		if _, err := l.builder().Build(l.ctx()); err != nil {
			t.Fatal(err)
		}
		l.complete()
	})
}

// A build that is interrupted in the first boot is gone on with: nothing is
// downloaded or made again.
func TestResume(t *testing.T) {
	for _, at := range []string{"boot", "clean", "convert", "verify"} {
		t.Run(at, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			ctx, cancel := context.WithCancel(l.ctx())
			b := l.builder()
			b.Keep = true
			b.Report = func(e Event) {
				if e.Step == at && e.Took == 0 && at != "boot" {
					cancel()
				}
			}
			if at == "boot" { // while the guest boots
				l.onCall(once("GET file-read", pvetest.Fault{Drop: true}, cancel))
			}
			if _, err := b.Build(ctx); err == nil {
				t.Fatal("the build was not interrupted")
			}
			l.onCall(nil)
			if _, err := l.builder().Build(l.ctx()); err != nil {
				t.Fatal(err)
			}
			starts := 0
			for _, call := range l.called() {
				if slices.Contains([]string{"POST download-url", "POST upload", "POST qemu"}, call) || at == "verify" && call == "POST template" {
					t.Errorf("%s was called again", call)
				}
				if call == "POST start" {
					starts++
				}
			}
			if starts != 1 { // the sandbox
				t.Errorf("%d machines were started", starts)
			}
			l.complete()
		})
	}
}

// What can't be gone on with is removed, and made anew: a machine that was
// switched off in its first boot, one of another recipe, one of another name.
func TestInterruptedOtherwise(t *testing.T) {
	for name, change := range map[string]func(*lab, *Builder){
		"stopped": func(l *lab, _ *Builder) {
			id, err := l.client().Stop(l.t.Context(), l.vm(9000), stopNow)
			if err == nil {
				_, err = l.client().Wait(l.t.Context(), id)
			}
			if err != nil {
				l.t.Fatal(err)
			}
		},
		"recipe": func(_ *lab, b *Builder) { b.Spec.Packages = []string{"jq"} },
		"vmid":   func(_ *lab, b *Builder) { b.Spec.VMID = 9000 },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: -1})
			ctx, cancel := context.WithCancel(l.ctx())
			first := l.builder()
			first.Keep, first.Spec.Name = true, "debian-12"
			l.onCall(once("GET file-read", pvetest.Fault{Drop: true}, cancel))
			if _, err := first.Build(ctx); err == nil {
				t.Fatal("the build was not interrupted")
			}
			l.onCall(nil)
			b := l.builder()
			change(l, b)
			if _, err := b.Build(l.ctx()); err != nil {
				t.Fatal(err)
			}
			l.complete()
		})
	}
}

// A change of the config that was lost is made, also where nothing but the
// drives is to change.
func TestLostChanges(t *testing.T) {
	for n := 1; n <= 2; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			seen := 0
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) != "PUT config" {
					return nil
				}
				if seen++; seen != n {
					return nil
				}
				return &pvetest.Fault{Drop: true}
			})
			if _, err := l.builder().Build(l.ctx()); err != nil || seen <= n {
				t.Fatalf("after %d changes: %v", seen, err)
			}
			l.complete()
		})
	}
}
