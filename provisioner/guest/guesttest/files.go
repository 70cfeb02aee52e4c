package guesttest

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// write writes content to name in the harness's directory.
func (h Harness) write(t *testing.T, name, content string, opt guest.WriteOptions) guest.WriteResult {
	t.Helper()
	res, err := h.Conn.WriteFile(within(t), h.Dir+"/"+name, strings.NewReader(content), opt)
	check(t, err)
	return res
}

// get reads all of name.
func (h Harness) get(t *testing.T, name string, off, n int64) (string, guest.FileInfo) {
	t.Helper()
	r, info, err := h.Conn.ReadFile(within(t), h.Dir+"/"+name, off, n)
	check(t, err)
	text, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	return string(text), info
}

func testReadRanges(t *testing.T, h Harness) {
	h.write(t, "f", "0123456789", guest.WriteOptions{Mode: 0o640})
	for _, tt := range []struct {
		off, n int64
		want   string
	}{
		{0, -1, "0123456789"}, {3, 4, "3456"}, {8, 10, "89"}, {-3, -1, "789"}, {-3, 2, "78"},
		{-99, 2, "01"}, {10, -1, ""}, {99, 5, ""}, {2, 0, ""},
	} {
		t.Run(fmt.Sprintf("%d,%d", tt.off, tt.n), func(t *testing.T) {
			got, info := h.get(t, "f", tt.off, tt.n)
			if got != tt.want || info.Size != 10 || info.Mode != 0o640 || info.Path != h.Dir+"/f" {
				t.Errorf("got %q of %+v, want %q", got, info, tt.want)
			}
		})
	}
	h.sh(t, "ln -s f link")
	if got, info := h.get(t, "link", 0, -1); got != "0123456789" || !info.Mode.IsRegular() {
		t.Errorf("through a link: %q, %v", got, info.Mode)
	}
	r, _, err := h.Conn.ReadFile(within(t), "/proc/self/stat", 0, -1) // says it is empty
	check(t, err)
	text, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if len(text) == 0 {
		t.Error("a file of /proc is empty")
	}
}

func testReadWrongKinds(t *testing.T, h Harness) {
	h.sh(t, "mkdir dir; echo x >file; mkfifo fifo; ln -s nowhere dangling; ln -s loop loop")
	for _, tt := range []struct {
		path        string
		read, write error
	}{
		{h.Dir + "/dir", guest.ErrIsDir, guest.ErrIsDir},
		{h.Dir + "/fifo", guest.ErrNotRegular, guest.ErrNotRegular},
		{"/dev/zero", guest.ErrNotRegular, guest.ErrNotRegular},
		{h.Dir + "/none", fs.ErrNotExist, nil},
		{h.Dir + "/file/below", guest.ErrNotDir, guest.ErrNotDir},
		{h.Dir + "/new/", fs.ErrNotExist, guest.ErrIsDir},
	} {
		t.Run(strings.TrimPrefix(tt.path, h.Dir+"/"), func(t *testing.T) {
			_, _, err := h.Conn.ReadFile(within(t), tt.path, 0, -1)
			wantErr(t, err, tt.read)
			_, err = h.Conn.WriteFile(within(t), tt.path, strings.NewReader("x"), guest.WriteOptions{})
			wantErr(t, err, tt.write)
		})
	}
	for _, path := range []string{"loop", "nul\x00byte"} {
		if _, _, err := h.Conn.ReadFile(within(t), h.Dir+"/"+path, 0, -1); err == nil || errors.Is(err, guest.ErrUnreachable) {
			t.Errorf("%q: error %v", path, err)
		}
	}
}

