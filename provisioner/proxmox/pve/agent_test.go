package pve_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func TestAgentCallsAsRecorded(t *testing.T) {
	tests := []struct {
		title string
		call  func(*pve.Client, context.Context) (any, error)
		want  any
	}{
		{"40 exec: shell via sh -c", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentExec(ctx, vm(101), []string{"/bin/sh", "-c", "id; pwd; env; umask; echo err >&2; exit 3"}, nil)
		}, 196},
		{"40 exec: args that contain commas, semicolons, NUL-like, quotes, newline (array)", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentExec(ctx, vm(101), []string{"/usr/bin/printf", "%s|", "a,b", "c;d", `e"f`, "g'h", "i\nj", "$HOME", "", " k "}, nil)
		}, 192},
		{"41 input-data: UTF-8 bytes given as Latin-1 code points arrive as exact bytes (workaround)", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentExec(ctx, vm(101), []string{"/usr/bin/od", "-An", "-tx1"}, []byte("äöü€"))
		}, 247},
		{"42 file-write encode=0 with base64 of bytes 0..255", func(c *pve.Client, ctx context.Context) (any, error) {
			return nil, c.AgentWriteFile(ctx, vm(110), "/tmp/bin", allBytes())
		}, nil},
		{"42 file-read of binary 0..255", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentReadFile(ctx, vm(110), "/tmp/bin")
		}, pve.FileContent{Data: allBytes()}},
		{"42 get-osinfo", func(c *pve.Client, ctx context.Context) (any, error) {
			o, err := c.AgentOSInfo(ctx, vm(110))
			return o.PrettyName, err
		}, "Debian GNU/Linux 12 (bookworm)"},
		{"05 network-get-interfaces final", func(c *pve.Client, ctx context.Context) (any, error) {
			ifs, err := c.AgentInterfaces(ctx, vm(200))
			return []any{len(ifs), ifs[1].Name, ifs[1].MAC, ifs[1].Addresses[0].IP, ifs[1].Addresses[0].Prefix}, err
		}, []any{2, "eth0", "bc:24:11:b3:ec:47", "10.77.0.90", pve.Int(24)}},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.title, " ", "_"), func(t *testing.T) {
			got, err := tt.call(replay(t, tt.title), t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExecStatus(t *testing.T) {
	status := func(body string) pve.ExecStatus {
		c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("pid") != "165" {
				t.Errorf("pid=%s", r.FormValue("pid"))
			}
			exchange{Status: 200, Reason: "OK", Body: body}.write(w)
		})
		s, err := c.AgentExecStatus(t.Context(), vm(101), 165)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := status(recorded(t, "41 out-data binary 0..255 -> exec-status").Body); !bool(got.Exited) || string(got.Out) != string(allBytes()) {
		t.Errorf("output is not byte-exact: %x", got.Out)
	}
	got := status(recorded(t, "40 exit code 3, stdout+stderr, environment of qemu-ga").Body)
	if got.ExitCode != 3 || string(got.Err) != "err\n" || !strings.HasPrefix(string(got.Out), "uid=0(root)") {
		t.Errorf("status %+v", got)
	}
	if diff := cmp.Diff(pve.ExecStatus{}, status(`{"data":{"exited":0}}`)); diff != "" {
		t.Errorf("while it runs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pve.ExecStatus{Exited: true, Signal: 9, Out: []byte{}, OutTruncated: true}, status(`{"data":{"exited":1,"signal":9,"out-data":"","out-truncated":1}}`)); diff != "" {
		t.Errorf("killed (-want +got):\n%s", diff)
	}
}

// Parts are read as bytes too: decode=0 of the recording is left out, since
// the plain form carries every byte.
func TestReadFileAt(t *testing.T) {
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		want := url.Values{"file": {"/tmp/f"}, "offset": {"250"}, "count": {"4"}}
		if diff := cmp.Diff(want, r.URL.Query()); diff != "" {
			t.Errorf("parameters (-want +got):\n%s", diff)
		}
		exchange{Status: 200, Reason: "OK", Body: `{"data":{"content":"úûü` + "\u00fd" + `","bytes-read":4,"truncated":1}}`}.write(w)
	})
	got, err := c.AgentReadFileAt(t.Context(), vm(300), "/tmp/f", 250, 4)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pve.FileContent{Data: []byte{250, 251, 252, 253}, Truncated: true}, got); diff != "" {
		t.Errorf("part (-want +got):\n%s", diff)
	}
}

func TestGuestDataBeyondAByteIsRefused(t *testing.T) {
	c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		exchange{Status: 200, Reason: "OK", Body: `{"data":{"content":"€"}}`}.write(w)
	})
	if _, err := c.AgentReadFile(t.Context(), vm(1), "/f"); !errors.Is(err, pve.BadAnswer) {
		t.Errorf("error %v", err)
	}
}

