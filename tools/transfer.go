package tools

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

type hostDirsKey struct{}

// WithHostDirs returns a context in which the caller's own files below dirs
// can be transferred. Without it, the tools for that are not offered.
func WithHostDirs(ctx context.Context, dirs hosttree.Dirs) context.Context {
	return context.WithValue(ctx, hostDirsKey{}, dirs)
}

// hostDirs returns what the caller allows.
func hostDirs(ctx context.Context) hosttree.Dirs {
	dirs, _ := ctx.Value(hostDirsKey{}).(hosttree.Dirs)
	return dirs
}

func hasHostDirs(ctx context.Context) bool { return len(hostDirs(ctx).Paths()) > 0 }

// transferMost is how long a transfer may take: as much as there may be, over the
// slowest channel.
const transferMost = time.Hour

type uploadIn struct {
	target
	LocalPath string `arg:"local_path,required" bytes:"4095" doc:"Absolute, in a directory that the user allowed"`
	Path      string `arg:"path" bytes:"4095" doc:"What it becomes in the sandbox; default the same name in home"`
}

type uploadOut struct {
	Path    string `json:"path"`
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	Skipped int    `json:"skipped"`
}

func (s *service) uploadFile() Tool {
	return define(s, Tool{
		Name: "upload_file", Title: "Upload from the user's machine",
		Scope:       sessions.ScopeWrite,
		Offered:     hasHostDirs,
		Description: "Copy a file or directory of the user's machine into a sandbox, without what .gitignore names and without .git. An existing directory is added to.",
		Output:      outputOf[uploadOut](),
		Annotations: Annotations{Destructive: true},
		Meta:        hint("copy local files or a project into the sandbox"),
		Doing:       "uploading",
		Most:        transferMost,
	}, func(ctx context.Context, m *sessions.Manager, in uploadIn) (Result, error) {
		dirs := hostDirs(ctx)
		file, err := dirs.Open(in.LocalPath)
		if err != nil {
			return Result{}, hostError(dirs, in.LocalPath, err)
		}
		defer file.Close()
		var out uploadOut
		err = m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			out.Path = beneath(absolute(sb, in.Path), in.Path, filepath.Base(in.LocalPath))
			var stats hosttree.Stats
			var err error
			if file.Info.IsDir() {
				stats, err = uploadTree(ctx, conn, dirs, in.LocalPath, out.Path)
			} else {
				stats, err = uploadOne(ctx, conn, file, out.Path)
			}
			out.Files, out.Bytes, out.Skipped = stats.Files, stats.Bytes, stats.Skipped
			return err
		})
		if err != nil {
			return Result{}, hostError(dirs, in.LocalPath, err)
		}
		return structured(out, transferred(out.Files, out.Bytes, out.Skipped, out.Path)), nil
	})
}

// beneath adds a name to a path that was not given, or as a directory.
func beneath(full, given, name string) string {
	if given == "" || strings.HasSuffix(given, "/") {
		return path.Join(full, name)
	}
	return full
}

func transferred(files int, bytes int64, skipped int, to string) string {
	text := fmt.Sprintf("%s, %s, copied to %s", count(files, "file", "files"), count(int(bytes), "byte", "bytes"), quoted(to))
	if skipped > 0 {
		text += fmt.Sprintf("; %d left out: neither file nor directory, links that lead out, or git's own", skipped)
	}
	return text
}

func uploadOne(ctx context.Context, conn guest.Conn, file *hosttree.File, to string) (hosttree.Stats, error) {
	if file.Info.Size() > hosttree.MaxBytes {
		return hosttree.Stats{}, hosttree.ErrTooMuch
	}
	content := io.TeeReader(io.LimitReader(file, hosttree.MaxBytes), newTally(ctx, file.Info.Size))
	wrote, err := conn.WriteFile(ctx, to, content, guest.WriteOptions{Mode: file.Info.Mode().Perm()})
	if err != nil {
		return hosttree.Stats{}, fileError(ctx, conn, to, err)
	}
	return hosttree.Stats{Files: 1, Bytes: wrote.Bytes}, nil
}

