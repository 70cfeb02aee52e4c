package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// documents go into each archive.
func documents() []string { return []string{"README.md", "LICENSE", "CHANGELOG.md"} }

// writeArchive writes a gzipped tar of the programs, the documents and what share
// has.
func writeArchive(name, share string, b built) error {
	files := map[string]string{} // by their names in the archive
	for _, path := range append(documents(), b.programs...) {
		files[filepath.Base(path)] = path
	}
	for _, dir := range []string{"man", "completions"} {
		entries, err := os.ReadDir(filepath.Join(share, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			files[dir+"/"+e.Name()] = filepath.Join(share, dir, e.Name())
		}
	}
	return create(name, func(w io.Writer) error {
		gz := gzip.NewWriter(w)
		tw := tar.NewWriter(gz)
		for _, inside := range slices.Sorted(maps.Keys(files)) {
			path := files[inside]
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			head := &tar.Header{
				Name: "agentlab-" + b.version + "/" + inside, Typeflag: tar.TypeReg,
				Size: info.Size(), Mode: int64(info.Mode().Perm() &^ 0o022), ModTime: b.time,
			}
			if err := tw.WriteHeader(head); err != nil {
				return err
			}
			if err := copyFile(tw, path); err != nil {
				return err
			}
		}
		return errors.Join(tw.Close(), gz.Close())
	})
}

// writeBundle writes the programs with a manifest, as the MCPB format has it: a
// zip whose manifest.json says what to start.
func writeBundle(name string, b built, manifest object) error {
	return create(name, func(w io.Writer) error {
		zw := zip.NewWriter(w)
		add := func(path string, mode os.FileMode, fill func(io.Writer) error) error {
			head := &zip.FileHeader{Name: path, Method: zip.Deflate, Modified: b.time}
			head.SetMode(mode)
			f, err := zw.CreateHeader(head)
			if err != nil {
				return err
			}
			return fill(f)
		}
		err := add("manifest.json", 0o644, func(w io.Writer) error { return writeJSON(w, manifest) })
		for _, path := range b.programs {
			err = errors.Join(err, add("server/"+filepath.Base(path), 0o755, func(w io.Writer) error { return copyFile(w, path) }))
		}
		err = errors.Join(err, add("LICENSE", 0o644, func(w io.Writer) error { return copyFile(w, "LICENSE") }))
		return errors.Join(err, zw.Close())
	})
}

// writeSums writes the checksums of files as sha256sum -c reads them.
func writeSums(name string, files []string) error {
	var text strings.Builder
	for _, file := range files {
		sum, err := sha256sum(file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s  %s\n", sum, filepath.Base(file))
	}
	return os.WriteFile(name, []byte(text.String()), 0o644)
}

func sha256sum(file string) (string, error) {
	h := sha256.New()
	if err := copyFile(h, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

// create writes a file, and removes it if fill fails.
func create(name string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
