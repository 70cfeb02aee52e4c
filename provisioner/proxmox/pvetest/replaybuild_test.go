package pvetest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
)

// testImage is a qcow2 of that virtual size, with a backing file or without
// (docs/interop/qcow2.txt of QEMU).
func testImage(size uint64, backing bool) string {
	b := make([]byte, 512)
	copy(b, "QFI\xfb\x00\x00\x00\x03")
	binary.BigEndian.PutUint64(b[24:], size)
	if backing {
		b[15] = 0x80
	}
	return string(b)
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// recordedWeb is what the recorded node could reach: a web server at port 9999,
// its own API, and nothing else.
func recordedWeb(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
	files := map[string]string{
		"/mini.qcow2": testImage(2<<30, false), "/bk.qcow2": testImage(2<<30, true), "/junk.qcow2": strings.Repeat("junk", 3000), "/a.iso": strings.Repeat("i", 40000),
	}
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := files[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write([]byte(text))
	})
	web, api := httptest.NewServer(serve), httptest.NewUnstartedServer(serve)
	api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // that its certificate is refused is expected
	api.StartTLS()
	t.Cleanup(web.Close)
	t.Cleanup(api.Close)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		switch to := (&net.Dialer{}).DialContext; addr {
		case "127.0.0.1:9999":
			return to(ctx, network, web.Listener.Addr().String())
		case "127.0.0.1:8006":
			return to(ctx, network, api.Listener.Addr().String())
		case "127.0.0.1:9998":
			return nil, syscall.ECONNREFUSED
		case "192.0.2.1:80":
			return nil, syscall.ENETUNREACH
		}
		host, _, _ := net.SplitHostPort(addr)
		return nil, &net.DNSError{Err: "Temporary failure in name resolution", Name: host}
	}
}

// uploads are the bodies of uploads, which were not recorded: their parts.
var uploads = map[string][]string{
	`upload iso (multipart; the file part must be named "filename" and come last)`: {"content=iso", "filename=b.iso"},
	"upload with a wrong checksum":                                                              {"content=iso", "checksum=00", "checksum-algorithm=sha256", "filename=c.iso"},
	"upload content=import qcow2 (small junk)":                                                  {"content=import", "filename=junk2.qcow2"},
	"upload content=snippets (refused: snippets cannot be uploaded by API)":                     {"content=snippets", "filename=x.yaml"},
	"upload: field order content, checksum-algorithm, checksum, filename is FIXED: right order": {"content=iso", "checksum-algorithm=sha256", "checksum=" + sumOf("text of d.iso"), "filename=d.iso"},
	"upload: right order, wrong checksum":                                                       {"content=iso", "checksum-algorithm=sha256", "checksum=" + strings.Repeat("0", 64), "filename=e.iso"},
	"upload: checksum before checksum-algorithm: 400 Bad Request, empty body":                   {"content=iso", "checksum=00", "checksum-algorithm=sha256", "filename=d.iso"},
	"upload: existing name is overwritten silently?":                                            {"content=iso", "filename=d.iso"},
	"upload: import qcow2 with wrong name .img":                                                 {"content=import", "filename=small.img"},
	"upload: a small valid qcow2 as content=import":                                             {"content=import", "filename=small.qcow2"},
}

// multipartBody writes parts as the recorder did.
func multipartBody(parts []string) string {
	var b strings.Builder
	for _, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		file := ""
		if name == "filename" {
			file = fmt.Sprintf("; filename=\"%s\"\r\nContent-Type: application/octet-stream", value)
			value = "text of " + value
			if strings.HasSuffix(part, "small.qcow2") {
				value = testImage(16<<20, false)
			}
		}
		fmt.Fprintf(&b, "--XX0123\r\nContent-Disposition: form-data; name=\"%s\"%s\r\n\r\n%s\r\n", name, file, value)
	}
	return b.String() + "--XX0123--\r\n"
}

func transcript01() *transcript {
	return &transcript{
		prepare: func(_ *replay, c *Cluster) { // a file of the node
			c.Volumes["/var/lib/guest/disk.qcow2"] = &Volume{Size: 3 << 30, Format: "qcow2", Content: "images"}
		},
		begin: func(r *replay) {
			r.srv.Edit(func(*Cluster) {
				out, err := login(&call{s: r.srv, p: params{"username": "root@pam", "password": "pvetest123"}})
				if err != nil {
					r.t.Fatal(err)
				}
				t := out.(map[string]any)
				r.tick = [2]string{t["ticket"].(string), t["CSRFPreventionToken"].(string)}
			})
		},
	}
}

func transcript73() *transcript {
	mini, theirs := sumOf(testImage(2<<30, false)), "19407f0494439e30dc44a3c099657246a500687af97f2584deadb6a8ecea76a9"
	const command = "the command was ls or find"
	return &transcript{
		web: recordedWeb,
		before: map[string]func(*replay){ // what was done in between is not recorded
			"create: + VM.Allocate": first("scsi0"), "create: + VM.Config.Disk": first("name"), "create: + VM.Config.CDROM": first("ciuser"),
			"create: + VM.Config.Memory": first("vga"), "create: + VM.Config.HWType": first("net0"), "create: + VM.Config.Options": first("ciuser"),
			"create: + VM.Config.Network": first(""),
			"convert: VM.Allocate is enough": func(r *replay) {
				r.srv.Edit(func(c *Cluster) {
					for _, k := range []string{"scsi1", "scsi2"} {
						c.freeVolume(parseDrive(k, c.VMs[9050].Config[k]).file)
						delete(c.VMs[9050].Config, k)
					}
				})
			},
			"content without filter": func(r *replay) {
				r.srv.Edit(func(c *Cluster) { c.AddVM("pve", 183, "one"); linked(c, 188, "two") })
			},
			"upload: field order content, checksum-algorithm, checksum, filename is FIXED: right order": func(r *replay) {
				r.srv.Edit(func(c *Cluster) { maps.DeleteFunc(c.Volumes, func(_ string, v *Volume) bool { return v.VMID == 0 }) })
			},
		},
		omitAt: map[int]string{

			143: note, 156: command, 163: command, 180: command,
		},
		replace: []string{
			"404 File not found", "404 Not Found", theirs, mini, strings.ToUpper(theirs), strings.ToUpper(mini), "qemu-img.real", "qemu-img",
			"e7e2dcff542de95352682dc186432e98f0188084896773f1973276b0577d5305", sumOf("text of e.iso"),
		},
		prepare: func(r *replay, c *Cluster) {
			minis(c)
			c.Pools["build"] = &Pool{VMs: map[int]bool{}}
			r.token["builder@pve!b1"] = c.AddToken("builder@pve!b1", false)
			c.Roles["MCPNet"] = &Role{Privs: []string{"SDN.Use"}}
			for path, role := range map[string]string{"/storage/local": "BStore", "/nodes/pve": "BNode", "/pool/build": "BVM"} {
				c.Roles[role] = &Role{}
				c.ACL = append(c.ACL, ACL{path, role, "builder@pve", true})
			}
		},
	}
}
