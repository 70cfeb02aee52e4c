//go:debug tlsmlkem=0

package histories

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// flavours are the kinds of Proxmox VE that histories are played on.
func flavours() []flavour {
	return []flavour{
		{name: "8.4", version: "8.4.21", nodes: 1}, {name: "9.2-slow", version: "9.2.11", nodes: 1, callTime: 100 * time.Millisecond},
		{name: "cluster-slow", version: "8.4.21", nodes: 3, callTime: 30 * time.Millisecond}, {name: "cluster-9.2", version: "9.2.11", nodes: 3},
	}
}

// seed is where the histories begin. Unless it is told otherwise, as make soak does,
// a run plays the same as every other: whoever changes something else is not to be
// the one who finds a history that has never held.
const seed = "1"

func TestMain(m *testing.M) {
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{"rapid.checks": histories, "rapid.seed": seed} {
		if !given[name] {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	debug.SetGCPercent(400) // much is thrown away soon
	os.Exit(m.Run())
}

// powerOff is so short that machines come to it while no daemon runs.
const powerOff = 2 * time.Minute

// TestHistories plays random histories. One that does not hold is told in its
// shortest form, with what plays it again.
func TestHistories(t *testing.T) {
	var played, moves, calls, claims, fires, faults, leaks, touches atomic.Int64
	t.Cleanup(func() {
		line := fmt.Sprintf("histories: %d played, %d steps, %d calls, %d claims, %d switches, %d faults, %d leaks, %d foreign touches\n",
			played.Load(), moves.Load(), calls.Load(), claims.Load(), fires.Load(), faults.Load(), leaks.Load(), touches.Load())
		t.Log(line)
		asked, err := strconv.ParseInt(flag.Lookup("rapid.checks").Value.String(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if whole := flag.Lookup("test.run").Value.String() == ""; whole && !t.Failed() && played.Load() < asked*int64(len(flavours())) { // rapid stops early when the test's time is nearly over
			t.Errorf("%d were played, %d on each flavour were asked for: give it more time", played.Load(), asked)
		}
		if err := stage.Report(line); err != nil {
			t.Error(err)
		}
	})
	for _, kind := range flavours() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				history := rapid.SliceOfN(steps, 20, 50).Draw(rt, "history")
				kind := kind
				if rapid.Bool().Draw(rt, "warm pool") {
					kind.pool = 2
				}
				if rapid.Bool().Draw(rt, "dead man's switch") {
					kind.powerOff = powerOff
				}
				p, err := replay(t, rt, kind, history)
				played.Add(1)
				moves.Add(int64(len(history)))
				calls.Add(int64(p.calls))
				claims.Add(int64(p.claims))
				fires.Add(int64(p.fires))
				faults.Add(int64(p.lab.faults))
				leaks.Add(int64(len(p.leaks)))
				touches.Add(int64(len(p.lab.touched)))
				if err != nil {
					rt.Fatal(p.tale(err))
				}
			})
		})
	}
}

// replay plays a history to its end or until something does not hold.
func replay(t *testing.T, rt *rapid.T, kind flavour, history []step) (p *player, err error) {
	dir, err := os.MkdirTemp("", "agentlab-histories-") //nolint:usetesting // it goes before the next is played
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rapid.SyncTest(rt, func(*rapid.T) { p, err = playAll(dir, kind, history) })
	return p, err
}

func playAll(dir string, kind flavour, history []step) (p *player, err error) {
	p = &player{began: time.Now(), model: model{asked: map[string]int{}, calm: true}}
	if p.lab, err = newLab(dir, kind); err != nil {
		return p, err
	}
	defer func() {
		p.lab.lift()
		p.under.Wait()
		err = errors.Join(err, p.lab.close())
		time.Sleep(time.Hour) // time stands still when this returns, and what still waits for some would wait for ever
	}()
	p.lab.deleted, p.lab.armed, p.lab.fired = p.deleting, p.armed, p.fired
	if kind.pool > 0 { // which is full then, or few would find something in it
		if err := p.lab.start(); err != nil {
			return p, err
		}
		time.Sleep(time.Minute)
	}
	for _, s := range history {
		if err := p.play(s); err != nil {
			return p, err
		}
	}
	return p, p.settle()
}
