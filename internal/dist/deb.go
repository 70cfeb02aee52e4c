package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// sharing makes what comes with the programs on every architecture, in dir:
// manual pages in man, completions in completions. The commands tell both, so one
// is built for this machine.
func sharing(ctx context.Context, dir string) error {
	host, err := build(ctx, filepath.Join(dir, "host"), "", []program{ours("agentlab")})
	if err != nil {
		return err
	}
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	if err := errors.Join(os.Mkdir(man, 0o755), os.Mkdir(completions, 0o755)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, host.programs[0], "man", man)
	cmd.Env, cmd.Stderr = append(os.Environ(), epoch(host)), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	for shell, name := range map[string]string{"bash": "agentlab.bash", "zsh": "_agentlab", "fish": "agentlab.fish"} {
		text, err := exec.CommandContext(ctx, host.programs[0], "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("write the completion of %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(completions, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// epoch says to other programs when all files were made.
func epoch(b built) string { return fmt.Sprint("SOURCE_DATE_EPOCH=", b.time.Unix()) }

// writeDeb writes a Debian package of the programs and what share has, and
// returns its name. nfpm is in the directory tools.
func writeDeb(ctx context.Context, out, tools, share string, b built) (string, error) {
	staged, err := os.MkdirTemp("", "agentlab-deb-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(staged) }()
	if err := stage(staged, share); err != nil {
		return "", fmt.Errorf("gather what the package has: %w", err)
	}
	name := filepath.Join(out, fmt.Sprintf("agentlab_%s_%s.deb", b.version, b.arch))
	cmd := exec.CommandContext(ctx, filepath.Join(tools, "nfpm"), "package", "-f", "packaging/nfpm.yaml", "-p", "deb", "-t", name)
	cmd.Env = append(os.Environ(), epoch(b), "VERSION="+b.version, "ARCH="+b.arch, "PROGRAMS="+filepath.Dir(b.programs[0]), "SHARE="+staged)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("write %s: %w\n%s", name, err, text)
	}
	return name, nil
}

// stage lays out in dir what share has as a package wants it: manual pages are
// compressed.
func stage(dir, share string) error {
	if err := os.CopyFS(filepath.Join(dir, "completions"), os.DirFS(filepath.Join(share, "completions"))); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(share, "man", "*"))
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "man"), 0o755); err != nil {
		return err
	}
	for _, page := range pages {
		err = errors.Join(err, create(filepath.Join(dir, "man", filepath.Base(page)+".gz"), func(w io.Writer) error {
			gz, err := gzip.NewWriterLevel(w, gzip.BestCompression)
			if err != nil {
				return err
			}
			return errors.Join(copyFile(gz, page), gz.Close())
		}))
	}
	return err
}

// writeSBOMs writes what each program is made of, as CycloneDX has it, and returns
// the names of the files. cyclonedx-gomod is in the directory tools.
func writeSBOMs(ctx context.Context, out, tools string, b built) (names []string, err error) {
	for _, p := range b.programs {
		base := strings.TrimSuffix(filepath.Base(p), ".exe")
		name := filepath.Join(out, fmt.Sprintf("agentlab-%s-%s-%s-%s.cdx.json", b.version, b.os, b.arch, base))
		cmd := exec.CommandContext(ctx, filepath.Join(tools, "cyclonedx-gomod"), "bin", "-json", "-std", "-noserial", "-notimestamp", "-output", name, p)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("write %s: %w\n%s", name, err, text)
		}
		names = append(names, name)
	}
	return names, nil
}