// Unpacks standard input beside $1, as $2, and then moves it there: whoever
// looks meanwhile sees nothing half done, unless the directory existed.
const unpackScript = `set -e
mkdir -p "$(dirname "$1")"
mkdir "$2"
tar -xf - -C "$2"
if [ -d "$1" ]; then cp -Rp "$2/." "$1/"; rm -rf "$2"; exit; fi
if [ -e "$1" ] || [ -L "$1" ]; then echo "$1 is a file" >&2; exit 1; fi
mv "$2" "$1"`

// uploadTree sends a directory as a tar.
func uploadTree(ctx context.Context, conn guest.Conn, dirs hosttree.Dirs, from, to string) (hosttree.Stats, error) {
	temp := path.Join(path.Dir(to), ".agentlab-"+rand.Text()[:12])
	r, w := io.Pipe()
	var stats hosttree.Stats
	packed := make(chan error, 1)
	moved := newTally(ctx, func() int64 {
		size, _ := dirs.PackedSize(ctx, from) // what is wrong with it, Pack says
		return size
	})
	go func() {
		var err error
		stats, err = dirs.Pack(ctx, from, io.MultiWriter(w, moved))
		_ = w.CloseWithError(err)
		packed <- err
	}()
	err := inShell(ctx, conn, guest.Streams{Stdin: r}, unpackScript, to, temp)
	_ = r.CloseWithError(errStopped)
	if perr := <-packed; perr != nil && !errors.Is(perr, errStopped) {
		err = perr
	}
	if err != nil {
		removeInGuest(ctx, conn, temp)
	}
	return stats, err
}

// errStopped: the other end of a pipe needs no more.
var errStopped = errors.New("not needed any more")

// removeInGuest takes away what a transfer that failed has left. It outlives
// the call, which may have been cancelled.
func removeInGuest(ctx context.Context, conn guest.Conn, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// If it can't be reached, its files are of no more interest.
	_, _ = conn.Run(ctx, guest.Cmd{Args: []string{"rm", "-rf", "--", name}}, guest.Streams{})
}

// inShell runs a script of ours in the guest. What it says on standard error
// is the error if it fails.
func inShell(ctx context.Context, conn guest.Conn, std guest.Streams, script string, args ...string) error {
	said := &tail{most: 300} // tar may have warned of much before
	std.Stderr = said
	exit, err := conn.Run(ctx, guest.Cmd{Args: append([]string{"sh", "-c", script, "sh"}, args...)}, std)
	switch {
	case err != nil:
		return err
	case exit.Code == 127:
		return invalid("the sandbox has no tar, mkdir, cp or mv, which copying directories needs; install them with exec, or copy single files")
	case exit.Code != 0:
		return sessions.Errorf(sessions.Conflict, "copying failed in the sandbox: %s", strings.ToValidUTF8(strings.TrimSpace(string(said.kept)), "?"))
	}
	return nil
}

// tail keeps the last bytes of what is written to it.
type tail struct {
	kept []byte
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-t.most):]
	return len(p), nil
}

type downloadIn struct {
	target
	Path      string `arg:"path,required" bytes:"4095" doc:"File or directory in the sandbox"`
	LocalPath string `arg:"local_path,required" bytes:"4095" doc:"Absolute; what it becomes, in a directory that the user allowed"`
	Overwrite bool   `arg:"overwrite" doc:"Replace an existing file, add to an existing directory"`
}

type downloadOut struct {
	LocalPath string `json:"local_path"`
	Files     int    `json:"files"`
	Bytes     int64  `json:"bytes"`
	Skipped   int    `json:"skipped"`
}

