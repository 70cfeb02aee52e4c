package template

import (
	"net/http"
	"strings"
	"testing"
)

// answers is a web with one page.
type answers struct {
	t      *testing.T
	status int
	body   string
	moved  string // where the page is, if not there
	asked  string
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked = r.URL.String()
	if a.moved != "" && a.asked != a.moved {
		return &http.Response{StatusCode: http.StatusFound, Request: r, Header: http.Header{"Location": {a.moved}}, Body: http.NoBody}, nil
	}
	w := &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Request: r, Header: http.Header{}}
	w.Body = http.NoBody
	if a.body != "" {
		w.Body = readCloser{strings.NewReader(a.body)}
	}
	return w, nil
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestFind(t *testing.T) {
	sum512, sum256 := strings.Repeat("ab", 64), strings.Repeat("cd", 32)
	debian := strings.Repeat("00", 64) + "  debian-12-genericcloud-amd64.raw\n" + sum512 + "  debian-12-genericcloud-amd64.qcow2\n"
	ubuntu := sum256 + " *ubuntu-24.04-server-cloudimg-amd64.img\n"
	for name, tt := range map[string]struct {
		image, body string
		status      int
		want, says  string
	}{
		"debian":    {"debian-12", debian, 200, "sha512:" + sum512, ""},
		"ubuntu":    {"ubuntu-24.04", ubuntu, 200, "sha256:" + sum256, ""},
		"not-named": {"debian-12", ubuntu, 200, "", "SHA512SUMS does not name debian-12-genericcloud-amd64.qcow2"},
		"short":     {"debian-12", "12  debian-12-genericcloud-amd64.qcow2\n", 200, "", `checksum: got "sha512:12"`},
		"missing":   {"debian-12", "", 404, "", "SHA512SUMS: Not Found"},
		"unknown":   {"plan9", "", 200, "", `image: got "plan9", want one of debian-12, debian-13, ubuntu-24.04, or a URL`},
	} {
		t.Run(name, func(t *testing.T) {
			web := &answers{t: t, status: tt.status, body: tt.body}
			got, err := Find(t.Context(), &http.Client{Transport: web}, tt.image)
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want one about %q", err, tt.says)
				}
				return
			}
			if err != nil || got.Algorithm+":"+got.Checksum != tt.want {
				t.Errorf("image %+v, %v", got, err)
			}
			if !strings.HasPrefix(web.asked, "https://") {
				t.Errorf("the checksum was asked for at %s", web.asked)
			}
		})
	}
}

// A mirror is followed to, but only where its answer can't be changed on the way.
func TestFindRedirected(t *testing.T) {
	sums := strings.Repeat("ab", 64) + "  debian-12-genericcloud-amd64.qcow2\n"
	for moved, says := range map[string]string{
		"https://mirror.example/SHA512SUMS": "", "http://mirror.example/SHA512SUMS": "it redirects to http://mirror.example/SHA512SUMS, which is not https",
	} {
		web := &answers{t: t, status: 200, body: sums, moved: moved}
		got, err := Find(t.Context(), &http.Client{Transport: web}, "debian-12")
		if says == "" && (err != nil || got.Checksum == "" || web.asked != moved) || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: asked for %s: %+v, %v", moved, web.asked, got, err)
		}
	}
	web := &answers{t: t, status: 200, moved: "https://mirror.example/one"}
	client := &http.Client{Transport: endless{web}}
	if _, err := Find(t.Context(), client, "debian-12"); err == nil || !strings.Contains(err.Error(), "more than ten times") {
		t.Errorf("redirected for ever: %v", err)
	}
}

// endless redirects every time to a page it did not redirect to before.
type endless struct{ *answers }

func (e endless) RoundTrip(r *http.Request) (*http.Response, error) {
	e.moved += "x"
	return e.answers.RoundTrip(r)
}

// Each is a valid image, once its checksum is known.
func TestPublished(t *testing.T) {
	for _, name := range Published() {
		p := published[name]
		i := Image{p.url, strings.Repeat("00", sumSizes[p.algorithm]), p.algorithm}
		if err := i.Validate(); err != nil || i.extension() != ".qcow2" {
			t.Errorf("%s: %v, %s", name, err, i.extension())
		}
	}
}

func TestParseChecksum(t *testing.T) {
	algorithm, sum, err := ParseChecksum("sha256:" + strings.Repeat("AB", 32))
	if err != nil || algorithm != "sha256" || sum != strings.Repeat("ab", 32) {
		t.Errorf("%s %s %v", algorithm, sum, err)
	}
	for _, bad := range []string{"", "sha256", strings.Repeat("ab", 32), "md5:" + strings.Repeat("ab", 16), "sha512:" + strings.Repeat("ab", 32), "sha256:" + strings.Repeat("xy", 32)} {
		if _, _, err := ParseChecksum(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