func TestLenientValues(t *testing.T) {
	type values struct {
		I pve.Int
		F pve.Float
		B pve.Bool
		T pve.Text
	}
	tests := []struct {
		json string
		want values
	}{
		{`{"I":7,"F":0.5,"B":1,"T":"x"}`, values{7, 0.5, true, "x"}},
		{`{"I":"7","F":"0.5","B":"1","T":7}`, values{7, 0.5, true, "7"}},
		{`{"I":"","F":"","B":"","T":""}`, values{}},
		{`{"I":null,"F":null,"B":null,"T":null}`, values{}},
		{`{"I":1.5e9,"F":2,"B":true,"T":true}`, values{1500000000, 2, true, "1"}},
		{`{"I":true,"F":false,"B":false,"T":false}`, values{1, 0, false, "0"}},
		{`{"B":"on","T":1.50}`, values{0, 0, true, "1.50"}},
		{`{"I":9007199254740993}`, values{I: 9007199254740993}}, // not a float64
	}
	for _, tt := range tests {
		var got values
		if err := json.Unmarshal([]byte(tt.json), &got); err != nil {
			t.Errorf("%s: %v", tt.json, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.json, diff)
		}
	}
	for _, bad := range []string{`{"I":"x"}`, `{"I":[1]}`, `{"F":"x"}`, `{"B":"maybe"}`, `{"B":2}`, `{"T":{}}`} {
		var got values
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is taken for %+v", bad, got)
		}
	}
}

func TestProperties(t *testing.T) {
	net := pve.ParseProperties("virtio=BC:24:11:95:7B:5B,bridge=vmbr0,firewall=1")
	if got := net.First() + " " + net.Get("bridge") + " " + net.Get("tag"); got != "BC:24:11:95:7B:5B vmbr0 " {
		t.Errorf("parts %q", got)
	}
	got := net.With("bridge", "vmbr1").With("firewall", "").With("tag", "7").String()
	if want := "virtio=BC:24:11:95:7B:5B,bridge=vmbr1,tag=7"; got != want {
		t.Errorf("changed %q, want %q", got, want)
	}
	if net.Get("bridge") != "vmbr0" {
		t.Error("With changed its receiver")
	}
	disk := "local:9000/base-9000-disk-0.qcow2,size=3G"
	if p := pve.ParseProperties(disk); p.First() != "local:9000/base-9000-disk-0.qcow2" || p.String() != disk {
		t.Errorf("disk %+v", p)
	}
	for agent, on := range map[string]bool{"1": true, "enabled=1,fstrim_cloned_disks=1,type=virtio": true, "0": false, "enabled=0": false, "": false, "type=virtio": false} {
		if got := (pve.Config{"agent": agent}).AgentEnabled(); got != on {
			t.Errorf("agent %q enabled: %v", agent, got)
		}
	}
}

// What the schema does not promise to be there, and what it does not know.
func TestAnswersBeyondTheSchema(t *testing.T) {
	data := ""
	c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		exchange{Status: 200, Reason: "OK", Body: `{"data":` + data + `}`}.write(w)
	})
	data = `{"cores":"2","memory":512,"digest":"d","special-sections":{"a":{"b":1}},"list":[1],"none":null}`
	cfg, err := c.Config(t.Context(), vm(1))
	if diff := cmp.Diff(pve.Config{"cores": "2", "memory": "512", "digest": "d", "none": ""}, cfg); diff != "" || err != nil {
		t.Errorf("Config: %v (-want +got):\n%s", err, diff)
	}
	data = `[{"userid":"a@pve"},{"userid":"b@pve","enable":"0"}]`
	if users, err := c.Users(t.Context()); err != nil || !bool(users[0].Enable) || bool(users[1].Enable) {
		t.Errorf("Users: %+v, %v", users, err)
	}
	data = `[{"tokenid":"t1"},{"tokenid":"t2","privsep":0}]`
	if tokens, err := c.Tokens(t.Context(), "a@pve"); err != nil || !bool(tokens[0].Privsep) || bool(tokens[1].Privsep) {
		t.Errorf("Tokens: %+v, %v", tokens, err)
	}
	data = `[{"path":"/a"},{"path":"/b","propagate":0}]`
	if acls, err := c.ACLs(t.Context()); err != nil || !bool(acls[0].Propagate) || bool(acls[1].Propagate) {
		t.Errorf("ACLs: %+v, %v", acls, err)
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]pve.Version{"8.4.21": {8, 4, 21}, "9.0.0~11": {9, 0, 0}, "8.2": {8, 2, 0}} {
		c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
			exchange{Status: 200, Reason: "OK", Body: `{"data":{"version":"` + text + `","release":"8.4"}}`}.write(w)
		})
		if got, err := c.Version(t.Context()); got != want || err != nil {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	v := pve.Version{Major: 8, Minor: 4}
	if !v.AtLeast(8, 2) || !v.AtLeast(8, 4) || v.AtLeast(8, 5) || v.AtLeast(9, 0) || !(pve.Version{Major: 9}).AtLeast(8, 4) {
		t.Error("versions are compared wrongly")
	}
}
