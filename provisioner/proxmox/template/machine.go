package template

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// system is the drive of the system disk, media that of the drive for
// cloud-init: first ours, then the one that PVE generates.
const (
	system = "scsi0"
	media  = "ide2"
)

// create makes the machine of the image, with the drive for its first boot.
func (r *build) create(ctx context.Context) (string, error) {
	if r.phase != "" {
		return "", nil
	}
	seed, err := r.upload(ctx)
	if err != nil {
		return "", err
	}
	ids, err := r.candidates(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		r.vm = pve.VM{Node: r.spec.Node, ID: id}
		err := r.createAs(ctx, seed)
		switch {
		case pve.Taken(err, id): // it is somebody else's
			r.vm = pve.VM{}
			if r.spec.VMID == 0 {
				continue
			}
			return "", fmt.Errorf("VMID %d was taken meanwhile: %w", id, err)
		case err != nil:
			return "", err
		}
		r.phase = draft
		return r.vm.String(), r.grow(ctx)
	}
	return "", errors.New("no free VMID was found; choose one")
}

// upload puts the drive for the first boot into a storage.
func (r *build) upload(ctx context.Context) (volume string, err error) {
	name, err := r.driveName()
	if err != nil {
		return "", err
	}
	data, err := drive(r.spec)
	if err != nil {
		return "", err
	}
	f := pve.File{Name: name, Data: data}
	_, err = r.insist(ctx, func(ctx context.Context) (pve.UPID, error) {
		return r.Client.Upload(ctx, r.spec.Node, r.isos.Name, "iso", f)
	}, nil)
	if err != nil {
		return "", fmt.Errorf("upload the drive for cloud-init to storage %s: %w", r.isos.Name, err)
	}
	if volume, err = r.find(ctx, r.isos.Name, "iso", name); err != nil {
		return "", err
	}
	if volume == "" {
		return "", fmt.Errorf("the drive for cloud-init was uploaded, but storage %s does not list %s", r.isos.Name, name)
	}
	return volume, nil
}

// candidates are the VMIDs to try, in order.
func (r *build) candidates(ctx context.Context) ([]int, error) {
	if r.spec.VMID != 0 {
		return []int{r.spec.VMID}, nil
	}
	all, err := r.Client.Resources(ctx, "vm")
	if err != nil {
		return nil, err
	}
	var free []int
	for id := firstVMID; len(free) < 20; id++ {
		if !slices.ContainsFunc(all, func(res pve.Resource) bool { return int(res.VMID) == id }) {
			free = append(free, id)
		}
	}
	return free, nil
}

func (r *build) createAs(ctx context.Context, seed string) error {
	options, err := r.options(seed)
	if err != nil {
		return err
	}
	id, err := r.Client.CreateVM(ctx, r.vm, "", options)
	if pve.Lost(err) { // it may be under way
		return r.adopt(ctx, err)
	}
	return r.await(ctx, id, err)
}

// adopt takes the machine that a call has made whose answer was lost.
func (r *build) adopt(ctx context.Context, lost error) error {
	if _, err := r.settle(ctx, r.vm); err != nil {
		return errors.Join(lost, err)
	}
	cfg, err := r.Client.Config(ctx, r.vm)
	if err != nil {
		return errors.Join(lost, err)
	}
	if p, ours := open(r.Key, r.vm.ID, cfg); !ours || p.recipe != r.recipe {
		return lost
	}
	return nil
}

// options are the configuration of the machine. The processor is the one that
// the web interface gives new machines: all of the last ten years have it.
func (r *build) options(seed string) (map[string]string, error) {
	description, err := seal(r.Key, r.vm.ID, papers{r.spec.Name, draft, r.recipe}, r.spec.Image.URL)
	if err != nil {
		return nil, err
	}
	disk := r.disk.Name + ":0,import-from=" + r.image
	if slices.Contains(onFiles, r.disk.Type) && r.disk.Type != "btrfs" {
		disk += ",format=qcow2" // raw ones make no linked clones
	}
	return map[string]string{
		"name": r.spec.Name, "description": description, "tags": buildTag, "ostype": "l26",
		"cores": strconv.Itoa(r.spec.Cores), "memory": strconv.Itoa(r.spec.MemoryMB), "cpu": "x86-64-v2-AES",
		"scsihw": "virtio-scsi-pci", system: disk + ",discard=on", media: seed + ",media=cdrom", "boot": "order=" + system,
		"net0": "virtio,bridge=" + r.spec.Bridge, "serial0": "socket", "agent": "enabled=1",
	}, nil
}

