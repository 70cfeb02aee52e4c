// Package template builds templates for sandboxes on a Proxmox VE, through its
// API alone: it has the node download an image for clouds, imports that into a
// machine, boots it once with a drive for cloud-init that installs the guest
// agent and some tools, cleans it of what clones must not share, converts it,
// and has one sandbox made of it.
//
// The stock image has no guest agent and nobody can log in to it. Its first
// boot runs a script of ours from that drive (sh/firstboot.sh), which leaves
// what came of it in a file; the agent that it has installed lets us read that.
// If there is none in the end, the script switches the machine off, which is
// seen as well.
//
// What is made says whose it is: the machine by a description that is bound to
// its ID and to the installation's key, besides a tag; files by a name that
// only the key gives. How far a build got is in the description, so that one
// that was interrupted is gone on with, or is removed, also if it was begun on
// another node. What fails leaves nothing.
//
// What PVE does was measured on 8.4 and 9.2 or names the source it was read
// from.
package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Spec says what to build. Fields that are not required are chosen if empty.
type Spec struct {
	Name  string // of the template, a DNS name; required
	Image Image  // required
	// Packages are installed besides the guest agent.
	Packages []string

	Node         string // empty is the one that answers
	Storage      string // of the disk; empty is the one with most room that makes linked clones
	ImageStorage string // for the image and the drive, until the end; empty is one that takes both
	Bridge       string // with DHCP and a way to the image's package mirrors; empty is the node's first
	VMID         int    // 0 is the first free one from 9000 on
	Cores        int    // 0 is 2
	MemoryMB     int    // 0 is 2048
	Size         string // of the disk, such as 8G, at least the image's; empty is 8G
}

// Builder builds one template. At most one may be at work with a key.
type Builder struct {
	Client *pve.Client     // required; what it needs to be allowed is checked first
	Key    provisioner.Key // required: what we made is known by it
	Spec   Spec

	// Try makes a sandbox of the template, a full clone if linked ones can't be
	// made of it, uses it and destroys it. Nil leaves that out.
	Try func(ctx context.Context, template pve.VM, full bool) error
	// Pool is where Try makes it. If it is missing, it is made for that time.
	Pool string

	KeepImage bool // leave the downloaded image for the next build
	Keep      bool // leave what a build that fails has made; the next one removes it

	// Report is told when a step begins, and when it has ended well; nil is
	// nobody.
	Report func(Event)

	pause time.Duration // between two looks at a booting guest
	undo  time.Duration // what removing may take

	nodeTime time.Duration // see defaultNodeTime
}

// Event is the begin or the end of a step.
type Event struct {
	Step   string
	Detail string        // of the end: what came of it
	Took   time.Duration // 0 at the begin
}

// Result is a template.
type Result struct {
	VM       pve.VM
	Name     string
	Existing bool // it was there already, and nothing was changed
	Steps    []Step
	Left     []string // what earlier builds left that can't be removed now, and what does it later
}

// Step is what a part of the build took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

const (
	defaultPause = 3 * time.Second // a silent agent costs the node a worker for as long (measured)
	defaultUndo  = 5 * time.Minute
)

// build is one run of a Builder.
type build struct {
	*Builder
	spec    Spec // with nothing left open
	version pve.Version
	disk    pve.Storage
	files   pve.Storage // where the image goes
	isos    pve.Storage // where the drive goes
	recipe  string

	vm    pve.VM // ID is 0 while there is none
	phase phase
	done  bool     // there is a template of this recipe already
	task  pve.UPID // under way
	image string   // volume
	steps []Step
	left  []string
}

// Build builds the template, or goes on with a build that was interrupted. If
// one of the same recipe is there, nothing is done. When it fails, the error
// says at which step, and what has been made is removed, unless Keep is set.
func (b *Builder) Build(ctx context.Context) (Result, error) {
	r := &build{Builder: b, spec: b.Spec}
	err := r.run(ctx)
	if err != nil && !b.Keep {
		err = errors.Join(err, r.undoAll(ctx))
	}
	return Result{VM: r.vm, Name: b.Spec.Name, Existing: r.done, Steps: r.steps, Left: r.left}, err
}

// step is a part of a build. What it returns says what came of it; nothing is
// that there was nothing to do.
type step struct {
	name string
	do   func(context.Context) (string, error)
}

func (r *build) run(ctx context.Context) error {
	for _, s := range []step{
		{"check", r.check}, {"look", r.look}, {"image", r.fetch}, {"import", r.create}, {"boot", r.boot},
		{"clean", r.clean}, {"convert", r.convert}, {"verify", r.verify}, {"tidy", r.tidy},
	} {
		if r.done {
			break
		}
		r.report(Event{Step: s.name})
		began := time.Now()
		detail, err := s.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		took := max(time.Since(began), time.Nanosecond)
		r.steps = append(r.steps, Step{s.name, took.Seconds()})
		r.report(Event{s.name, cmp.Or(detail, "nothing to do"), took})
	}
	return nil
}

func (r *build) report(e Event) {
	if r.Report != nil {
		r.Report(e)
	}
}

// insist makes a call that starts a task, and awaits that. If the answer was
// lost, it is made again, unless done says that it has taken effect. A nil done
// is for calls that may be made twice.
func (r *build) insist(ctx context.Context, call func(context.Context) (pve.UPID, error), done func(context.Context) (bool, error)) (pve.UPID, error) {
	for try := 1; ; try++ {
		id, err := call(ctx)
		err = r.await(ctx, id, err)
		if !pve.Lost(err) || try == 3 {
			return id, err
		}
		if done == nil {
			continue
		}
		if ok, derr := done(ctx); ok || derr != nil {
			return id, derr
		}
	}
}

// await waits for a task that was just started. One that is still under way
// when ctx ends is remembered, to be aborted.
func (r *build) await(ctx context.Context, id pve.UPID, err error) error {
	if err != nil {
		return err
	}
	r.task = id
	_, err = r.Client.Wait(ctx, id)
	if ctx.Err() == nil {
		r.task = ""
	}
	return err
}
