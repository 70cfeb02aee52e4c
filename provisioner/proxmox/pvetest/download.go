package pvetest

import (
	"bytes"
	"cmp"
	"crypto/md5"  //nolint:gosec // a checksum PVE offers
	"crypto/sha1" //nolint:gosec // a checksum PVE offers
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// download is the work of download-url: really over HTTP, to nowhere. A file
// that is there already is success if its checksum was given and is right.
func (c *call) download(j *job, st *Storage, content, name string) error {
	id := fmt.Sprintf("%s:%s/%s", st.ID, content, name)
	from, algorithm, want := c.p.str("url"), c.p.str("checksum-algorithm"), strings.ToLower(c.p.str("checksum"))
	j.printf("downloading %s to %s", from, filePath(content, name))
	if old := c.s.c.Volumes[id]; old != nil {
		right := want != "" && c.s.c.sums[id+algorithm] == want
		switch line := "calculating checksum of existing file..."; {
		case right:
			j.print(line + "OK, got correct file already, no need to download")
			return nil
		case want != "":
			j.print(line)
		}
		if want == "" {
			return die("refusing to override existing file '%s'", filePath(content, name))
		}
		return die("checksum mismatch: got '%s' != expect '%s', aborting", c.s.c.sums[id+algorithm], want)
	}
	var f fetched
	var err error
	c.s.unlocked(func() { f, err = c.fetch(j, from, algorithm) })
	if err != nil {
		return die("download failed: %v", err)
	}
	if err := j.spend(); err != nil {
		return err
	}
	switch {
	case want != "" && f.sum != want:
		j.print("calculating checksum...")
		return die("checksum mismatch: got '%s' != expect '%s'", f.sum, want)
	case want != "":
		j.print("calculating checksum...OK, checksum verified")
	}
	if err := f.check(content, name, fmt.Sprintf("%s.tmp_dwnl.%d", filePath(content, name), j.pid)); err != nil {
		return die("failed to verify file: %v", err)
	}
	if st.Full {
		return die("download failed: wget: cannot write to '%s' (No space left on device).", filePath(content, name))
	}
	c.keep(st, name, f)
	c.s.c.sums[id+algorithm] = f.sum
	j.printf("download of '%s' to '%s' finished", from, filePath(content, name))
	return nil
}

// filePath is where a storage of type dir keeps a file.
func filePath(content, name string) string {
	if content != "import" {
		content = "template/" + strings.Replace(content, "vztmpl", "cache", 1)
	}
	return "/var/lib/vz/" + content + "/" + name
}

// volumePath is where a volume is by its ID, or the path that is in its place.
func volumePath(id string) string {
	_, name := cutVolume(id)
	if content, file, ok := strings.Cut(name, "/"); ok && (content == "import" || content == "iso") {
		return filePath(content, file)
	}
	if m := imageVolume.FindStringSubmatch(name); m != nil { // the path has no base
		name = m[1] + "/" + m[2]
	}
	return "/var/lib/vz/images/" + name
}

// fetched is what a download gave.
type fetched struct {
	size    int64 // virtual, of an image
	sum     string
	format  string
	backing bool
}

// web is the node's way to the rest of the world.
func (c *call) web() *http.Client {
	verify := !c.p.has("verify-certificates") || c.p.flag("verify-certificates")
	web := &http.Transport{DialContext: c.s.dialWeb, DisableKeepAlives: true}
	web.TLSClientConfig = &tls.Config{InsecureSkipVerify: !verify} //nolint:gosec // as it was asked for
	return &http.Client{Timeout: time.Minute, Transport: web}
}

func (c *call) fetch(j *job, from, algorithm string) (fetched, error) {
	req, err := http.NewRequestWithContext(j.ctx, http.MethodGet, from, nil)
	if err != nil {
		return fetched{}, err
	}
	resp, err := c.web().Do(req)
	if err != nil {
		return fetched{}, wgetError(from, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fetched{}, errors.New("exit code 8")
	}
	h, head := newHash(algorithm), &bytes.Buffer{}
	n, err := io.Copy(io.MultiWriter(h, &limited{head, 64}), resp.Body)
	if err != nil {
		return fetched{}, errors.New("exit code 4")
	}
	return examine(head.Bytes(), n, h), nil
}

// inspect is fetch for a file that is here already.
func inspect(data []byte, algorithm string) fetched {
	h := newHash(algorithm)
	_, _ = h.Write(data)
	return examine(data, int64(len(data)), h)
}

// examine reads the head of an image (docs/interop/qcow2.txt of QEMU).
func examine(head []byte, size int64, h hash.Hash) fetched {
	f := fetched{size: size, sum: hex.EncodeToString(h.Sum(nil)), format: "raw"}
	if len(head) >= 32 && string(head[:4]) == "QFI\xfb" {
		f.format, f.size, f.backing = "qcow2", int64(binary.BigEndian.Uint64(head[24:])), binary.BigEndian.Uint64(head[8:]) != 0
	}
	return f
}

// check is what PVE looks for in an image that comes from outside.
func (f fetched) check(content, name, path string) error {
	switch {
	case content == "import" && strings.HasSuffix(name, ".qcow2") && f.format != "qcow2":
		return die("qemu-img: Could not open '%s': Image is not in qcow2 format", path)
	case content == "import" && f.backing:
		return die("backing file not allowed for untrusted image '%s'!", path)
	}
	return nil
}

// wgetError says it as wget does.
func wgetError(from string, err error) error {
	u, _ := url.Parse(from)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("wget: unable to resolve host address '%s'", u.Hostname())
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return fmt.Errorf("ERROR: The certificate of '%s' doesn't have a known issuer.", u.Hostname()) //nolint:revive,staticcheck // wget's words
	case errors.As(err, new(tls.RecordHeaderError)), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return errors.New("Unable to establish SSL connection.") //nolint:revive,staticcheck // wget's words
	}
	for _, why := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ENETUNREACH} {
		if errors.Is(err, why) {
			return fmt.Errorf("Connecting to %s... failed: %s.", hostPort(u), capitalized(why.Error())) //nolint:revive,staticcheck // wget's words
		}
	}
	return errors.New("exit code 4")
}

func hostPort(u *url.URL) string {
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "md5":
		return md5.New() //nolint:gosec // a checksum PVE offers
	case "sha1":
		return sha1.New() //nolint:gosec // a checksum PVE offers
	case "sha224":
		return sha256.New224()
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	}
	return sha256.New()
}

// limited keeps the first n bytes.
type limited struct {
	buf *bytes.Buffer
	n   int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.n - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
