package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/names"
)

// TokenEnv names the variable that an API token is taken from before all else.
const TokenEnv = "AGENTLAB_PROXMOX_API_TOKEN"

// Proxmox is how a Proxmox VE is reached and which part of it is for
// sandboxes. Nothing of it needs to be set as long as no profile uses it. The token
// may be elsewhere than in APIToken: ask [Proxmox.Token] for it.
type Proxmox struct {
	// how Proxmox is reached: `api`, over HTTPS with a token, or `shell`, by `pvesh` as root on a node
	Backend string `yaml:"proxmox_backend"`

	// `https://HOST:8006` of any node; the whole cluster is used through it
	APIURL string `yaml:"proxmox_api_url"`
	// `USER@REALM!NAME=SECRET`; a file with it that others can read is refused
	APIToken redact.String `yaml:"proxmox_api_token"`
	// absolute path of a file with nothing but the token; one that others can read is refused
	APITokenFile string `yaml:"proxmox_api_token_file"`

	// absolute path of a file of PEM certificates, such as a copy of `/etc/pve/pve-root-ca.pem`; of this and the
	// next two only one can be set, none is what the system trusts
	TLSCA string `yaml:"proxmox_tls_ca"`
	// SHA-256 of the node's certificate as Proxmox shows it: *node*, System, Certificates
	TLSFingerprint string `yaml:"proxmox_tls_fingerprint"`
	// `true` takes any certificate, so that anybody on the way gets the token; it is warned of at each start
	TLSInsecure bool `yaml:"proxmox_tls_insecure"`

	// of `shell`: the node, as `HOST`, `HOST:PORT` or `root@HOST`; empty is this host, where the daemon must be root
	SSH string `yaml:"proxmox_ssh"`
	// absolute path of a private key without passphrase; empty is `~/.ssh/id_ed25519`
	SSHKey string `yaml:"proxmox_ssh_key"`
	// absolute path of the file with the node's host key; empty is `~/.ssh/known_hosts`
	SSHKnownHosts string `yaml:"proxmox_ssh_known_hosts"`

	// the only node on which sandboxes are made; empty is all that have the template. It does not matter for how
	// Proxmox is reached
	Node string `yaml:"proxmox_node"`
	// the pool that sandboxes are made in
	Pool string `yaml:"proxmox_pool"`
	// where they get their VMIDs from
	VMIDs VMIDs `yaml:"proxmox_vmid_range"`
	// template of the profiles that name none: a name or a VMID
	Template string `yaml:"proxmox_template"`
	// what sandboxes with a network are connected to; empty is the template's
	Bridge string `yaml:"proxmox_bridge"`
	// how long after its end a sandbox powers itself off if nobody came to destroy it, `1m` to `24h`:
	// docs/proxmox.md#when-nobody-comes
	PowerOffAfter time.Duration `yaml:"proxmox_power_off_after"`
}

func defaultProxmox() Proxmox {
	return Proxmox{Backend: "api", Pool: "agentlab", VMIDs: VMIDs{10000, 19999}, PowerOffAfter: 15 * time.Minute}
}

// VMIDs are those from First to Last.
type VMIDs struct{ First, Last int }

const (
	minVMID = 100
	maxVMID = 999_999_999

	minPowerOff = time.Minute // a new end takes a moment to reach a busy guest
	maxPowerOff = 24 * time.Hour
)

func (r VMIDs) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// UnmarshalText reads FIRST-LAST.
func (r *VMIDs) UnmarshalText(text []byte) error {
	first, last, _ := strings.Cut(string(text), "-")
	var errs [2]error
	r.First, errs[0] = strconv.Atoi(strings.TrimSpace(first))
	r.Last, errs[1] = strconv.Atoi(strings.TrimSpace(last))
	return errors.Join(errs[:]...)
}

var (
	tokenForm       = regexp.MustCompile(`^[^\s@!=:/]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+=[\x21-\x7e]+$`)
	fingerprintForm = regexp.MustCompile(`^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$|^[0-9A-Fa-f]{64}$`)
)

const (
	tokenWant = "USER@REALM!NAME=SECRET, both parts as Proxmox showed them when the token was made"
	absolute  = "an absolute path"
)

