package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

const (
	testToken       = "agentlab@pve!t1=11111111-2222-3333-4444-555555555555"
	testFingerprint = "AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89"
)

// setProxmox holds every key with a value other than its default.
const setProxmox = `
proxmox_backend: shell
proxmox_api_url: https://pve.example.com:8006
proxmox_api_token: ` + testToken + `
proxmox_tls_fingerprint: ` + testFingerprint + `
proxmox_ssh: root@pve.example.com:2222
proxmox_ssh_key: /etc/agentlab/key
proxmox_ssh_known_hosts: /etc/agentlab/known_hosts
proxmox_node: pve1
proxmox_pool: agents/ci
proxmox_vmid_range: 5000-5999
proxmox_template: debian-12
proxmox_bridge: vmbr1
proxmox_power_off_after: 1h
`

func TestProxmoxIsSet(t *testing.T) {
	got, err := config.LoadAll(write(t, map[string]string{"config.yaml": setProxmox}))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Proxmox{
		Backend: "shell", APIURL: "https://pve.example.com:8006", APIToken: testToken, TLSFingerprint: testFingerprint,
		SSH: "root@pve.example.com:2222", SSHKey: "/etc/agentlab/key", SSHKnownHosts: "/etc/agentlab/known_hosts",
		Node: "pve1", Pool: "agents/ci", VMIDs: config.VMIDs{First: 5000, Last: 5999}, Template: "debian-12", Bridge: "vmbr1",
		PowerOffAfter: time.Hour,
	}
	if got.Proxmox != want {
		t.Errorf("Load: got %+v (token right: %v), want %+v", got.Proxmox, got.Proxmox.APIToken == want.APIToken, want)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(text, "5555") {
		t.Error("a printed configuration shows the token")
	}
}

func TestProfilesOfProxmox(t *testing.T) {
	got, err := config.LoadAll(write(t, map[string]string{
		"config.yaml":         "proxmox_template: debian",
		"profiles/plain.yaml": "backend: proxmox\n",
		"profiles/full.yaml":  "backend: proxmox\nclone: full\n",
		"profiles/own.yaml":   "backend: proxmox\ntemplate: 9001\nclone: full\nstorage: fast\nchannel: agent\nuser: debian\nnetwork: internet\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	type made struct{ Root, Network, Channel, User string }
	machines := map[string]made{}
	for _, p := range got.Profiles {
		if slices.Contains(presets, p.Name) {
			continue
		}
		machines[p.Name] = made{p.Root, p.Network, p.Channel, p.User}
	}
	want := map[string]made{
		"default": {"", "none", "", "root"},
		"plain":   {"", "none", "auto", "root"},
		"full":    {"debian,full=1", "none", "auto", "root"},
		"own":     {"9001,full=1,storage=fast", "internet", "agent", "debian"},
	}
	if diff := cmp.Diff(want, machines); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestMistakesOfProxmoxAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, config, profile, want string }{
		{"backend", "proxmox_backend: ssh", "", `config.yaml:1: proxmox_backend: got "ssh", want api or shell`},
		{"near-key", "proxmox_url: x", "", `config.yaml:1: unknown key "proxmox_url"; did you mean "proxmox_api_url"?`},
		{"http", "proxmox_api_url: http://pve:8006", "", `proxmox_api_url: got "http://pve:8006", want https://HOST:8006`},
		{"page", "proxmox_api_url: https://pve:8006/#v1:0", "", `want https://HOST:8006`},
		{"path", "proxmox_api_url: https://pve:8006/json", "", `want https://HOST:8006`},
		{"user-in-url", "proxmox_api_url: https://root@pve:8006", "", `want https://HOST:8006`},
		{"token-form", "proxmox_api_token: hunter2hunter2", "", `config.yaml:1: proxmox_api_token: want USER@REALM!NAME=SECRET`},
		{"token-header", "proxmox_api_token: PVEAPIToken=" + testToken, "", `proxmox_api_token: want USER@REALM!NAME=SECRET`},
		{"token-list", "proxmox_api_token: [hunter2hunter2]", "", `config.yaml:1: proxmox_api_token: want a text`},
		{"token-not-yaml", "proxmox_api_token: \"hunter2hunter2", "", `config.yaml:1: `},
		{"token-twice", "proxmox_api_token: " + testToken + "\nproxmox_api_token_file: /f", "", `proxmox_api_token_file: got "/f" beside proxmox_api_token, want one of them`},
		{"token-file", "proxmox_api_token_file: f", "", `proxmox_api_token_file: got "f", want an absolute path`},
		{"ca-path", "proxmox_tls_ca: ca.pem", "", `proxmox_tls_ca: got "ca.pem", want an absolute path`},
		{"key-path", "proxmox_ssh_key: ~/.ssh/k", "", `proxmox_ssh_key: got "~/.ssh/k", want an absolute path`},
		{"hosts-path", "proxmox_ssh_known_hosts: h", "", `proxmox_ssh_known_hosts: got "h", want an absolute path`},
		{"sha1", "proxmox_tls_fingerprint: " + testFingerprint[:59], "", `want a SHA-256 as Proxmox shows it: 32 pairs`},
		{"insecure", "proxmox_tls_insecure: perhaps", "", `config.yaml:1: proxmox_tls_insecure: got "perhaps", want true or false`},
		{"two-trusts", "proxmox_tls_insecure: true\nproxmox_tls_ca: /ca.pem", "", `proxmox_tls_ca, proxmox_tls_fingerprint, proxmox_tls_insecure: got 2 of them, want one`},
		{"ssh-user", "proxmox_ssh: admin@pve", "", `proxmox_ssh: got "admin@pve", want HOST, HOST:PORT or root@HOST`},
		{"ssh-path", "proxmox_ssh: pve/x", "", `proxmox_ssh: got "pve/x"`},
		{"node", "proxmox_node: pve 1", "", `proxmox_node: got "pve 1", want the name of a node`},
		{"pool", "proxmox_pool: a b", "", `proxmox_pool: got "a b", want the name of a pool`},
		{"pool-elsewhere", "proxmox_pool: a/../b", "", `proxmox_pool: got "a/../b", want the name of a pool: letters, digits, '.', '-' and '_', and up to three levels such as a/b/c`},
		{"node-path", "proxmox_node: ../x", "", `proxmox_node: got "../x", want the name of a node`},
		{"bridge-path", "proxmox_bridge: ../x", "", `proxmox_bridge: got "../x", want the name of a bridge`},
		{"range-form", "proxmox_vmid_range: 5000", "", `config.yaml:1: proxmox_vmid_range: got "5000", want the first and the last VMID such as 10000-19999`},
		{"range-order", "proxmox_vmid_range: 6000-5000", "", `config.yaml:1: proxmox_vmid_range: got 6000-5000, want FIRST-LAST from 100 to 999999999`},
		{"range-low", "proxmox_vmid_range: 99-200", "", `proxmox_vmid_range: got 99-200`},
		{"range-high", "proxmox_vmid_range: 100-1000000000", "", `proxmox_vmid_range: got 100-1000000000`},
		{"template", "proxmox_template: debian,full=1", "", `proxmox_template: got "debian,full=1", want the name or the VMID of a template`},
		{"bridge", "proxmox_bridge: vmbr0,tag=3", "", `proxmox_bridge: got "vmbr0,tag=3", want the name of a bridge`},

		{"power-off-soon", "proxmox_power_off_after: 59s", "", `config.yaml:1: proxmox_power_off_after: got 59s, want 1m0s to 24h0m0s`},
		{"power-off-late", "proxmox_power_off_after: 25h", "", `proxmox_power_off_after: got 25h0m0s`},

		{"root-key", "", "backend: proxmox\nroot: /x", `p.yaml:2: root: got "/x", but backend proxmox has no such key; it is one of backend local`},
		{"max-procs", "", "backend: proxmox\nmax_procs: 100", `p.yaml:2: max_procs: got "100", but backend proxmox has no such key`},
		{"template-key", "", "template: debian", `p.yaml:1: template: got "debian", but backend local has no such key; it is one of backend proxmox`},
		{"channel-key", "", "channel: ssh", `p.yaml:1: channel: got "ssh", but backend local has no such key`},
		{"profile-template", "", "backend: proxmox\ntemplate: a/b", `template: got "a/b", want the name or the VMID of a template`},
		{"clone", "", "backend: proxmox\nclone: link", `clone: got "link", want linked or full`},
		{"storage", "", "backend: proxmox\nclone: full\nstorage: a b", `storage: got "a b", want the name of a storage`},
		{"storage-path", "", "backend: proxmox\nclone: full\nstorage: a/../b", `storage: got "a/../b", want the name of a storage`},
		{"storage-of-linked", "", "backend: proxmox\nstorage: fast", `storage: got "fast", but a linked clone is where its template is; set clone: full`},
		{"channel", "", "backend: proxmox\nchannel: qemu", `channel: got "qemu", want ssh, agent or auto`},
		{"channel-without-network", "", "backend: proxmox\nchannel: ssh", `channel: got "ssh", but network none has no way for it`},
		{"user", "", "backend: proxmox\nuser: 'a b'", `user: got "a b", want the name of a Linux user`},
		{"network", "", "backend: proxmox\nnetwork: allowlist", `network: got "allowlist", want one that backend proxmox has: none, internet`},
		{"network-of-local", "", "network: internet", `network: got "internet", want one that backend local has: none`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.LoadAll(write(t, map[string]string{"config.yaml": tt.config, "profiles/p.yaml": tt.profile}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %s", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "5555")) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

// A token is for us alone, wherever it stands. A file without one may be read.
func TestATokenThatOthersCanReadIsRefused(t *testing.T) {
	file := write(t, map[string]string{"config.yaml": "proxmox_api_token: " + testToken, "token": testToken, "other.yaml": "proxmox_node: pve"})
	dir := filepath.Dir(file)
	token := config.Proxmox{APITokenFile: filepath.Join(dir, "token")}
	for _, mode := range []os.FileMode{0o604, 0o640} {
		for _, name := range []string{"config.yaml", "token", "other.yaml"} {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
		want := fmt.Sprintf("others may use it (mode %#o); run chmod 0600 on it", mode)
		if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), "config.yaml: it holds proxmox_api_token: "+want) {
			t.Errorf("config.yaml with a token and mode %o: got %v, want %s", mode, err, want)
		}
		if _, err := token.Token(noEnv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a token file of mode %o: got %v, want %s", mode, err, want)
		}
		if _, err := config.Load(filepath.Join(dir, "other.yaml")); err != nil {
			t.Errorf("a file without a token and mode %o: %v", mode, err)
		}
	}
}

// A token, its secret or a password in the wrong place is not shown, wherever
// that is.
func TestASecretInTheWrongPlaceIsNotShown(t *testing.T) {
	const secret = "0a1b2c3d-1111-2222-3333-444455556666"
	for _, value := range []string{"agentlab@pve!t1=" + secret, "agentlab@pve!t1=hunter2", secret, "https://root:hunter2@pve:8006"} {
		for _, key := range []string{
			"proxmox_api_url", "proxmox_api_tokn", "proxmox_api_token_file", "proxmox_tls_fingerprint", "proxmox_tls_ca", "proxmox_ssh",
			"proxmox_node", "proxmox_pool", "proxmox_vmid_range", "proxmox_template", "proxmox_bridge", "proxmox_backend",
			"proxmox_tls_insecure", "log_level", "idle_exit", "quota_sandboxes", "local_runsc",
		} {
			for _, text := range []string{key + ": " + value, key + ":" + value, value + ": " + key} {
				_, err := config.LoadAll(write(t, map[string]string{"config.yaml": text}))
				if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), secret[:8]) || strings.Contains(err.Error(), secret[24:])) {
					t.Errorf("%s\nthe error shows it: %v", text, err)
				}
			}
		}
		_, err := config.LoadAll(write(t, map[string]string{"config.yaml": "", "profiles/p.yaml": "backend: proxmox\ntemplate: " + value}))
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), secret[24:])) {
			t.Errorf("template %s in a profile: %v", value, err)
		}
	}
}

func noEnv(string) string { return "" }

func TestWhereTheTokenIsTakenFrom(t *testing.T) {
	dir := filepath.Dir(write(t, map[string]string{"token": "file@pve!t1=1\n", "bad": "hunter2\n"}))
	env := func(string) string { return " env@pve!t1=1\n" }
	file := filepath.Join(dir, "token")
	for _, tt := range []struct {
		name  string
		from  config.Proxmox
		env   func(string) string
		want  string
		error string
	}{
		{"the-environment-first", config.Proxmox{APITokenFile: file}, env, "env@pve!t1=1", ""},
		{"the-file", config.Proxmox{APITokenFile: file}, noEnv, "file@pve!t1=1", ""},
		{"the-configuration", config.Proxmox{APIToken: testToken}, noEnv, testToken, ""},
		{"nowhere", config.Proxmox{}, noEnv, "", "no Proxmox API token is set; set proxmox_api_token_file"},
		{"no-file", config.Proxmox{APITokenFile: file + "x"}, noEnv, "", "proxmox_api_token_file: open " + file + "x: no such file"},
		{"bad-file", config.Proxmox{APITokenFile: filepath.Join(dir, "bad")}, noEnv, "", "bad: want USER@REALM!NAME=SECRET"},
		{"bad-environment", config.Proxmox{}, func(string) string { return "hunter2" }, "", "AGENTLAB_PROXMOX_API_TOKEN: want USER@REALM!NAME=SECRET"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.from.Token(tt.env)
			if got.Reveal() != tt.want {
				t.Errorf("token: got %q, want %q", got.Reveal(), tt.want)
			}
			if tt.error == "" && err != nil || tt.error != "" && (err == nil || !strings.Contains(err.Error(), tt.error)) {
				t.Errorf("error %v, want %q", err, tt.error)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func TestSSHAddr(t *testing.T) {
	for in, want := range map[string]string{
		"pve": "pve:22", "root@pve.example.com": "pve.example.com:22", "pve:2222": "pve:2222", "root@[fd00::1]:22": "[fd00::1]:22", "[fd00::1]": "[fd00::1]:22",
	} {
		if got, err := (config.Proxmox{SSH: in}).SSHAddr(); got != want || err != nil {
			t.Errorf("address of %s: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"::1", "root@fd00::1"} { // ambiguous
		if got, err := (config.Proxmox{SSH: in}).SSHAddr(); err == nil {
			t.Errorf("address of %s: got %q", in, got)
		}
	}
}
