package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// writePair writes a certificate of that number and its key, changed at that time.
func writePair(t *testing.T, h config.HTTP, number int64, changed time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(number), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{h.TLSCert: {Type: "CERTIFICATE", Bytes: cert}, h.TLSKey: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
}

// A renewed certificate is used at the next connection; until it is whole, and
// when it is not one, the last that was.
func TestCertificateIsReadAnew(t *testing.T) {
	dir := t.TempDir()
	c := &certificate{HTTP: config.HTTP{TLSCert: filepath.Join(dir, "c"), TLSKey: filepath.Join(dir, "k")}, log: slog.New(slog.DiscardHandler)}
	want := func(number int64) {
		t.Helper()
		got, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := got.Leaf.SerialNumber.Int64(); n != number {
			t.Errorf("certificate %d, want %d", n, number)
		}
	}
	if err := c.load(); err == nil {
		t.Error("there are no files, and no error")
	}
	now := time.Now()
	writePair(t, c.HTTP, 1, now)
	want(1)
	writePair(t, c.HTTP, 2, now.Add(time.Second))
	want(2)
	if err := os.WriteFile(c.TLSKey, []byte("half of a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(2)
	writePair(t, c.HTTP, 3, now.Add(2*time.Second))
	want(3)
}
