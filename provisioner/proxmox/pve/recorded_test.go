package pve_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	secret = "5ec7e75e-c7e7-5ec7-e75e-c7e75ec7e75e"
	token  = "root@pam!mcp=" + secret
)

// exchange is a request and its answer as recorded from a real server.
type exchange struct {
	Title  string
	Method string
	Path   string // with the query
	Params json.RawMessage
	Status int
	Reason string
	Type   string
	Body   string
}

func load(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func recorded(t *testing.T, title string) exchange {
	t.Helper()
	var all []exchange
	load(t, "recorded.json", &all)
	for _, x := range all {
		if x.Title == title {
			return x
		}
	}
	t.Fatalf("no exchange %q is recorded", title)
	return exchange{}
}

// params returns what was sent, from the query or the body.
func (x exchange) params(t *testing.T) url.Values {
	t.Helper()
	u, err := url.Parse(x.Path)
	if err != nil {
		t.Fatal(err)
	}
	v := u.Query()
	var pairs [][]string // repeated keys
	if json.Unmarshal(x.Params, &pairs) == nil {
		for _, p := range pairs {
			v.Add(p[0], p[1])
		}
		return v
	}
	var object map[string]any
	if err := json.Unmarshal(x.Params, &object); err != nil {
		t.Fatal(err)
	}
	for k, value := range object {
		v.Del(k)
		if list, ok := value.([]any); ok {
			for _, e := range list {
				v.Add(k, fmt.Sprint(e))
			}
		} else {
			v.Set(k, fmt.Sprint(value))
		}
	}
	return v
}

// server answers every request by h, over TLS.
func server(t *testing.T, h http.HandlerFunc) (*pve.Client, *httptest.Server) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	return client(t, srv, pve.Auth{Token: token}), srv
}

func client(t *testing.T, srv *httptest.Server, auth pve.Auth) *pve.Client {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	h, err := pve.NewHTTPS(srv.URL, auth, pve.Trust{CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	return &pve.Client{Transport: h}
}

// write sends a response as it was recorded, with its reason phrase, which
// net/http would replace, and closes the connection.
func (x exchange) write(w http.ResponseWriter) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\nServer: pve-api-daemon/3.0\r\nConnection: close\r\n", x.Status, x.Reason)
	if x.Type != "" {
		fmt.Fprintf(buf, "Content-Type: %s\r\n", x.Type)
	}
	fmt.Fprintf(buf, "Content-Length: %d\r\n\r\n%s", len(x.Body), x.Body)
	_ = buf.Flush()
}

// expect fails the test unless the request is the recorded one.
func (x exchange) expect(t *testing.T, r *http.Request) {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	if got, want := r.Header.Get("Authorization"), "PVEAPIToken="+token; got != want {
		t.Errorf("Authorization: %s, want %s", got, want)
	}
	recordedPath, _, _ := strings.Cut(x.Path, "?")
	if p, err := url.PathUnescape(recordedPath); err != nil || r.Method != x.Method || r.URL.Path != p {
		t.Errorf("sent %s %s, want %s %s", r.Method, r.URL.Path, x.Method, p)
	}
	sent := r.URL.Query()
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if sent, err = url.ParseQuery(string(body)); err != nil {
			t.Error(err)
		}
		if strings.Contains(string(body), ";") {
			t.Errorf("a bare ; would split the form: %s", body)
		}
	} else if len(body) > 0 || r.ContentLength > 0 {
		t.Errorf("%s with a body, which PVE refuses", r.Method)
	}
	if diff := cmp.Diff(x.params(t), sent); diff != "" {
		t.Errorf("parameters (-recorded +sent):\n%s", diff)
	}
}

// replay returns a client of a server that expects and answers this exchange.
func replay(t *testing.T, title string) *pve.Client {
	t.Helper()
	x := recorded(t, title)
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		x.expect(t, r)
		x.write(w)
	})
	return c
}
