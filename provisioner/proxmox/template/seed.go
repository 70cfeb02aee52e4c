package template

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/kdomanski/iso9660"
)

//go:embed sh/firstboot.sh
var firstBoot string

//go:embed sh/clean.sh
var cleanUp string

// drive returns an ISO with what cloud-init does at the first boot. User-data
// that is a script is run last, when the network is up, and once for each
// instance-id.
func drive(s Spec) ([]byte, error) {
	script := strings.ReplaceAll(firstBoot, "@PACKAGES@", strings.Join(s.Packages, " "))
	sum := sha256.Sum256([]byte(script))
	w, err := iso9660.NewWriter()
	if err != nil {
		return nil, fmt.Errorf("make the drive: %w", err)
	}
	defer func() { _ = w.Cleanup() }() // a temporary directory
	for name, text := range map[string]string{
		"meta-data": fmt.Sprintf("instance-id: agentlab-build-%s\nlocal-hostname: agentlab-build\n", hex.EncodeToString(sum[:6])),
		"user-data": script,
	} {
		if err := w.AddFile(strings.NewReader(text), name); err != nil {
			return nil, fmt.Errorf("put %s on the drive: %w", name, err)
		}
	}
	var image bytes.Buffer
	if err := w.WriteTo(&image, "cidata"); err != nil { // by this label cloud-init knows it
		return nil, fmt.Errorf("write the drive: %w", err)
	}
	return image.Bytes(), nil
}
