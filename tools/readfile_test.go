package tools_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	return b.String()
}

func TestReadFile(t *testing.T) {
	e := newEnv(t)
	e.write("ten", numbered(10))
	e.write("open-end", "a\nb")
	e.write("empty", "")
	e.write("many", numbered(5310))
	e.write("latin1", "a\xff\n")
	e.write("late", strings.Repeat("x\n", 8000)+"a\xffb\n")
	e.write("long", strings.Repeat("é", 5000)+"\nend\n")
	for _, tt := range []struct {
		name string
		args args
		want string
	}{
		{"whole", args{"path": "ten"}, numbered(10)},
		{"open-end", args{"path": "open-end"}, "a\nb"},
		{"empty", args{"path": "empty"}, "[the file is empty]"},
		{"middle", args{"path": "ten", "offset": 4, "limit": 2}, "line 4\nline 5\n[lines 4–5 of 10; continue with offset=6]"},
		{"end", args{"path": "ten", "offset": 9}, "line 9\nline 10\n[lines 9–10 of 10]"},
		{"past-end", args{"path": "ten", "offset": 11}, "[offset=11 is past the end: the file has 10 lines]"},
		{"last", args{"path": "ten", "offset": -2}, "line 9\nline 10\n[lines 9–10 of 10]"},
		{"last-open-end", args{"path": "open-end", "offset": -1}, "b\n[lines 2–2 of 2]"},
		{"last-of-fewer", args{"path": "ten", "offset": -99}, numbered(10)},
		{"line-is-cut", args{"path": "long", "max_output_chars": 1000}, strings.Repeat("é", 820) + "\n[lines 1–1 of 2; this line is longer than the 820 characters shown, exec with cut -c or encoding=base64 gives the rest; continue with offset=2]"},
		{"invalid-utf8-late", args{"path": "late", "offset": 8001}, "a\uFFFDb\n[lines 8001–8001 of 8001]"},
		{"base64", args{"path": "latin1", "encoding": "base64"}, base64.StdEncoding.EncodeToString([]byte("a\xff\n"))},
		{"base64-part", args{"path": "ten", "encoding": "base64", "offset": 5, "limit": 3}, base64.StdEncoding.EncodeToString([]byte("1\nl")) + "\n[bytes 5–7 of 71; continue with offset=8]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, textOf(e.call("read_file", tt.args))); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
	e.wantText("read_file", args{"path": "many"}, "line 2000\n[lines 1–2000 of 5310; continue with offset=2001]")
	text := e.wantText("read_file", args{"path": "many", "max_output_chars": 1000}, "of 5310; continue with offset=")
	if n := utf8.RuneCountInString(text); n > 1000 {
		t.Errorf("%d characters", n)
	}
	meta := metaOf(t, e.call("read_file", args{"path": "ten", "limit": 1}))
	sum := sha256.Sum256([]byte(numbered(10)))
	if meta["sha256"] != hex.EncodeToString(sum[:]) || meta["lines"] != 10.0 || meta["size"] != 71.0 || meta["mode"] != "0644" {
		t.Errorf("meta %v", meta)
	}
}

func TestBadCallsOfReadFile(t *testing.T) {
	e := newEnv(t)
	e.write("main.go", "package main\n")
	e.write("binary", "\x7fELF\x00\x01")
	check(t, os.Mkdir(filepath.Join(e.home, "dir"), 0o755))
	e.wantError("read_file", args{"path": "mian.go"}, "/mian.go does not exist; near it there is "+e.home+"/main.go")
	e.wantError("read_file", args{"path": "no/where"}, "does not exist; nor does the directory")
	e.wantError("read_file", args{"path": "dir"}, "is a directory; list_files")
	e.wantError("read_file", args{"path": "binary"}, "is a binary file (6 bytes); use encoding=base64")
	e.wantError("read_file", args{"path": "/dev/null"}, "device")
	e.wantError("read_file", args{"path": "a\x00"}, "NUL")
}

func TestReadImage(t *testing.T) {
	e := newEnv(t)
	var b bytes.Buffer
	check(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 2, 2))))
	e.write("i", b.String())
	res := e.call("read_file", args{"path": "i"})
	if len(res.Content) != 2 || res.Content[1].MIME != "image/png" || !bytes.Equal(res.Content[1].Data, b.Bytes()) {
		t.Errorf("content %+v", res.Content)
	}
	e.write("i", b.String()+strings.Repeat("x", 5e6))
	e.wantError("read_file", args{"path": "i"}, "more than 5 MB")
}

// A file of 1 GiB is read only as far as is worth it.
func TestReadHugeFile(t *testing.T) {
	e := newEnv(t)
	path := e.write("huge", numbered(100))
	check(t, os.Truncate(path, 1<<30))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("\nlast but one\nlast\n"), 1<<30-19)
	check(t, err)
	check(t, f.Close())
	check(t, os.WriteFile(path+".txt", bytes.Repeat([]byte("0123456789abcde\n"), 5<<20), 0o644)) // 80 MiB

	text := e.wantText("read_file", args{"path": "huge.txt", "limit": 2}, "of at least 4194", "; continue with offset=3]")
	if n := strings.Count(text, "\n"); n != 2 {
		t.Errorf("%d lines", n)
	}
	e.wantText("read_file", args{"path": "huge.txt", "offset": -2}, "0123456789abcde\n0123456789abcde\n[2 of the last lines of a long file]")
	e.wantError("read_file", args{"path": "huge", "offset": -2}, "binary")
}
