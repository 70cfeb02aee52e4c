package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Recipe implements [provisioner.Pooler]. What machines share it knows without
// reading it: the skeleton of this host's programs by its name, which is that of
// its contents, and a root, runsc and agentlab-guest by which file each is and
// when it was changed. The host's programs themselves are shown as they are, so
// that machines of a pool see them change as all others do.
func (p *Provisioner) Recipe(_ context.Context, spec provisioner.Spec) (string, error) {
	word, err := p.recipe(spec)
	if err != nil {
		return "", fmt.Errorf("look what machines are made of: %w", err)
	}
	return word, nil
}

// Vet implements [provisioner.Vetter]. Of cores and memory a machine gets what
// there is: its limits may be above that.
func (p *Provisioner) Vet(_ context.Context, spec provisioner.Spec) error {
	if spec.Root == "" {
		return nil
	}
	_, err := findSource(spec.Root)
	return err
}

func (p *Provisioner) recipe(spec provisioner.Spec) (string, error) {
	st, err := p.state()
	if err != nil {
		return "", err
	}
	t, err := p.tools()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, layoutVersion, t.platform)
	for _, path := range []string{t.runsc, t.guest} {
		fi, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("%w: %w", err, provisioner.ErrUnavailable)
		}
		fmt.Fprintln(sum, source{path, fi}.version())
	}
	if spec.Root == "" {
		dir, binds, err := p.hostSkeleton(st)
		if err != nil {
			return "", fmt.Errorf("make root file system: %w", noSpace(err))
		}
		fmt.Fprintf(sum, "%q %q\n", dir, binds)
	} else {
		root, err := findSource(spec.Root)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, root.version())
	}
	return hex.EncodeToString(sum.Sum(nil)[:16]), nil
}
