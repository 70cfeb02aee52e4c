package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The bridge is built for where the rest does not run, and its bundle asks for
// what it needs.
func TestBridgeForEachPlatform(t *testing.T) {
	t.Chdir("../..")
	out := t.TempDir()
	const platforms = "darwin/arm64,windows/amd64"
	files, err := remotes(t.Context(), out, platforms, io.Discard)
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	for i, want := range []struct{ name, magic, platform, program string }{
		{"-darwin-arm64.mcpb", "\xcf\xfa\xed\xfe", "darwin", "server/agentlab-remote"},
		{"-windows-amd64.mcpb", "MZ", "win32", "server/agentlab-remote.exe"},
	} {
		if name := filepath.Base(files[i]); !strings.HasPrefix(name, "agentlab-remote-mcp-") || !strings.HasSuffix(name, want.name) {
			t.Errorf("its name is %s", name)
		}
		if got := readBundle(t, files[i], want.program); !bytes.HasPrefix(got, []byte(want.magic)) {
			t.Errorf("%s begins with %q", want.program, got[:4])
		}
		var m struct {
			Server struct {
				Entry  string `json:"entry_point"`
				Config struct {
					Command string
					Env     map[string]string
				} `json:"mcp_config"`
			}
			Config        map[string]struct{ Required, Sensitive bool } `json:"user_config"`
			Compatibility struct{ Platforms []string }
		}
		if err := json.Unmarshal(readBundle(t, files[i], "manifest.json"), &m); err != nil {
			t.Fatal(err)
		}
		if m.Server.Entry != want.program || m.Server.Config.Command != "${__dirname}/"+want.program || m.Compatibility.Platforms[0] != want.platform {
			t.Errorf("manifest %+v", m)
		}
		if !m.Config["token"].Sensitive || !m.Config["server"].Required || m.Server.Config.Env["AGENTLAB_TOKEN"] != "${user_config.token}" {
			t.Errorf("it asks for %+v", m.Config)
		}
	}
	if err := clear(out); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("the next run leaves %v, error %v", left, err)
	}
}

func readBundle(t *testing.T, bundle, name string) []byte {
	t.Helper()
	zr, err := zip.OpenReader(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	f, err := zr.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