func testWriteReplaces(t *testing.T, h Harness) {
	if res := h.write(t, "a/b/c/new", "one", guest.WriteOptions{}); !res.Created || res.Bytes != 3 {
		t.Errorf("first write: %+v", res)
	}
	if _, info := h.get(t, "a/b/c/new", 0, -1); info.Mode != 0o644 {
		t.Errorf("new file has mode %v", info.Mode)
	}
	h.sh(t, "chmod 750 a/b/c/new; ln -s a/b/c/new link; ln -s a/fresh dangling; exec 9<a/b/c/new; cat <&9 >/dev/null")
	if res := h.write(t, "link", "two", guest.WriteOptions{}); res.Created {
		t.Errorf("second write: %+v", res)
	}
	if got, info := h.get(t, "a/b/c/new", 0, -1); got != "two" || info.Mode != 0o750 {
		t.Errorf("through a link: %q, %v", got, info.Mode)
	}
	h.write(t, "link", "three", guest.WriteOptions{Mode: 0o600})
	if _, info := h.get(t, "a/b/c/new", 0, -1); info.Mode != 0o600 {
		t.Errorf("asked for mode: %v", info.Mode)
	}
	h.write(t, "dangling", "four", guest.WriteOptions{})
	if got, _ := h.get(t, "a/fresh", 0, -1); got != "four" {
		t.Errorf("through a dangling link: %q", got)
	}
	if got := h.sh(t, "readlink link; readlink dangling; find . -name '.agentlab*'"); got != "a/b/c/new\na/fresh\n" {
		t.Errorf("links and leftovers: %q", got)
	}
}

// halfway calls a function when half has been read.
type halfway struct {
	first, second string
	call          func() error
	step          int
}

func (r *halfway) Read(b []byte) (int, error) {
	switch r.step++; r.step {
	case 1:
		return copy(b, r.first), nil
	case 2:
		if err := r.call(); err != nil {
			return 0, err
		}
		return copy(b, r.second), nil
	}
	return 0, io.EOF
}

func testWriteFails(t *testing.T, h Harness) {
	h.write(t, "f", "old", guest.WriteOptions{})
	h.sh(t, "ln f hardlink")
	old := func() { // nobody sees a part
		if got, _ := h.get(t, "f", 0, -1); got != "old" {
			t.Errorf("meanwhile the file has %q", got)
		}
	}
	boom := errors.New("boom")
	fail := func(name string, want error, ctx context.Context, call func() error) {
		_, err := h.Conn.WriteFile(ctx, h.Dir+"/f", &halfway{first: "new", second: "er", call: call}, guest.WriteOptions{})
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
		old()
	}
	fail("reader fails", boom, within(t), func() error { old(); return boom })
	ctx, cancel := context.WithCancel(within(t))
	fail("cancelled", context.Canceled, ctx, func() error { cancel(); return nil })
	if h.Break != nil {
		fail("connection breaks", guest.ErrUnreachable, within(t), func() error { h.Break(); return nil })
	}
	h.sh(t, "while [ \"$(find . -name '.agentlab*')\" ]; do sleep 0.02; done")
	_, err := h.Conn.WriteFile(within(t), h.Dir+"/f", &halfway{first: "new", second: "er", call: func() error { old(); return nil }}, guest.WriteOptions{})
	check(t, err)
	if got := h.sh(t, "cat f hardlink"); got != "newerold" {
		t.Errorf("after it %q", got)
	}
}

func testWriteUnless(t *testing.T, h Harness) {
	h.write(t, "f", "one", guest.WriteOptions{})
	_, info := h.get(t, "f", 0, -1)
	h.write(t, "f", "two", guest.WriteOptions{Unless: &info})
	_, err := h.Conn.WriteFile(within(t), h.Dir+"/f", strings.NewReader("x"), guest.WriteOptions{Unless: &info})
	wantErr(t, err, guest.ErrChanged)
	_, info = h.get(t, "f", 0, -1)
	_, err = h.Conn.WriteFile(within(t), h.Dir+"/f", &halfway{first: "x", second: "y", call: func() error {
		h.write(t, "f", "meanwhile", guest.WriteOptions{})
		return nil
	}}, guest.WriteOptions{Unless: &info})
	wantErr(t, err, guest.ErrChanged)
	if got, _ := h.get(t, "f", 0, -1); got != "meanwhile" {
		t.Errorf("file has %q", got)
	}
}

