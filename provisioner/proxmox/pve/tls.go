package pve

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Trust says which certificate the server must have. At most one field may be
// set; the zero value trusts what the system trusts.
type Trust struct {
	CA          []byte // PEM, such as /etc/pve/pve-root-ca.pem
	Fingerprint string // SHA-256 of the server's certificate, as Proxmox shows it: AB:CD:...
	Insecure    bool   // any certificate
}

func (t Trust) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	set := 0
	if len(t.CA) > 0 {
		set++
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(t.CA) {
			return nil, errors.New("the CA file has no PEM certificate")
		}
	}
	if t.Fingerprint != "" {
		set++
		want, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(t.Fingerprint), ":", ""))
		if err != nil || len(want) != sha256.Size {
			return nil, errors.New("the TLS fingerprint is not a SHA-256 in hex")
		}
		cfg.InsecureSkipVerify = true // the check below takes its place
		cfg.VerifyConnection = pinned([sha256.Size]byte(want))
	}
	if t.Insecure {
		set++
		cfg.InsecureSkipVerify = true
	}
	if set > 1 {
		return nil, errors.New("only one of CA, fingerprint and insecure can be set")
	}
	return cfg, nil
}

// wrongCert is a certificate other than the pinned one.
type wrongCert struct{ got, want string }

func (e *wrongCert) Error() string {
	return fmt.Sprintf("the server's certificate has the fingerprint %s, not %s; if it was renewed, set the new one", e.got, e.want)
}

func pinned(want [sha256.Size]byte) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if got := sha256.Sum256(s.PeerCertificates[0].Raw); got != want {
			return &wrongCert{fingerprint(got), fingerprint(want)}
		}
		return nil
	}
}

func fingerprint(sum [sha256.Size]byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

// mistrust explains err if it is about the server's certificate.
func mistrust(err error) (string, bool) {
	if wrong, ok := errors.AsType[*wrongCert](err); ok {
		return wrong.Error(), true
	}
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
		sum := sha256.Sum256(unverified.UnverifiedCertificates[0].Raw)
		return fmt.Sprintf("%v; its fingerprint is %s: compare it with the one Proxmox shows, then set it, or set the CA",
			unverified.Err, fingerprint(sum)), true
	}
	return "", false
}
