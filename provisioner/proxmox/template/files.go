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

// imageName is what the image is called while it is here: ours, and by its
// content.
func (r *build) imageName() (string, error) {
	prefix, err := filePrefix(r.Key)
	return prefix + r.spec.Image.Checksum[:16] + r.spec.Image.extension(), err
}

func (r *build) driveName() (string, error) {
	prefix, err := filePrefix(r.Key)
	return prefix + r.spec.Name + ".iso", err
}

// fetch has the node download the image. One that is here already is kept if it
// is the right one, which PVE finds out.
func (r *build) fetch(ctx context.Context) (string, error) {
	if r.phase != "" {
		return "", nil
	}
	name, err := r.imageName()
	if err != nil {
		return "", err
	}
	before, err := r.find(ctx, r.files.Name, "import", name)
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
	list, err := r.Client.Volumes(ctx, r.spec.Node, storage, content, 0)
	if err != nil {
		return "", fmt.Errorf("list storage %s: %w", storage, err)
	}
	i := slices.IndexFunc(list, func(v pve.Volume) bool { return v.Content == content && path.Base(v.ID) == name })
	if i < 0 {
		return "", nil
	}
	return list[i].ID, nil
}

// tidy removes the files that only the build needed.
func (r *build) tidy(ctx context.Context) (string, error) {
	return "what only the build needed is gone", r.removeFiles(ctx)
}

func (r *build) removeFiles(ctx context.Context) error {
	drive, err := r.driveName()
	if err != nil {
		return err
	}
	err = r.removeFile(ctx, r.isos.Name, "iso", drive)
	if r.KeepImage {
		return err
	}
	image, ierr := r.imageName()
	if ierr == nil {
		ierr = r.removeFile(ctx, r.files.Name, "import", image)
	}
	return errors.Join(err, ierr)
}

func (r *build) removeFile(ctx context.Context, storage, content, name string) error {
	volume, err := r.find(ctx, storage, content, name)
	if err != nil || volume == "" {
		return err
	}
	_, err = r.insist(ctx, func(ctx context.Context) (pve.UPID, error) {
		return r.Client.DeleteVolume(ctx, r.spec.Node, storage, volume)
	}, nil)
	if err != nil {
		return fmt.Errorf("remove %s: %w", volume, err)
	}
	return nil
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
	if err := errors.Join(append(errs, r.removeFiles(ctx))...); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}
