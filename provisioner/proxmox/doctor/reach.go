package doctor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// soon is how long before its end a token is worth a warning.
const soon = 14 * 24 * time.Hour

// reach checks that the API answers, over what kind of connection, and what it
// is. It reports whether more can be asked.
func (d *Proxmox) reach(ctx context.Context) bool {
	v, err := d.client().Version(ctx)
	switch {
	case err == nil:
		d.ok("api", "%s answers", d.where())
		d.checkTLS(ctx)
	case errors.Is(err, pve.Untrusted):
		d.ok("api", "%s answers", d.where())
		d.untrusted(ctx, err)
		return false
	case errors.Is(err, pve.Unauthorized):
		d.ok("api", "%s answers", d.where())
		d.checkTLS(ctx)
		d.add(Result{Check: "token", Status: Failed, Detail: fmt.Sprintf("%s is not accepted: it does not exist, has expired, or its secret is another", d.Token),
			Do: "make another: agentlab proxmox setup --apply --token NAME, and set proxmox_api_token_file to its file"})
		return false
	case errors.Is(err, pve.BadAnswer):
		d.add(Result{Check: "api", Status: Failed, Detail: err.Error(), Do: "correct proxmox_api_url: it is https://HOST:8006 of a node"})
		return false
	default:
		d.add(Result{Check: "api", Status: Failed, Detail: err.Error(), Do: d.unreachable()})
		return false
	}
	d.version = v
	return d.checkVersion(v)
}

func (d *Proxmox) where() string {
	if d.URL == "" {
		return "pvesh"
	}
	return d.URL
}

func (d *Proxmox) unreachable() string {
	if d.URL == "" {
		return "run agentlab on a node, or set proxmox_ssh; then try: ssh root@HOST pvesh get /version"
	}
	return "see whether this answers, and else correct proxmox_api_url or the network: curl -k " + d.URL + "/api2/json/version"
}

func (d *Proxmox) checkVersion(v pve.Version) bool {
	switch {
	case !v.AtLeast(8, 2):
		d.add(Result{Check: "version", Status: Failed, Detail: fmt.Sprintf("Proxmox VE %v is too old: 8.2 is the least", v),
			Run: []string{"apt-get update", "apt-get dist-upgrade"}})
		return false
	case v.AtLeast(10, 0):
		d.add(Result{Check: "version", Status: Warning, Detail: fmt.Sprintf("Proxmox VE %v is newer than what AgentLab was tried with, 8.2 to 9", v), Do: "look for a newer AgentLab"})
	default:
		d.ok("version", "Proxmox VE %v", v)
	}
	return true
}

func (d *Proxmox) checkTLS(ctx context.Context) {
	switch {
	case d.URL == "":
		d.ok("tls", "not used: calls are made by pvesh, as root")
	case d.Trust.Insecure:
		d.add(Result{Check: "tls", Status: Warning, Detail: "proxmox_tls_insecure is set: whoever is on the way can take the token", Do: d.pin(ctx)})
	case d.Trust.Fingerprint != "":
		d.ok("tls", "the certificate has the fingerprint of proxmox_tls_fingerprint")
	case len(d.Trust.CA) > 0:
		d.ok("tls", "the certificate is signed by one of proxmox_tls_ca")
	default:
		d.ok("tls", "the certificate is signed by one that this system trusts")
	}
}

func (d *Proxmox) untrusted(ctx context.Context, err error) {
	d.add(Result{Check: "tls", Status: Failed, Detail: err.Error(), Do: d.pin(ctx)})
}

// pin says how to trust the certificate that the server shows. Whether it is
// the right one only the node itself can say.
func (d *Proxmox) pin(ctx context.Context) string {
	got, err := d.shown(ctx)
	if err != nil {
		return "set proxmox_tls_fingerprint to what this says on the node: openssl x509 -noout -fingerprint -sha256 -in /etc/pve/local/pve-ssl.pem"
	}
	return fmt.Sprintf("if this says the same on the node: openssl x509 -noout -fingerprint -sha256 -in /etc/pve/local/pve-ssl.pem (or pveproxy-ssl.pem), set proxmox_tls_fingerprint: %s", got)
}

// shown returns the fingerprint of the server's certificate. Nothing is sent to it.
func (d *Proxmox) shown(ctx context.Context) (string, error) {
	u, err := url.Parse(d.URL)
	if err != nil {
		return "", err
	}
	host := u.Host
	if u.Port() == "" {
		host += ":443"
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // to look at what is not trusted
	conn, err := dialer.DialContext(limited, "tcp", host)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	sum := sha256.Sum256(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"), nil
}

// token checks what the token itself says of itself, and reads the roles that
// the other checks need.
func (d *Proxmox) token(ctx context.Context) bool {
	if d.Token == "" {
		d.ok("token", "not used: pvesh is root@pam and may do everything")
		return true
	}
	var err error
	if d.roles, err = d.client().Roles(ctx); err != nil {
		d.failed("token", err)
		return false
	}
	user, name, _ := strings.Cut(d.Token, "!")
	tokens, err := d.client().Tokens(ctx, user)
	if errors.Is(err, pve.Permission) { // a token need not be allowed to look at itself
		d.ok("token", "%s is accepted", d.Token)
		return true
	}
	if err != nil {
		d.failed("token", err)
		return false
	}
	i := slices.IndexFunc(tokens, func(t pve.Token) bool { return t.Name == name })
	if i < 0 {
		d.ok("token", "%s is accepted", d.Token)
		return true
	}
	left := time.Until(time.Unix(int64(tokens[i].Expire), 0)).Round(time.Hour)
	path := fmt.Sprintf("/access/users/%s/token/%s", user, name)
	switch {
	case !bool(tokens[i].Privsep):
		run := append([]string{"pvesh set " + path + " --privsep 1"}, d.granting("/pool/"+d.Backend.Pool)...)
		d.add(Result{Check: "token", Status: Warning, Detail: d.Token + " has no privilege separation: it may do all that its user may", Run: run})
	case tokens[i].Expire != 0 && left < soon:
		d.add(Result{Check: "token", Status: Warning, Detail: fmt.Sprintf("%s expires in %v", d.Token, left), Run: []string{"pvesh set " + path + " --expire 0"}})
	default:
		d.ok("token", "%s is accepted, and has privilege separation", d.Token)
	}
	return true
}