func testWriteAppends(t *testing.T, h Harness) {
	if res := h.write(t, "d/f", "one", guest.WriteOptions{Append: true}); !res.Created {
		t.Errorf("first: %+v", res)
	}
	h.sh(t, "chmod 600 d/f; ln d/f same")
	if res := h.write(t, "d/f", "two", guest.WriteOptions{Append: true}); res.Created || res.Bytes != 3 {
		t.Errorf("second: %+v", res)
	}
	if got, info := h.get(t, "same", 0, -1); got != "onetwo" || info.Mode != 0o600 {
		t.Errorf("file has %q, mode %v", got, info.Mode)
	}
}

func testWriteNoSpace(t *testing.T, h Harness) {
	if h.Full == "" {
		return
	}
	h.sh(t, "echo old >"+h.Full+"/f")
	_, err := h.Conn.WriteFile(within(t), h.Full+"/f", bytes.NewReader(make([]byte, mega)), guest.WriteOptions{})
	wantErr(t, err, guest.ErrNoSpace)
	if got := h.sh(t, "cd "+h.Full+"; cat f; ls -A"); got != "old\nf\n" {
		t.Errorf("after it: %q", got)
	}
}

func testDenied(t *testing.T, h Harness) {
	if h.Denied == "" {
		return
	}
	_, _, err := h.Conn.ReadFile(within(t), h.Denied, 0, -1)
	wantErr(t, err, fs.ErrPermission)
	_, err = h.Conn.WriteFile(within(t), h.Denied, strings.NewReader("x"), guest.WriteOptions{})
	wantErr(t, err, fs.ErrPermission)
	h.sh(t, "mkdir closed; chmod 0 closed")
	_, err = h.Conn.ListFiles(within(t), h.Dir+"/closed", guest.ListOptions{})
	wantErr(t, err, fs.ErrPermission)
	h.sh(t, "chmod 700 closed")
}

func testNames(t *testing.T, h Harness) {
	names := []string{"with space", "new\nline", "\xff\xfe bytes", "-dash", "*", "quote'\"", "ünï", strings.Repeat("l", 255)}
	for _, name := range names {
		h.write(t, name, name, guest.WriteOptions{})
		if got, info := h.get(t, name, 0, -1); got != name || info.Path != h.Dir+"/"+name {
			t.Errorf("%q holds %q, path %q", name, got, info.Path)
		}
	}
	list, err := h.Conn.ListFiles(within(t), h.Dir, guest.ListOptions{})
	check(t, err)
	found := map[string]bool{}
	for _, f := range list.Files {
		found[strings.TrimPrefix(f.Path, h.Dir+"/")] = true
	}
	for _, name := range names {
		if !found[name] {
			t.Errorf("%q is not listed", name)
		}
	}
	if len(list.Files) != len(names) || list.Total != len(names) {
		t.Errorf("%d files listed, total %d", len(list.Files), list.Total)
	}
}

// noise is a stream that is the same each time, with the hash of what was read.
type noise struct {
	src  *rand.ChaCha8
	left int64
	sum  hash.Hash
}

func (n *noise) Read(b []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), n.left)]
	_, _ = n.src.Read(b) // never fails
	n.sum.Write(b)
	n.left -= int64(len(b))
	return len(b), nil
}