// validate adds what is wrong with the values. What is merely missing is told
// when a profile first needs it.
func (p Proxmox) validate(ps *problems) {
	ps.check(p.Backend == "api" || p.Backend == "shell", "proxmox_backend: got %q, want api or shell", p.Backend)
	ps.check(p.APIURL == "" || validURL(p.APIURL), "proxmox_api_url: got %q, want https://HOST:8006", p.APIURL)
	ps.check(p.APIToken == "" || tokenForm.MatchString(p.APIToken.Reveal()), "proxmox_api_token: want "+tokenWant)
	ps.check(p.APIToken == "" || p.APITokenFile == "", "proxmox_api_token_file: got %q beside proxmox_api_token, want one of them", p.APITokenFile)
	ps.check(p.TLSFingerprint == "" || fingerprintForm.MatchString(p.TLSFingerprint),
		"proxmox_tls_fingerprint: got %q, want a SHA-256 as Proxmox shows it: 32 pairs of hex digits with colons between", p.TLSFingerprint)
	set := 0
	for _, on := range []bool{p.TLSCA != "", p.TLSFingerprint != "", p.TLSInsecure} {
		if on {
			set++
		}
	}
	ps.check(set <= 1, "proxmox_tls_ca, proxmox_tls_fingerprint, proxmox_tls_insecure: got %d of them, want one", set)
	_, err := p.SSHAddr()
	ps.check(p.SSH == "" || err == nil, "proxmox_ssh: got %q, want HOST, HOST:PORT or root@HOST; pvesh is for root", p.SSH)
	ps.name("proxmox_node", p.Node, names.Node)
	ps.check(names.Pool.Match(p.Pool), "proxmox_pool: got %q, want %s", p.Pool, names.Pool.Want)
	ps.check(minVMID <= p.VMIDs.First && p.VMIDs.First <= p.VMIDs.Last && p.VMIDs.Last <= maxVMID,
		"proxmox_vmid_range: got %v, want FIRST-LAST from %d to %d", p.VMIDs, minVMID, maxVMID)
	ps.name("proxmox_template", p.Template, names.Template)
	ps.name("proxmox_bridge", p.Bridge, names.Bridge)
	ps.check(minPowerOff <= p.PowerOffAfter && p.PowerOffAfter <= maxPowerOff,
		"proxmox_power_off_after: got %v, want %v to %v", p.PowerOffAfter, minPowerOff, maxPowerOff)
	for _, f := range []struct{ key, path string }{
		{"proxmox_api_token_file", p.APITokenFile}, {"proxmox_tls_ca", p.TLSCA},
		{"proxmox_ssh_key", p.SSHKey}, {"proxmox_ssh_known_hosts", p.SSHKnownHosts},
	} {
		ps.check(f.path == "" || filepath.IsAbs(f.path), "%s: got %q, want %s", f.key, f.path, absolute)
	}
}

// name checks a name of something in Proxmox, which may be left out.
func (p *problems) name(key, got string, form names.Form) {
	p.check(got == "" || form.Match(got), "%s: got %q, want %s", key, got, form.Want)
}

func validURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return strings.Trim(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/api2/json"), "/") == ""
}

// SSHAddr returns HOST:PORT of the node on which the shell is.
func (p Proxmox) SSHAddr() (string, error) {
	host := strings.TrimPrefix(p.SSH, "root@")
	u, err := url.Parse("ssh://" + host)
	bare := strings.Count(host, ":") > 1 && !strings.HasPrefix(host, "[") // its end would be taken for a port
	if err != nil || u.Host != host || u.Hostname() == "" || u.User != nil || bare {
		return "", fmt.Errorf("%q is not [root@]HOST[:PORT], an IPv6 address in brackets", p.SSH)
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Used says that Proxmox is set up here, though no profile may need it.
func (p Proxmox) Used() bool { return p.APIURL != "" || p.Backend == "shell" }

// Token returns the API token from where it is: the environment, the file that
// is named for it, or the configuration, in this order.
func (p Proxmox) Token(env func(string) string) (redact.String, error) {
	token, from := redact.String(strings.TrimSpace(env(TokenEnv))), TokenEnv
	if token == "" && p.APITokenFile != "" {
		var err error
		if token, err = Secret(p.APITokenFile); err != nil {
			return "", fmt.Errorf("proxmox_api_token_file: %w", err)
		}
		from = "proxmox_api_token_file " + p.APITokenFile
	} else if token == "" {
		token, from = p.APIToken, "proxmox_api_token"
	}
	switch {
	case token == "":
		return "", fmt.Errorf("no Proxmox API token is set; set proxmox_api_token_file, proxmox_api_token or %s", TokenEnv)
	case !tokenForm.MatchString(token.Reveal()):
		return "", fmt.Errorf("%s: want %s", from, tokenWant)
	}
	return token, nil
}
