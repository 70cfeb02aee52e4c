package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// defaultNodeTime is what another node may take to answer before it is taken for
// one that hangs, which keeps who asks it for half a minute, each time.
const defaultNodeTime = 10 * time.Second

// sweep removes what builds have left: on other nodes machines that are not
// finished, and files wherever they are. There is one build at a time, so that
// none of it is in use. What this build has made itself must go; what can't be
// removed elsewhere now is told, with what does it later.
func (r *build) sweep(ctx context.Context) error {
	all, err := r.Client.Resources(ctx, "")
	if err != nil {
		return err
	}
	r.left = nil
	silent := r.awake(ctx, all)
	for _, res := range all {
		if res.Type == "qemu" && res.Node != r.spec.Node && slices.Contains(pve.SplitTags(string(res.Tags)), buildTag) {
			r.sweepMachine(ctx, res.VM(), silent[res.Node])
		}
	}
	errs := []error{silent[r.spec.Node], ctx.Err()}
	for _, p := range r.places(all) {
		err := silent[p.Node]
		if err == nil {
			err = r.sweepFiles(ctx, p)
		}
		own := p.Node == r.spec.Node && (p.Storage == r.isos.Name || p.Storage == r.files.Name)
		switch {
		case err != nil && own:
			errs = append(errs, err)
		case err != nil:
			r.leave("storage %s of node %s can't be looked at: %w; once it can, run this again, if an earlier build was begun there", p.Storage, p.Node, err)
		}
	}
	return errors.Join(errs...)
}

// leave notes what is left.
func (r *build) leave(format string, args ...any) {
	r.left = append(r.left, fmt.Errorf(format, args...).Error())
}

// awake ends the downloads of builds on all nodes: nobody waits for them any
// more. It returns which nodes do not answer, and why.
func (r *build) awake(ctx context.Context, all []pve.Resource) map[string]error {
	silent := map[string]error{}
	for _, res := range all {
		switch {
		case res.Type != "node":
		case res.Status == "offline":
			silent[res.Node] = errors.New("the node is offline")
		case res.Node == r.spec.Node:
			silent[res.Node] = r.endDownloads(ctx, res.Node)
		default:
			limited, cancel := context.WithTimeout(ctx, cmp.Or(r.nodeTime, defaultNodeTime))
			silent[res.Node] = r.endDownloads(limited, res.Node)
			cancel()
		}
	}
	return silent
}

func (r *build) endDownloads(ctx context.Context, node string) error {
	prefix, err := filePrefix(r.Key)
	if err != nil {
		return err
	}
	tasks, err := r.Client.ActiveTasks(ctx, node)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if t.Type() != "download" || !strings.HasPrefix(t.ID(), prefix) {
			continue
		}
		if err := r.Client.AbortTask(ctx, t); err != nil {
			return fmt.Errorf("end the download of %s: %w", t.ID(), err)
		}
		_, _ = r.Client.Wait(ctx, t) // how it ended is seen by what is there
	}
	return ctx.Err()
}

// sweepMachine removes a machine on another node, if it is one of ours that is
// not finished. silent is why the node can't be asked, if it can't.
func (r *build) sweepMachine(ctx context.Context, vm pve.VM, silent error) {
	err := silent
	if err == nil {
		err = r.claim(ctx, vm)
	}
	switch {
	case errors.Is(err, errNotOurs), pve.Gone(err, vm):
	case err != nil:
		r.leave("machine %s has the tag %s and can't be looked at: %w; once it can, run this again, which removes it if an earlier build has left it", vm, buildTag, err)
	default:
		if err := r.remove(ctx, vm); err != nil && !errors.Is(err, errNotOurs) {
			r.leave("an earlier build has left a machine: %w; run this again, or on node %s: qm stop %d && qm destroy %[3]d --purge 1 --destroy-unreferenced-disks 1",
				err, vm.Node, vm.ID)
		}
	}
}

// places are the storages that files of builds may be in; shared ones once, as
// our own node sees them if it does.
func (r *build) places(all []pve.Resource) []pve.Resource {
	all = slices.DeleteFunc(slices.Clone(all), func(res pve.Resource) bool {
		s := pve.Storage{Content: res.Content}
		return res.Type != "storage" || !slices.Contains(onFiles, res.PluginType) || !s.Holds("import") && !s.Holds("iso")
	})
	rank := func(res pve.Resource) int {
		switch {
		case res.Node == r.spec.Node:
			return 0
		case res.Status == "available":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b pve.Resource) int { return cmp.Compare(rank(a), rank(b)) })
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(res pve.Resource) bool {
		again := bool(res.Shared) && seen[res.Storage]
		seen[res.Storage] = true
		return again
	})
}

// sweepFiles removes the files of builds from a storage of a node, but not
// images that are to be kept.
func (r *build) sweepFiles(ctx context.Context, at pve.Resource) error {
	prefix, err := filePrefix(r.Key)
	if err != nil {
		return err
	}
	kept, err := r.imageName(true)
	if err != nil {
		return err
	}
	for _, content := range []string{"import", "iso"} {
		if s := (pve.Storage{Content: at.Content}); !s.Holds(content) {
			continue
		}
		list, err := r.volumes(ctx, at.Node, at.Storage, content)
		if err != nil {
			return err
		}
		for _, v := range list {
			name := path.Base(v.ID)
			wanted := strings.HasPrefix(name, prefix+keptMark) && (r.KeepImage || name != kept)
			if v.Content != content || !strings.HasPrefix(name, prefix) || wanted {
				continue
			}
			if err := r.removeFile(ctx, at.Node, at.Storage, v.ID); err != nil {
				return fmt.Errorf("%w; to remove it by hand, run on node %s: pvesm free %s", err, at.Node, v.ID)
			}
		}
	}
	return nil
}

func (r *build) removeFile(ctx context.Context, node, storage, volume string) error {
	_, err := r.insist(ctx, func(ctx context.Context) (pve.UPID, error) {
		return r.Client.DeleteVolume(ctx, node, storage, volume)
	}, nil)
	if err != nil {
		return fmt.Errorf("remove %s: %w", volume, err)
	}
	return nil
}
