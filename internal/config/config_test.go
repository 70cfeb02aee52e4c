package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// write makes a configuration of these files and returns the path of config.yaml.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.yaml")
}

func TestNothingNeedsToBeSet(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no-file":       nil,
		"empty-file":    {"config.yaml": ""},
		"only-comments": {"config.yaml": "# log_level: debug\n"},
		"no-value":      {"config.yaml": "log_level:\nquota_sandboxes: null\n"},
		"other-files":   {"profiles/README.md": "x: y"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config.LoadAll(write(t, files))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(config.Default(), got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
				t.Errorf("Load (-want +got):\n%s", diff)
			}
			if err := got.Validate(); err != nil {
				t.Errorf("the default is not valid: %v", err)
			}
		})
	}
}

func TestLoadSetsWhatIsNamed(t *testing.T) {
	got, err := config.LoadAll(write(t, map[string]string{
		"config.yaml":           "log_level: debug\nidle_exit: 1h30m\nquota_sandboxes: 3\ndefault_profile: big\nlocal_runsc: /opt/runsc\n",
		"profiles/big.yaml":     "cores: 8\nmax_ttl: 48h\nidle_timeout: 20m\nshell: [/bin/sh, -c]\n",
		"profiles/a.yaml":       "name: a\ndescription: an a\npool: {size: 2, max_age: 5m}\n",
		"profiles/default.yaml": "memory_mb: 64\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.LogLevel, want.IdleExit, want.QuotaSandboxes = "debug", 90*time.Minute, 3
	want.DefaultProfile, want.LocalRunsc = "big", "/opt/runsc"
	big := sessions.Profile{Name: "big", Cores: 8, MaxTTL: 48 * time.Hour, IdleTimeout: 20 * time.Minute, Shell: []string{"/bin/sh", "-c"}}.WithDefaults()
	a := sessions.Profile{Name: "a", Description: "an a", Pool: sessions.Pool{Size: 2, MaxAge: 5 * time.Minute, Burst: 1}}.WithDefaults()
	def := sessions.Profile{Name: "default", MemoryMB: 64}.WithDefaults()
	want.Profiles = []config.Profile{{Profile: big}, {Profile: a}, {Profile: def}}
	got.Profiles = slices.DeleteFunc(got.Profiles, func(p config.Profile) bool { return slices.Contains(presets, p.Name) })
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

// Each mistake is told in the words of the file, with file and line.
func TestMistakesAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, config, profile, want string }{
		{"unknown-key", "\nquota_sandboxs: 3", "", `config.yaml:2: unknown key "quota_sandboxs"; did you mean "quota_sandboxes"?`},
		{"far-key", "colour: red", "", `config.yaml:1: unknown key "colour"; the keys are: default_profile, grace, http_allowed_hosts,`},
		{"profile-key", "", "memory_md: 1", `p.yaml:1: unknown key "memory_md"; did you mean "memory_mb"?`},
		{"text-for-number", "quota_sandboxes: many", "", `config.yaml:1: quota_sandboxes: got "many", want a whole number`},
		{"fraction", "", "cores: 1.5", `p.yaml:1: cores: got "1.5", want a whole number`},
		{"huge-number", "", "cores: 99999999999999999999", `p.yaml:1: cores: got "99999999999999999999", want a whole number`},
		{"number-for-duration", "idle_exit: 5", "", `config.yaml:1: idle_exit: got "5", want a duration such as 30s, 5m or 1h30m`},
		{"days", "", "ttl: 1d", `p.yaml:1: ttl: got "1d", want a duration such as`},
		{"text-for-list", "", "shell: /bin/sh", `p.yaml:1: shell: got "/bin/sh", want a list of texts`},
		{"map-for-text", "log_level:\n  a: b", "", `config.yaml:1: log_level: got "a: b", want a text`},
		{"twice", "log_level: info\nlog_level: warn", "", `config.yaml:2: mapping key "log_level" already defined`},
		{"not-a-map", "- log_level", "", `config.yaml:1: want lines of the form "key: value"`},
		{"two-documents", "log_level: info\n---\nlog_level: warn", "", `config.yaml:3: a second document`},
		{"not-yaml", "log_level: {", "", `config.yaml:1: `},
		{"binary", "\x00\x01", "", `config.yaml:1: want lines of the form`},
		{"bad-level", "log_level: loud", "", `config.yaml:1: log_level: got "loud", want debug, info, warn or error`},
		{"bad-idle", "idle_exit: 1ms", "", `config.yaml:1: idle_exit: got 1ms, want at least 1s`},
		{"bad-period", "reconcile_every: 0s", "", `config.yaml:1: reconcile_every: got 0s, want at least 1s`},
		{"bad-quota", "quota_memory_mb: -1", "", `config.yaml:1: quota_memory_mb: got -1`},
		{"no-grace", "grace: 0s", "", `config.yaml:1: grace: got 0s, want more than 0s and at most 2m0s`},
		{"long-grace", "grace: 3m", "", `config.yaml:1: grace: got 3m0s`},
		{"no-calls", "sandbox_max_calls: 0", "", `config.yaml:1: sandbox_max_calls: got 0, want 1 to 10000`},
		{"many-calls", "sandbox_max_calls: 10001", "", `config.yaml:1: sandbox_max_calls: got 10001, want 1 to 10000`},
		{"bad-platform", "local_platform: xen", "", `want systrap, kvm or ptrace`},
		{"metrics-to-all", "metrics_listen: 0.0.0.0:9464", "", `config.yaml:1: metrics_listen: got "0.0.0.0:9464", want IP:PORT with an IP of the loopback`},
		{"metrics-to-all-v6", `metrics_listen: "[::]:9464"`, "", `metrics_listen: got "[::]:9464"`},
		{"metrics-on-a-name", "metrics_listen: localhost:9464", "", `metrics_listen: got "localhost:9464"`},
		{"metrics-on-every-address", `metrics_listen: ":9464"`, "", `metrics_listen: got ":9464"`},
		{"metrics-without-port", "metrics_listen: 127.0.0.1", "", `metrics_listen: got "127.0.0.1"`},
		{"collector-grpc", "otlp_endpoint: localhost:4317", "", `config.yaml:1: otlp_endpoint: got "localhost:4317", want http://HOST:PORT or https://HOST:PORT`},
		{"collector-password", "otlp_endpoint: http://u:p@h", "", `otlp_endpoint: got "http://[redacted]@h"`},
		{"relative-runsc", "local_runsc: runsc", "", `local_runsc: got "runsc", want an absolute path`},
		{"relative-guest", "local_guest: g", "", `local_guest: got "g", want an absolute path`},
		{"plain-issuer", "oauth_issuer: http://idp.example\noauth_audience: a", "", `oauth_issuer: got "http://idp.example", want https://`},
		{"issuer-query", "oauth_issuer: https://idp.example/?a=b\noauth_audience: a", "", `oauth_issuer: got`},
		{"issuer-user", "oauth_issuer: https://a@idp.example\noauth_audience: a", "", `oauth_issuer: got`},
		{"long-issuer", "oauth_issuer: https://idp.example/" + strings.Repeat("a", 200) + "\noauth_audience: a", "", `at most 200 bytes`},
		{"no-audience", "oauth_issuer: https://idp.example", "", `oauth_audience: got "" with oauth_issuer "https://idp.example", want both`},
		{"no-issuer", "oauth_audience: a", "", `want both or none`},
		{"scopes-alone", "oauth_scopes: [a=admin]", "", `they say nothing without oauth_issuer`},
		{"scope-form", "oauth_issuer: https://idp.example\noauth_audience: a\noauth_scopes: [labs]", "", `oauth_scopes: got "labs", want THEIRS=OURS`},
		{"scope-of-ours", "oauth_issuer: https://idp.example\noauth_audience: a\noauth_scopes: [labs=root]", "", `got "labs=root"`},
		{"relative-ca", "oauth_issuer: https://idp.example\noauth_audience: a\noauth_tls_ca: ca.pem", "", `oauth_tls_ca: got "ca.pem", want an absolute path`},
		{"no-such-default", "default_profile: x", "", `config.yaml: default_profile: there is no profile "x"`},
		{"other-name", "", "name: q", `p.yaml:1: name: got "q", want that of the file, "p"`},
		{"backend", "", "backend: xen", `p.yaml:1: backend: got "xen", want local or proxmox`},
		{"memory-in-bytes", "", "memory_mb: 2147483648", `memory_mb is `},
		{"ttl", "", "ttl: 48h", `p.yaml:1: ttl is 48h0m0s, allowed: `},
		{"idle-timeout", "", "idle_timeout: 500ms", `p.yaml:1: idle_timeout is 500ms, allowed: 0s, which is never, or 1s to 24h0m0s`},
		{"long-idle-timeout", "", "idle_timeout: 48h", `p.yaml:1: idle_timeout is 48h0m0s, allowed: `},
		{"mount", "", "mounts: [/home]", `p.yaml:1: unknown key "mounts": no path of the host is ever mounted into a sandbox`},
		{"pool-is-a-number", "", "pool: 3", `p.yaml:1: pool: got "3", want keys and values, of size, max_age, burst`},
		{"pool-key", "", "pool:\n  size: 1\n  sise: 3", `p.yaml:3: unknown key "pool.sise"; did you mean "pool.size"?`},
		{"pool-far-key", "", "pool: {colour: red}", `p.yaml:1: unknown key "pool.colour"; the keys are: pool.burst, pool.max_age, pool.size`},
		{"pool-text", "", "pool:\n  size: many", `p.yaml:2: pool.size: got "many", want a whole number`},
		{"pool-age-number", "", "pool: {max_age: 5}", `p.yaml:1: pool.max_age: got "5", want a duration such as`},
		{"pool-size", "", "pool: {size: 65}", `p.yaml:1: pool.size is 65, allowed: 0 to 64`},
		{"pool-negative", "", "pool: {size: -1}", `p.yaml:1: pool.size is -1, allowed: 0 to 64`},
		{"pool-burst", "", "pool: {size: 1, burst: 65}", `p.yaml:1: pool.burst is 65, allowed: 1 to 64`},
		{"pool-age", "", "pool: {size: 1, max_age: 30s}", `p.yaml:1: pool.max_age is 30s, allowed: 1m0s to 168h0m0s`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.LoadAll(write(t, map[string]string{"config.yaml": tt.config, "profiles/p.yaml": tt.profile}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %s", err, tt.want)
			}
		})
	}
}

func TestEveryMistakeIsTold(t *testing.T) {
	_, err := config.LoadAll(write(t, map[string]string{
		"config.yaml":       "idle_exi: 1s\nquota_sandboxes: x",
		"profiles/a.yaml":   "coresx: 1",
		"profiles/B_1.yaml": "# nothing",
	}))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"idle_exi"`, "quota_sandboxes: got", `"coresx"`, `name is "B_1"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not tell %s:\n%v", want, err)
		}
	}
}

