package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	// defaultPatience is what a machine may take until a command was run in it.
	defaultPatience = 5 * time.Minute
	// destroyTime is what destroying it may take.
	destroyTime = 3 * time.Minute
	// remains is when a daemon of this installation destroys what we could not.
	remains = 15 * time.Minute
)

// Step is a part of the time that a machine took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// checkCreate makes a machine, runs a command in it and destroys it, whatever
// went wrong before.
func (d *Proxmox) checkCreate(ctx context.Context, root, owner string) {
	check := "create " + pve.ParseProperties(root).First()
	now := time.Now().Truncate(time.Second).UTC()
	papers := provisioner.Papers{
		Instance: d.Backend.Instance, Sandbox: "doctor-" + strings.ToLower(rand.Text()[:10]), Owner: owner, Profile: "doctor",
		Created: now, End: now.Add(remains), MaxEnd: now.Add(remains),
	}
	d.watch.start()
	ready, cancel := context.WithTimeout(ctx, cmp.Or(d.Patience, defaultPatience))
	defer cancel()
	m, err := d.Backend.Create(ready, provisioner.Spec{Papers: papers, Hostname: papers.Sandbox, Root: root, Network: "none"})
	if err != nil { // then it has undone what it did
		r := Result{Check: check, Status: Failed, Detail: err.Error(), Steps: d.watch.stop()}
		r.Run, r.Do = tagsRefused(err)
		r.Do = cmp.Or(r.Do, "look at the task that failed: pvesh get /cluster/tasks")
		d.add(r)
		return
	}
	err = d.use(ready, m.Ref)
	d.watch.begin("destroy")
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTime)
	defer cancel()
	derr := d.destroy(rest, m.Ref)
	r := Result{Check: check, Status: OK, Steps: d.watch.stop()}
	switch {
	case err != nil:
		r.Status, r.Detail = Failed, errors.Join(err, derr).Error()
		r.Do = "look at the console of a clone for what keeps qemu-guest-agent from answering; docs/proxmox.md says how to make a template that has it"
	case derr != nil:
		r.Status, r.Detail = Failed, derr.Error()
		r.Run = []string{"pvesh get /cluster/resources --type vm | grep " + papers.Sandbox}
		r.Do = "a daemon of this installation destroys it at " + papers.End.Format(time.RFC3339)
	default:
		r.Detail = describe(r.Steps)
	}
	d.add(r)
}

// use waits for the guest and runs a command in it.
func (d *Proxmox) use(ctx context.Context, ref provisioner.Ref) error {
	d.watch.begin("boot")
	conn, err := d.Backend.Dial(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	d.watch.begin("command")
	exit, err := conn.Run(ctx, guest.Cmd{Args: []string{"true"}}, guest.Streams{})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("the command true ended with %d", exit.Code)
	}
	return err
}

// describe words the steps of a machine that was ready and destroyed.
func describe(steps []Step) string {
	var parts []string
	total := 0.0
	for _, s := range steps[:len(steps)-1] {
		total += s.Seconds
		parts = append(parts, fmt.Sprintf("%s %.2f s", s.Name, s.Seconds))
	}
	return fmt.Sprintf("ready after %.2f s (%s), destroyed in %.2f s", total, strings.Join(parts, ", "), steps[len(steps)-1].Seconds)
}

// stopwatch is a transport that sees by the calls which step a machine is at.
type stopwatch struct {
	pve.Transport

	mu    sync.Mutex
	names []string // of the steps so far
	times []time.Time
}

// begins are the calls with which steps begin.
var begins = map[string]string{"POST clone": "clone", "PUT config": "configure", "POST start": "start"}

// Do implements [pve.Transport].
func (w *stopwatch) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	if step := begins[r.Method+" "+r.Path[len(r.Path)-1]]; step != "" && r.Method != http.MethodGet {
		w.begin(step)
	}
	return w.Transport.Do(ctx, r)
}

func (w *stopwatch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names, w.times = []string{"choose"}, []time.Time{time.Now()}
}

func (w *stopwatch) begin(step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names, w.times = append(w.names, step), append(w.times, time.Now())
}

// stop returns how long each step took. One that was begun again, since it
// failed on one node, counts as often.
func (w *stopwatch) stop() []Step {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.times = append(w.times, time.Now())
	steps := make([]Step, len(w.names))
	for i, name := range w.names {
		steps[i] = Step{name, w.times[i+1].Sub(w.times[i]).Seconds()}
	}
	return steps
}

// destroy is not given up at the first mishap: what is left of a template's
// clones keeps it from being removed.
func (d *Proxmox) destroy(ctx context.Context, ref provisioner.Ref) error {
	err := d.Backend.Destroy(ctx, ref)
	for try := 1; err != nil && try < 3; try++ {
		err = d.Backend.Destroy(ctx, ref)
	}
	return err
}
