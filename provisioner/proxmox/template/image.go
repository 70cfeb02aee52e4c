package template

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Image is a disk for clouds, as distributions publish it.
type Image struct {
	URL       string // http or https; the node must reach it
	Checksum  string // hex
	Algorithm string // sha256, sha384 or sha512
}

// published are images that are known by name. Each has its checksums in a file
// beside it, which follows the newest build.
var published = map[string]struct{ url, sums, algorithm string }{
	"debian-12":    {"https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2", "SHA512SUMS", "sha512"},
	"debian-13":    {"https://cloud.debian.org/images/cloud/trixie/latest/debian-13-genericcloud-amd64.qcow2", "SHA512SUMS", "sha512"},
	"ubuntu-24.04": {"https://cloud-images.ubuntu.com/releases/noble/release/ubuntu-24.04-server-cloudimg-amd64.img", "SHA256SUMS", "sha256"},
}

// Published returns the names that [Find] knows.
func Published() []string { return slices.Sorted(maps.Keys(published)) }

// CheckPublished returns nil if [Find] knows the name.
func CheckPublished(name string) error {
	if _, ok := published[name]; !ok {
		return fmt.Errorf("image: got %q, want one of %s, or a URL with a checksum", name, strings.Join(Published(), ", "))
	}
	return nil
}

// maxSums is far above the longest list of checksums.
const maxSums = 1 << 20

// Find returns the newest build of a published image. Its checksum is read over
// https by the client, from where the image is.
func Find(ctx context.Context, client *http.Client, name string) (Image, error) {
	if err := CheckPublished(name); err != nil {
		return Image{}, err
	}
	p := published[name]
	u, err := url.Parse(p.url)
	if err != nil {
		return Image{}, err
	}
	sums := u.ResolveReference(&url.URL{Path: p.sums}).String()
	safe := *client
	safe.CheckRedirect = onlyHTTPS
	sum, err := findSum(ctx, &safe, sums, path.Base(u.Path))
	if err != nil {
		return Image{}, fmt.Errorf("read the checksum of %s: %w; a URL and a checksum can be given instead", name, err)
	}
	image := Image{p.url, sum, p.algorithm}
	return image, image.Validate()
}

// onlyHTTPS lets mirrors be redirected to, but none where the answer could be
// changed on the way.
func onlyHTTPS(req *http.Request, via []*http.Request) error {
	switch {
	case req.URL.Scheme != "https":
		return fmt.Errorf("it redirects to %s, which is not https", req.URL.Redacted())
	case len(via) >= 10:
		return errors.New("it redirects more than ten times")
	}
	return nil
}

// findSum looks for a file in a list as sha256sum(1) writes it.
func findSum(ctx context.Context, client *http.Client, from, file string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", from, resp.Status)
	}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, maxSums))
	for lines.Scan() {
		sum, name, _ := strings.Cut(lines.Text(), " ")
		if strings.TrimLeft(name, " *") == file {
			return sum, nil
		}
	}
	return "", errors.Join(fmt.Errorf("%s does not name %s", from, file), lines.Err())
}

// ParseChecksum reads ALGORITHM:HEX.
func ParseChecksum(text string) (algorithm, sum string, err error) {
	algorithm, sum, _ = strings.Cut(text, ":")
	err = Image{URL: "https://host/image.qcow2", Checksum: sum, Algorithm: algorithm}.Validate()
	return algorithm, strings.ToLower(sum), err
}

var sumSizes = map[string]int{"sha256": sha256.Size, "sha384": sha512.Size384, "sha512": sha512.Size}

// Validate says what of an image can't be. It makes no calls.
func (i Image) Validate() error {
	u, err := url.Parse(i.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("url: got %q, want http://HOST/PATH or https://HOST/PATH", i.URL)
	}
	if e := strings.ToLower(path.Ext(u.Path)); slices.Contains([]string{".xz", ".gz", ".bz2", ".zst", ".zip", ".tar"}, e) {
		return fmt.Errorf("url: %s is packed (%s), which Proxmox VE does not import; name a .qcow2, .img or .raw", u.Path, e)
	}
	raw, err := hex.DecodeString(i.Checksum)
	if size := sumSizes[i.Algorithm]; err != nil || size == 0 || len(raw) != size {
		return fmt.Errorf("checksum: got %q, want sha256:, sha384: or sha512: and its digits in hex", i.Algorithm+":"+i.Checksum)
	}
	return nil
}

// extension is how the file must be called to be imported: an .img, as many are
// called, is refused (measured).
func (i Image) extension() string {
	u, _ := url.Parse(i.URL) // it was validated
	switch e := strings.ToLower(path.Ext(u.Path)); e {
	case ".raw", ".vmdk":
		return e
	}
	return ".qcow2"
}
