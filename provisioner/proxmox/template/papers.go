package template

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// phase is how far a machine was built when its description was written.
type phase string

const (
	draft phase = "draft" // made; its first boot may be under way
	clean phase = "clean" // installed and cleaned: what is left to do changes no disk
	whole phase = "whole" // a template of which a sandbox was made
)

// buildTag is on a machine until it is whole. Its clones would have it too.
const buildTag = "agentlab-build"

// papers are the description of a machine of ours.
type papers struct {
	name   string // its name
	phase  phase
	recipe string // identifies what it is made of, and how
}

// recipeOf identifies what a spec makes. Where it is made is no part of it.
func recipeOf(s Spec) (string, error) {
	text, err := json.Marshal([]any{s.Image.Checksum, s.Packages, s.Cores, s.MemoryMB, s.Size, firstBoot, cleanUp})
	if err != nil {
		return "", fmt.Errorf("write down the recipe: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// seal writes the description of machine id: a line for people, one for
// programs, and a stamp that binds it to the ID, the name and our key.
func seal(key provisioner.Key, id int, p papers, from string) (string, error) {
	line := fmt.Sprintf("AgentLab template %s, made of %s.", p.name, from)
	if p.phase != whole {
		line = fmt.Sprintf("AgentLab builds the template %s of this machine, and removes it if that fails. Without the lines below it is left alone.", p.name)
	}
	stamp, err := mac(key, fmt.Sprintf("vm %d %s %s %s", id, p.name, p.phase, p.recipe))
	return fmt.Sprintf("%s\n\n%s\n%s %s", line, p.recipe, p.phase, hex.EncodeToString(stamp)), err
}

// open returns the papers of a machine of ours. Whatever is not in order makes
// it somebody else's.
func open(key provisioner.Key, id int, cfg pve.Config) (p papers, ours bool) {
	lines := strings.Split(cfg["description"], "\n")
	if len(lines) != 4 {
		return p, false
	}
	ph, stamp, _ := strings.Cut(lines[3], " ")
	p = papers{cfg["name"], phase(ph), lines[2]}
	want, err := mac(key, fmt.Sprintf("vm %d %s %s %s", id, p.name, p.phase, p.recipe))
	if err != nil || !hmac.Equal([]byte(hex.EncodeToString(want)), []byte(stamp)) {
		return p, false
	}
	if p.phase == whole {
		return p, cfg.Template()
	}
	return p, slices.Contains(cfg.Tags(), buildTag)
}

func mac(key provisioner.Key, text string) ([]byte, error) {
	k, err := key.Derive("proxmox template")
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, k)
	h.Write([]byte(text))
	return h.Sum(nil), nil
}

// filePrefix is how the names of our files in storages begin: another
// installation's begin otherwise.
func filePrefix(key provisioner.Key) (string, error) {
	sum, err := mac(key, "files")
	if err != nil {
		return "", err
	}
	return "agentlab-" + hex.EncodeToString(sum[:6]) + "-", nil
}