func testBigFile(t *testing.T, h Harness) {
	size := stdcmp.Or(h.Big, 1<<30)
	if testing.Short() {
		size = min(size, 64<<20)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	h.sh(t, "true")
	before := heap()
	src := &noise{src: rand.NewChaCha8([32]byte{}), left: size, sum: sha256.New()}
	res, err := h.Conn.WriteFile(ctx, h.Dir+"/big", src, guest.WriteOptions{})
	check(t, err)
	if res.Bytes != size {
		t.Errorf("wrote %d bytes", res.Bytes)
	}
	r, info, err := h.Conn.ReadFile(ctx, h.Dir+"/big", 0, -1)
	check(t, err)
	back := sha256.New()
	n, err := io.Copy(back, r)
	check(t, errors.Join(err, r.Close()))
	if n != size || info.Size != size || !bytes.Equal(src.sum.Sum(nil), back.Sum(nil)) {
		t.Errorf("read %d of %d bytes, or others than were written", n, info.Size)
	}
	if grown := heap() - before; grown > 16*mega {
		t.Errorf("our heap grew by %d bytes", grown)
	}
	if kb := h.resident(t); kb > 32<<10 {
		t.Errorf("the guest's server takes %d kB", kb)
	}
}

func testList(t *testing.T, h Harness) {
	h.sh(t, "mkdir -p a/b/c d; touch a/x.go a/b/y.go a/b/c/z.go a-b top.go; ln -s a dirlink")
	mtime := time.Date(2001, 2, 3, 4, 5, 6, 789e6, time.UTC)
	if h.sh(t, "touch -d '2001-02-03 04:05:06.789 UTC' top.go || { TZ=UTC touch -d '2001-02-03 04:05:06' top.go && echo busybox; }") != "" {
		mtime = mtime.Truncate(time.Second) // which it sets only so
	}
	for _, tt := range []struct {
		name string
		opt  guest.ListOptions
		want []string
	}{
		{"one_level", guest.ListOptions{}, []string{"a", "a-b", "d", "dirlink", "top.go"}},
		{"two_levels", guest.ListOptions{Depth: 2}, []string{"a", "a-b", "a/b", "a/x.go", "d", "dirlink", "top.go"}},
		{"glob", guest.ListOptions{Depth: 9, Pattern: "*.go"}, []string{"top.go"}},
		{"deep_glob", guest.ListOptions{Depth: 9, Pattern: "**/*.go"}, []string{"a/b/c/z.go", "a/b/y.go", "a/x.go", "top.go"}},
		{"below", guest.ListOptions{Depth: 9, Pattern: "a/*"}, []string{"a/b", "a/x.go"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := h.Conn.ListFiles(within(t), h.Dir, tt.opt)
			check(t, err)
			var got []string
			for _, f := range list.Files {
				got = append(got, strings.TrimPrefix(f.Path, h.Dir+"/"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || list.Total != len(tt.want) || list.More {
				t.Errorf("total %d, more %v, paths (-want +got):\n%s", list.Total, list.More, diff)
			}
		})
	}
	list, err := h.Conn.ListFiles(within(t), h.Dir+"/top.go", guest.ListOptions{})
	check(t, err)
	if len(list.Files) != 1 || list.Files[0].Path != h.Dir+"/top.go" || !list.Files[0].MTime.Equal(mtime) {
		t.Errorf("a file lists %+v", list.Files)
	}
	list, err = h.Conn.ListFiles(within(t), h.Dir, guest.ListOptions{Pattern: "dirlink"})
	check(t, err)
	if len(list.Files) != 1 || list.Files[0].Link != "a" || list.Files[0].Mode.Type() != fs.ModeSymlink {
		t.Errorf("a link lists %+v", list.Files)
	}
	_, err = h.Conn.ListFiles(within(t), h.Dir+"/none", guest.ListOptions{})
	wantErr(t, err, fs.ErrNotExist)
	_, err = h.Conn.ListFiles(within(t), h.Dir+"/top.go/x", guest.ListOptions{})
	wantErr(t, err, guest.ErrNotDir)
}

func testListLimits(t *testing.T, h Harness) {
	h.sh(t, "seq 1 3000 | xargs touch")
	list, err := h.Conn.ListFiles(within(t), h.Dir, guest.ListOptions{Limit: 3})
	check(t, err)
	if len(list.Files) != 3 || list.Total != 3000 || list.Files[0].Path != h.Dir+"/1" || list.Files[2].Path != h.Dir+"/100" {
		t.Errorf("total %d, files %+v", list.Total, list.Files)
	}
	list, err = h.Conn.ListFiles(within(t), h.Dir, guest.ListOptions{})
	check(t, err)
	if len(list.Files) != 200 {
		t.Errorf("%d files by default", len(list.Files))
	}
}