// A file that anybody can write names programs that we run.
func TestAFileThatOthersCanWriteIsRefused(t *testing.T) {
	file := write(t, map[string]string{"config.yaml": "log_level: warn"})
	if err := os.Chmod(file, 0o646); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), "chmod 0644") {
		t.Errorf("error %v, want one that says chmod 0644", err)
	}
}

// What is too long to be a configuration is not read to its end.
func TestALongFileIsRefused(t *testing.T) {
	file := write(t, map[string]string{"config.yaml": "log_level: warn\n" + strings.Repeat("#\n", 1<<19)})
	if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), "at most 1 MiB") {
		t.Errorf("error %v, want one that says the most", err)
	}
}

func TestOAuth(t *testing.T) {
	c, err := config.LoadAll(write(t, map[string]string{"config.yaml": "oauth_issuer: https://idp.example/realms/a/\noauth_audience: lab\noauth_scopes: [\"labs=use=sandbox:write\", \"api://x/look=sandbox:read\"]\n"}))
	if err == nil || !strings.Contains(err.Error(), `"labs=use=sandbox:write"`) {
		t.Errorf("a scope with two signs: %v", err)
	}
	c, err = config.LoadAll(write(t, map[string]string{"config.yaml": "oauth_issuer: https://idp.example/realms/a/\noauth_audience: lab\noauth_scopes: [labs.use=sandbox:write, \"api://x/look=sandbox:read\"]\n"}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]sessions.Scope{"labs.use": sessions.ScopeWrite, "api://x/look": sessions.ScopeRead}
	if diff := cmp.Diff(want, c.OAuth.ScopeMap()); diff != "" || c.OAuth.Issuer != "https://idp.example/realms/a/" {
		t.Errorf("%+v (-want +got):\n%s", c.OAuth, diff)
	}
	if config.Default().OAuth.ScopeMap() != nil {
		t.Error("without a table there is one")
	}
}

func TestOAuthClient(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	o := config.OAuth{TLSCA: ca}
	if _, err := o.Client(); err == nil || !strings.Contains(err.Error(), "oauth_tls_ca: ") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(ca, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Client(); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("of another file: %v", err)
	}
}

// However a path of the host is asked for, the answer is that there is no such thing.
func TestNoPathOfTheHost(t *testing.T) {
	for _, key := range []string{"mounts", "volumes", "binds", "Mounts", "bind_mounts", "devices", "host_path", "hostPath", "shared_folders", "virtiofs", "9p"} {
		_, err := config.LoadAll(write(t, map[string]string{"profiles/p.yaml": "cores: 1\n" + key + ": [/home]"}))
		if err == nil || !strings.Contains(err.Error(), `p.yaml:2: unknown key "`+key+`": no path of the host is ever mounted into a sandbox`) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
