package qemuguest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed recipe.sh
var recipe string

// programs are what guests need on the host, by the Debian package that has
// them.
var programs = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "mmdebstrap": "mmdebstrap",
	"genisoimage": "genisoimage", "mke2fs": "e2fsprogs", "cpio": "cpio",
}

// Image is what guests boot from. It is never written to.
type Image struct {
	Disk, Kernel, Initrd string
	Arguments            string // of the kernel, besides those of all
	Packages             string // directory with a package repository for it; empty if it needs none
}

// Kinds of images.
const (
	ready = "ready" // with an agent, for sandboxes
	stock = "stock" // as distributions publish them
)

// Cached returns the image that is kept for all who run guests: in the directory
// that AGENTLAB_VM_CACHE names, else in one of the user's cache. It is made
// first, out of the Debian archive, when this recipe was not yet followed there;
// that takes a minute or two. Processes that do so at once wait for one of them.
// It needs root or subordinate ids; an error names what is missing.
func Cached(ctx context.Context) (Image, error) { return cached(ctx, ready) }

// CachedStock is Cached for an image of which a template can be built: Debian's
// cloud-init as Debian configures it, and no guest agent, which is in Packages.
func CachedStock(ctx context.Context) (Image, error) { return cached(ctx, stock) }

func cached(ctx context.Context, kind string) (Image, error) {
	dir := os.Getenv("AGENTLAB_VM_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return Image{}, err
		}
		dir = filepath.Join(cache, "agentlab-vm")
	}
	return build(ctx, dir, kind)
}

func build(ctx context.Context, cache, kind string) (Image, error) {
	if err := missing(); err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, kind+"-"+fmt.Sprintf("%x", sha256.Sum256([]byte(recipe)))[:16])
	img := Image{Disk: filepath.Join(dir, "disk.qcow2"), Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd")}
	if kind == stock {
		img.Packages = filepath.Join(dir, "packages")
	} else {
		// cloud-init does all its work before the network is up, in one go.
		img.Arguments = "ds=nocloud"
	}
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // nothing secret: others may boot from it
		return Image{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Image{}, err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { //nolint:gosec // a file descriptor is small
		return Image{}, fmt.Errorf("lock %s: %w", cache, err)
	}
	if _, err := os.Stat(img.Disk); err == nil {
		return img, nil
	}
	return img, follow(ctx, cache, dir, kind)
}

// follow makes the image aside and puts it in place when it is complete.
func follow(ctx context.Context, cache, dir, kind string) error {
	work, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", recipe, "recipe.sh", work, kind)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		// mmdebstrap mounts /proc, /sys and /dev below work. Were it killed, they
		// would be there when work is removed; in a namespace they end with it.
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the image of a guest: %w\n%s", err, out)
	}
	if err := os.Chmod(work, 0o755); err != nil { //nolint:gosec // as the cache
		return err
	}
	return os.Rename(work, dir)
}

// missing names the programs that are not there.
func missing() error {
	var packages []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			packages = append(packages, pkg)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	return fmt.Errorf("missing here; as root: apt-get install -y --no-install-recommends %s", strings.Join(packages, " "))
}