func (r *build) grow(ctx context.Context) error {
	_, err := r.insist(ctx, func(ctx context.Context) (pve.UPID, error) {
		return r.Client.Resize(ctx, r.vm, system, r.spec.Size, "")
	}, nil)
	if err != nil {
		return fmt.Errorf("grow the disk to %s: %w", r.spec.Size, err)
	}
	return nil
}

// reach notes in the machine's description how far it is.
func (r *build) reach(ctx context.Context, ph phase, more pve.Change) error {
	text, err := seal(r.Key, r.vm.ID, papers{r.spec.Name, ph, r.recipe}, r.spec.Image.URL)
	if err != nil {
		return err
	}
	cfg, err := r.Client.Config(ctx, r.vm)
	if err != nil {
		return err
	}
	if p, ours := open(r.Key, r.vm.ID, cfg); !ours || p.recipe != r.recipe {
		return fmt.Errorf("machine %s was changed by somebody else: %w", r.vm, errNotOurs)
	}
	if more.Set == nil {
		more.Set = map[string]string{}
	}
	more.Set["description"], more.Digest = text, cfg.Digest()
	err = r.Client.SetConfig(ctx, r.vm, more)
	if pve.Lost(err) { // then what is there tells
		if cfg, err = r.Client.Config(ctx, r.vm); err == nil && cfg.Digest() == more.Digest {
			err = r.Client.SetConfig(ctx, r.vm, more)
		}
	}
	if err == nil {
		r.phase = ph
	}
	return err
}

// convert makes the machine a template, with the drive for cloud-init that PVE
// generates in place of ours.
func (r *build) convert(ctx context.Context) (string, error) {
	cfg, err := r.Client.Config(ctx, r.vm)
	if err != nil {
		return "", err
	}
	if cfg.Template() {
		return "", nil
	}
	_, err = r.insist(ctx, func(ctx context.Context) (pve.UPID, error) { return r.Client.Shutdown(ctx, r.vm, shutdownTime, true) }, r.settled)
	if err != nil {
		return "", fmt.Errorf("switch machine %s off: %w", r.vm, err)
	}
	if !strings.Contains(cfg[media], "cloudinit") {
		set := map[string]string{media: r.disk.Name + ":cloudinit", "ipconfig0": "ip=dhcp"}
		if err := r.reach(ctx, clean, pve.Change{Set: set}); err != nil {
			return "", fmt.Errorf("replace the drive for cloud-init: %w", err)
		}
	}
	_, err = r.insist(ctx, func(ctx context.Context) (pve.UPID, error) { return r.Client.ConvertToTemplate(ctx, r.vm) }, func(ctx context.Context) (bool, error) {
		s, err := r.settle(ctx, r.vm)
		return bool(s.Template), err
	})
	return "it is a template", err
}

// settled is for a shutdown: a second one finds the machine off, which is well.
func (r *build) settled(ctx context.Context) (bool, error) {
	s, err := r.settle(ctx, r.vm)
	return err == nil && !s.Running(), err
}

// shutdownTime is how many seconds a guest has to switch itself off. It has
// written all to disk before.
const shutdownTime = 120

// verify has a sandbox made of the template. Only after that it is whole.
func (r *build) verify(ctx context.Context) (string, error) {
	detail := "left out"
	if r.Try != nil {
		if err := r.try(ctx); err != nil {
			return "", err
		}
		detail = "a sandbox was made, used and destroyed"
	}
	if r.full() {
		detail += fmt.Sprintf("; %s makes no linked clones, so that profiles need clone: full", r.disk.Name)
	}
	return detail, r.reach(ctx, whole, pve.Change{Delete: []string{"tags"}})
}

func (r *build) try(ctx context.Context) (err error) {
	_, err = r.Client.Pool(ctx, r.Pool)
	if errors.Is(err, pve.NotFound) {
		if err := r.Client.CreatePool(ctx, r.Pool, "AgentLab: to verify a template"); err != nil && !pve.Lost(err) {
			return fmt.Errorf("make pool %s: %w", r.Pool, err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.undoTime())
			defer cancel()
			derr := r.Client.DeletePool(ctx, r.Pool)
			if pve.Lost(derr) {
				derr = r.Client.DeletePool(ctx, r.Pool)
			}
			if derr != nil && !errors.Is(derr, pve.NotFound) {
				err = errors.Join(err, fmt.Errorf("remove pool %s again: %w", r.Pool, derr))
			}
		}()
	} else if err != nil {
		return err
	}
	return r.Try(ctx, r.vm, r.full())
}

// full reports whether linked clones can't be made.
func (r *build) full() bool { return !pve.Linkable(r.disk.Type) }