func (s *service) downloadFile() Tool {
	return define(s, Tool{
		Name: "download_file", Title: "Download to the user's machine",
		Scope:       sessions.ScopeRead,
		Offered:     hasHostDirs,
		Description: "Copy a file or directory of a sandbox to the user's machine. Nothing is replaced without overwrite; .git is left out.",
		Output:      outputOf[downloadOut](),
		Annotations: Annotations{Destructive: true},
		Meta:        hint("copy results out of the sandbox to local files"),
		Doing:       "downloading",
		Most:        transferMost,
	}, func(ctx context.Context, m *sessions.Manager, in downloadIn) (Result, error) {
		dirs := hostDirs(ctx)
		var out downloadOut
		err := m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			from := absolute(sb, in.Path)
			out.LocalPath = beneath(in.LocalPath, in.LocalPath, path.Base(from))
			stats, err := downloadOne(ctx, conn, dirs, from, out.LocalPath, in.Overwrite)
			if errors.Is(err, guest.ErrIsDir) {
				stats, err = downloadTree(ctx, conn, dirs, from, out.LocalPath, in.Overwrite)
			}
			out.Files, out.Bytes, out.Skipped = stats.Files, stats.Bytes, stats.Skipped
			return err
		})
		if err != nil {
			return Result{}, hostError(dirs, out.LocalPath, err)
		}
		return structured(out, transferred(out.Files, out.Bytes, out.Skipped, out.LocalPath)), nil
	})
}

func downloadOne(ctx context.Context, conn guest.Conn, dirs hosttree.Dirs, from, to string, overwrite bool) (hosttree.Stats, error) {
	r, info, err := conn.ReadFile(ctx, from, 0, -1)
	switch {
	case errors.Is(err, guest.ErrIsDir):
		return hosttree.Stats{}, err
	case err != nil:
		return hosttree.Stats{}, fileError(ctx, conn, from, err)
	}
	defer r.Close()
	return dirs.Save(ctx, to, io.TeeReader(r, newTally(ctx, func() int64 { return info.Size })), info.Mode, overwrite)
}

// downloadTree receives a directory as a tar.
func downloadTree(ctx context.Context, conn guest.Conn, dirs hosttree.Dirs, from, to string, overwrite bool) (hosttree.Stats, error) {
	r, w := io.Pipe()
	var stats hosttree.Stats
	unpacked := make(chan error, 1)
	go func() {
		var err error
		if stats, err = dirs.Unpack(ctx, to, r, overwrite); err == nil {
			_, err = io.Copy(io.Discard, r) // what pads the archive
		}
		_ = r.CloseWithError(errors.Join(err, errStopped))
		unpacked <- err
	}()
	moved := newTally(ctx, func() int64 { return 0 })
	err := inShell(ctx, conn, guest.Streams{Stdout: io.MultiWriter(w, moved)}, `cd "$1" && exec tar -cf - .`, from)
	_ = w.CloseWithError(err)
	if uerr := <-unpacked; uerr != nil && (err == nil || !errors.Is(uerr, err)) {
		err = uerr
	}
	return stats, err
}

// hostError words what concerns the user's own files.
func hostError(dirs hosttree.Dirs, name string, err error) error {
	var known *sessions.Error
	switch {
	case errors.As(err, &known), errors.Is(err, guest.ErrUnreachable):
		return err
	case errors.Is(err, hosttree.ErrNotAllowed):
		return invalid("local_path: %v; allowed: what is below %s, and not in .git", err, strings.Join(dirs.Paths(), ", "))
	case errors.Is(err, hosttree.ErrTooMuch):
		return invalid("local_path: %v; copy parts of it, or make an archive in the sandbox", err)
	case errors.Is(err, hosttree.ErrConflict):
		return sessions.Errorf(sessions.Conflict, "local_path: %s: %v; choose another local_path", quoted(name), err)
	case errors.Is(err, hosttree.ErrBadArchive):
		return sessions.Errorf(sessions.Conflict, "the sandbox's tar gave no valid archive; nothing was written")
	case errors.Is(err, fs.ErrExist):
		return sessions.Errorf(sessions.Conflict, "local_path: %s exists; set overwrite=true or choose another", quoted(name))
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return invalid("local_path: %v, on the user's machine", err)
	}
	return err
}
