package template

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// keptMark is in the names of images that are to outlive their build.
const keptMark = "kept-"

// imageName is what the image is called while it is here: ours, whether it is to
// be kept, and by its content.
func (r *build) imageName(kept bool) (string, error) {
	prefix, err := filePrefix(r.Key)
	if kept {
		prefix += keptMark
	}
	return prefix + r.spec.Image.Checksum[:16] + r.spec.Image.extension(), err
}

func (r *build) driveName() (string, error) {
	prefix, err := filePrefix(r.Key)
	return prefix + r.spec.Name + ".iso", err
}

// fetch has the node download the image. One that is here already is taken if it
// is the right one, which PVE finds out.
func (r *build) fetch(ctx context.Context) (string, error) {
	if r.phase != "" {
		return "", nil
	}
	name, before, err := r.imageFile(ctx)
	if err != nil {
		return "", err
	}
	i := r.spec.Image
	d := pve.Download{URL: i.URL, Filename: name, Content: "import", Checksum: i.Checksum, Algorithm: i.Algorithm}
	id, err := r.insist(ctx, func(ctx context.Context) (pve.UPID, error) {
		return r.Client.DownloadURL(ctx, r.spec.Node, r.files.Name, d)
	}, nil)
	if err != nil {
		return "", fmt.Errorf("download %s: %w%s", i.URL, err, r.tail(ctx, id))
	}
	if r.image, err = r.find(ctx, r.files.Name, "import", name); err != nil {
		return "", err
	}
	if r.image == "" {
		return "", fmt.Errorf("the image was downloaded, but storage %s does not list %s", r.files.Name, name)
	}
	if before != "" {
		return r.image + " was there", nil
	}
	return r.image, nil
}

// imageFile returns what the image is to be called, and the volume if it is
// there: one that was kept, or that this build or an interrupted one had got.
func (r *build) imageFile(ctx context.Context) (name, volume string, err error) {
	for _, kept := range []bool{true, false} {
		if name, err = r.imageName(kept); err != nil {
			return "", "", err
		}
		volume, err = r.find(ctx, r.files.Name, "import", name)
		if err != nil || volume != "" || kept && r.KeepImage {
			break
		}
	}
	return name, volume, err
}

// tail returns the last words of a task's log: what a tool has said is often
// only there.
func (r *build) tail(ctx context.Context, id pve.UPID) string {
	if id == "" || ctx.Err() != nil {
		return ""
	}
	lines, err := r.Client.TaskLog(ctx, id, 3)
	if err != nil || len(lines) < 2 {
		return ""
	}
	var text strings.Builder
	for _, l := range lines[:len(lines)-1] { // the last is the error
		if l != "" {
			text.WriteString("\n    " + l)
		}
	}
	return text.String()
}

// find returns the volume of a file, or nothing.
func (r *build) find(ctx context.Context, storage, content, name string) (string, error) {
	list, err := r.volumes(ctx, r.spec.Node, storage, content)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(list, func(v pve.Volume) bool { return v.Content == content && path.Base(v.ID) == name })
	if i < 0 {
		return "", nil
	}
	return list[i].ID, nil
}

func (r *build) volumes(ctx context.Context, node, storage, content string) ([]pve.Volume, error) {
	list, err := r.Client.Volumes(ctx, node, storage, content, 0)
	if err != nil {
		return nil, fmt.Errorf("list storage %s: %w", storage, err)
	}
	return list, nil
}

// tidy removes the files that only the build needed, and what earlier ones left.
func (r *build) tidy(ctx context.Context) (string, error) {
	return "what only the build needed is gone", r.sweep(ctx)
}

// undoAll removes what the build has made, and what an interrupted one had made
// that it was to go on with. It is not given up when the caller gives up.
func (r *build) undoAll(ctx context.Context) error {
	if r.isos.Name == "" { // nothing can have been made yet
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.undoTime())
	defer cancel()
	var errs []error
	if r.task != "" {
		if err := r.Client.AbortTask(ctx, r.task); err == nil {
			_, _ = r.Client.Wait(ctx, r.task) // how it ended is seen by what is there
		}
		r.task = ""
	}
	if r.vm.ID != 0 && r.phase != whole {
		errs = append(errs, r.remove(ctx, r.vm))
	}
	if err := errors.Join(append(errs, r.sweep(ctx))...); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}
