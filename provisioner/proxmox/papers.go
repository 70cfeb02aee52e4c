package proxmox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// stage is how far a machine was made when its papers were written.
type stage string

const (
	draft stage = "draft" // cloned, and never started
	whole stage = "whole" // configured; it bears our tags
)

const (
	tag        = "agentlab"
	markPrefix = "agentlab-"
)

// markForm is the form of all installations' marks. Other tags may begin like
// them, and come from a template.
var markForm = regexp.MustCompile(`^` + markPrefix + `[0-9a-f]{8}-[0-9a-f]{8}$`)

// seal returns the description of a machine: a line for people, the papers,
// and a stamp that binds them to the machine's ID.
func (p *Provisioner) seal(id int, st stage, papers provisioner.Papers) (string, error) {
	sealed, err := p.Key.Seal(papers)
	if err != nil {
		return "", err
	}
	stamp, err := p.stamp(id, st, sealed)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("AgentLab sandbox %s. It is destroyed at its end; without the lines below AgentLab leaves it alone.\n\n%s\n%s %s",
		papers.Sandbox, sealed, st, stamp), nil
}

// Inscribe returns the description and the tags that make machine id one of ours
// with these papers, for a simulation of many that nobody has made.
func (p *Provisioner) Inscribe(id int, papers provisioner.Papers) (description, tags string, err error) {
	description, err = p.seal(id, whole, papers)
	return description, p.tags(nil, description), err
}

func (p *Provisioner) stamp(id int, st stage, sealed string) (string, error) {
	sum, err := p.mac("proxmox vm", fmt.Sprintf("%d %s %s", id, st, sealed))
	return hex.EncodeToString(sum), err
}

func (p *Provisioner) mac(purpose, text string) ([]byte, error) {
	key, err := p.Key.Derive(purpose)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil), nil
}

// open returns the papers in the config of machine id. Any doubt about them is
// ErrNotOurs.
func (p *Provisioner) open(id int, cfg pve.Config) (provisioner.Papers, stage, error) {
	notOurs := func(why string) (provisioner.Papers, stage, error) {
		return provisioner.Papers{}, "", fmt.Errorf("VM %d %s: %w", id, why, provisioner.ErrNotOurs)
	}
	text := strings.ReplaceAll(cfg["description"], "\r\n", "\n") // as some editors of notes write them
	lines := strings.Split(strings.TrimSpace(text), "\n")        // whatever PVE or an editor has put at its end
	if len(lines) != 4 {
		return notOurs("has no papers")
	}
	st, stamp, _ := strings.Cut(lines[3], " ")
	want, err := p.stamp(id, stage(st), lines[2])
	if err != nil {
		return provisioner.Papers{}, "", err
	}
	if !hmac.Equal([]byte(want), []byte(stamp)) {
		return notOurs("has papers of another machine")
	}
	papers, err := p.Key.Open(lines[2])
	if err != nil {
		return papers, "", fmt.Errorf("VM %d: %w", id, err)
	}
	switch {
	case papers.Instance != p.Instance:
		return notOurs("has papers of another installation")
	case !p.VMIDs.has(id) && !p.pooled(id): // the range may have been changed
		return notOurs(fmt.Sprintf("is neither in the range %v nor in the pool %s", p.VMIDs, p.Pool))
	case cfg.Template():
		return notOurs("was made a template")
	case stage(st) == whole && !slices.Contains(cfg.Tags(), tag):
		return notOurs("has lost the tag " + tag)
	}
	return papers, stage(st), nil
}

// tags returns the tags of a machine with this description: ours besides those
// it has from elsewhere.
func (p *Provisioner) tags(old []string, description string) string {
	kept := slices.DeleteFunc(slices.Clone(old), func(t string) bool { return t == tag || strings.HasPrefix(t, p.brand()) })
	return strings.Join(append(kept, tag, p.mark(description)), ";")
}

// brand is how the marks of this installation begin. It spares us to read the
// papers of all others'.
func (p *Provisioner) brand() string {
	sum, err := p.mac("proxmox brand", p.Instance)
	if err != nil {
		return markPrefix // then nothing can be sealed either
	}
	return markPrefix + hex.EncodeToString(sum[:4]) + "-"
}

// mark is a tag that changes with the description, so that a list of machines
// shows which to read again. It proves nothing.
func (p *Provisioner) mark(description string) string {
	sum := sha256.Sum256([]byte(description))
	return p.brand() + hex.EncodeToString(sum[:4])
}

// handle names a machine, or one that is being cloned.
type handle struct {
	id   int
	task pve.UPID // of the clone; empty when there is a machine, or before the answer
}

func (h handle) String() string { return strings.TrimSpace(strconv.Itoa(h.id) + " " + string(h.task)) }

func parseHandle(s string) (handle, error) {
	digits, task, _ := strings.Cut(s, " ")
	id, err := strconv.Atoi(digits)
	if err != nil || (task != "" && pve.UPID(task).Node() == "") {
		return handle{}, fmt.Errorf("handle %q names no machine: %w", s, provisioner.ErrNotOurs)
	}
	return handle{id, pve.UPID(task)}, nil
}
