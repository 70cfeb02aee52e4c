package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// adminFlags say how a Proxmox is reached by somebody who may do more there than
// AgentLab.
type adminFlags struct {
	url, fingerprint, ca string
	login, password      string // password is a file
}

func (f *adminFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "api-url", "", "https://HOST:8006")
	flags.StringVar(&f.fingerprint, "tls-fingerprint", "", "SHA-256 of the server's certificate")
	flags.StringVar(&f.ca, "tls-ca", "", "file with the certificate that signed the server's")
	flags.StringVar(&f.login, "login", "root@pam", "user who makes it")
	flags.StringVar(&f.password, "password-file", "", "file with that user's password or ticket; - is standard input")
}

// fill takes from the configuration what the flags leave open.
func (f *adminFlags) fill(cfg config.Config) {
	f.url = cmp.Or(f.url, cfg.Proxmox.APIURL)
	if f.fingerprint == "" && f.ca == "" {
		f.fingerprint, f.ca = cfg.Proxmox.TLSFingerprint, cfg.Proxmox.TLSCA
	}
}

// client returns one that is logged in by a password.
func (f *adminFlags) client(ctx context.Context, stdin io.Reader) (*pve.Client, error) {
	trust, err := f.trust()
	if err != nil {
		return nil, err
	}
	if name, realm, _ := strings.Cut(f.login, "@"); name == "" || realm == "" {
		return nil, fmt.Errorf("--login: got %q, want NAME@REALM such as root@pam", f.login)
	}
	password, err := f.readPassword(ctx, stdin)
	if err != nil {
		return nil, err
	}
	auth, err := pve.Login(ctx, f.url, trust, f.login, password)
	if errors.Is(err, pve.Untrusted) {
		err = fmt.Errorf("%w; --tls-fingerprint and --tls-ca do that", err)
	}
	if err != nil {
		return nil, err
	}
	transport, err := pve.NewHTTPS(f.url, auth, trust)
	return &pve.Client{Transport: transport}, err
}

// trust says which server is meant.
func (f *adminFlags) trust() (pve.Trust, error) {
	if f.url == "" {
		return pve.Trust{}, errors.New("no Proxmox is named: give --api-url https://HOST:8006, or set proxmox_api_url")
	}
	trust := pve.Trust{Fingerprint: f.fingerprint} // never insecure: it is root's password that is sent
	if f.ca != "" {
		ca, err := os.ReadFile(f.ca)
		if err != nil {
			return pve.Trust{}, fmt.Errorf("--tls-ca: %w", err)
		}
		trust.CA = ca
	}
	return trust, nil
}

// maxPassword is far above the longest ticket.
const maxPassword = 64 << 10

func (f *adminFlags) readPassword(ctx context.Context, stdin io.Reader) (redact.String, error) {
	from := stdin
	switch f.password {
	case "":
		return "", errors.New("no password is given: name a file with --password-file, or - for standard input")
	case "-":
	default:
		file, err := os.Open(f.password)
		if err != nil {
			return "", fmt.Errorf("--password-file: %w", err)
		}
		defer func() { _ = file.Close() }()
		from = file
	}
	data, err := readAll(ctx, io.LimitReader(from, maxPassword))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", errors.New("the password is empty")
	}
	return redact.String(password), nil
}

// readAll reads to the end, or until ctx ends: nobody may ever type what is waited for.
func readAll(ctx context.Context, from io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(from)
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
