package crashtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// together is how many installations are played on at once: they wait more than
// they work.
const together = "6"

// The test binary is also a machine of the simulated Proxmox VE.
func TestMain(m *testing.M) {
	pvetest.GuestMain()
	flag.Parse()
	if err := flag.Set("test.parallel", together); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// tally is what a matrix counts.
type tally struct {
	points, kills, leaks, touches atomic.Int64
}

func (c *tally) tell(t *testing.T, what string) {
	line := fmt.Sprintf("%s: %d fail-points, %d kills, %d leaks, %d foreign touches\n",
		what, c.points.Load(), c.kills.Load(), c.leaks.Load(), c.touches.Load())
	t.Log(line)
	if err := stage.Report(line); err != nil {
		t.Error(err)
	}
}

// worlds are where machines are made.
func worlds() map[string]func(*testing.T, *stage.Stage) world {
	return map[string]func(*testing.T, *stage.Stage) world{"local": onHost, "proxmox": onCluster}
}

// TestCrash kills the daemon before and after each step of each operation.
func TestCrash(t *testing.T) {
	for name, newWorld := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := &tally{}
			t.Cleanup(func() { sum.tell(t, "crashes, backend "+name) })
			groups := map[string][]operation{"inside": inside(), "pool": pools()}
			for _, op := range slices.Concat(operations(), starts(), switches()) {
				if op.of == "" || op.of == name {
					groups[op.name] = []operation{op}
				}
			}
			for group, ops := range groups {
				t.Run(group, func(t *testing.T) {
					t.Parallel()
					s := newSite(t, sum, newWorld)
					if group != "start" { // which begins with nothing at all
						s.world.plant(t)
					}
					for _, op := range ops {
						s.matrix(t, op)
					}
					s.fill(t, 0)
					s.clean(t)
				})
			}
		})
	}
}

// TestCrashOfTokens is TestCrash of what has nothing to do with machines.
func TestCrashOfTokens(t *testing.T) {
	t.Parallel()
	sum := &tally{}
	t.Cleanup(func() { sum.tell(t, "crashes, tokens") })
	s := newSite(t, sum, withHTTP(onHost))
	s.world.plant(t)
	for _, op := range tokens() {
		s.matrix(t, op)
	}
}

// matrix kills the daemon at each fail-point of an operation.
func (s *site) matrix(t *testing.T, op operation) {
	points := s.record(t, op)
	s.tally.points.Add(int64(len(points)))
	for _, point := range points {
		t.Run(strings.ReplaceAll(op.name+"/"+point, " ", "-"), func(t *testing.T) {
			s.prepare(t, op)
			s.crash(t, op, point)
			s.start(t)
			s.finish(t, op)
		})
		if t.Failed() {
			return // what a site has lived through makes the rest of little worth
		}
	}
}

func (s *site) prepare(t *testing.T, op operation) {
	t.Helper()
	if op.before != nil {
		op.before(t, s)
	}
	if op.do == nil {
		s.stop(t)
	}
}

// finish looks whether all is well after an operation that was interrupted, or not.
func (s *site) finish(t *testing.T, op operation) {
	t.Helper()
	s.untouched(t)
	if op.after != nil {
		op.after(t, s)
	}
	switch {
	case op.ends:
		s.id, s.process = "", ""
		s.vanish(t)
	case op.keeps:
		s.settle(t)
	default:
		s.clean(t)
	}
}

// record does an operation once, to its end, and returns the points that it
// passes: all of what changes something, and the first of each that only looks,
// since how often that is done is up to chance.
func (s *site) record(t *testing.T, op operation) []string {
	t.Helper()
	s.prepare(t, op)
	if err := s.points.Record(); err != nil {
		t.Fatal(err)
	}
	if op.do == nil {
		s.launch(t)
	} else if err := op.do(t.Context(), s); err != nil {
		t.Fatalf("%s: %v\nthe daemon said:\n%s", op.name, err, s.daemon.said())
	}
	if op.until != nil {
		op.until(t, s)
	}
	passed, err := s.points.Passed()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.points.Disarm(); err != nil {
		t.Fatal(err)
	}
	s.finish(t, op)
	if op.do == nil { // then nobody has called but until, which a crash does not come to
		passed = slices.DeleteFunc(passed, func(point string) bool { return strings.HasPrefix(point, "store log call ") })
	}
	if op.brief {
		passed = slices.DeleteFunc(passed, func(point string) bool { return slices.Contains(s.usual, point) })
	}
	points := slices.DeleteFunc(choose(passed), func(point string) bool { return !op.diesAt(point) })
	if len(points) == 0 {
		t.Fatalf("%s passes no fail-point", op.name)
	}
	return points
}

// choose returns the points to die at, each step with both of its sides.
func choose(passed []string) []string {
	var chosen []string
	for _, point := range passed {
		step, n, _ := strings.Cut(point, " before #")
		first := n == "1" && !slices.Contains(chosen, point)
		if n == "" || !first && looks(step) {
			continue
		}
		chosen = append(chosen, point, step+" after #"+n)
	}
	return chosen
}

// looks says that a step is a look, or a command that a guest agent is given until
// it has an answer.
func looks(step string) bool {
	for _, word := range []string{" GET ", "/agent/", " list", " dial", " read"} {
		if strings.Contains(step, word) {
			return true
		}
	}
	return false
}

// byChance says that a point may not be passed the next time: how often is looked,
// and whether something is done again that was not seen to be done, differs.
func byChance(point string) bool { return looks(point) || !strings.HasSuffix(point, " #1") }

// For a point that may not be passed this time is waited so long after an operation,
// and so much longer if that is what a daemon does by itself.
const (
	mayCome = 2 * time.Second
	mayTake = 8 * time.Second
)

// crash begins an operation and returns when the daemon has died at the point.
func (s *site) crash(t *testing.T, op operation, point string) {
	t.Helper()
	if err := s.points.Kill(point); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	wait := mayCome
	if op.do == nil {
		s.launch(t)
		close(done)
		wait += mayTake
	} else {
		go func() {
			defer close(done)
			_ = op.do(ctx, s) // it can't succeed, or what kills comes after it
		}()
	}
	d := s.daemon
	select {
	case <-d.ended:
	case <-d.missed(point, done, wait):
		t.Logf("%q was not passed this time: killed now", point)
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-d.ended
	case <-time.After(patience):
		t.Fatalf("fail-point %q was not passed; the daemon said:\n%s", point, d.said())
	}
	<-done
	if !d.slain() {
		t.Fatalf("the daemon ended by itself:\n%s", d.said())
	}
	s.tally.kills.Add(1)
	s.hangUp()
	s.daemon = nil
}

// missed tells when a point that is passed by chance only has not been, some
// time after the operation was done.
func (d *daemon) missed(point string, done <-chan struct{}, wait time.Duration) <-chan struct{} {
	missed := make(chan struct{})
	if !byChance(point) {
		return missed // never
	}
	go func() {
		<-done
		select {
		case <-d.ended:
		case <-time.After(wait):
			close(missed)
		}
	}()
	return missed
}

// hold leaves an operation at a point, with no daemon.
func (s *site) hold(t *testing.T, do func(context.Context, *site) error, point string) {
	t.Helper()
	id := s.id
	s.crash(t, operation{do: do}, point)
	s.id = id
}
