package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/local"
)

// fileSize is what is written and read back, in bytes.
const fileSize = 64 << 20

// files compares a guest's channel with cat through runsc exec. The channel is
// had from a backend of our own: over MCP a file has at most a few MiB.
func (b *bench) files(ctx context.Context) (_ []figure, err error) {
	backend, ref, err := b.newMachine(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if derr := backend.Destroy(context.WithoutCancel(ctx), ref); err == nil {
			err = derr
		}
	}()
	conn, err := backend.Dial(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	bare := b.runsc
	bare.local = backend.Dir
	return compareFiles(ctx, conn, bare, ref.Sandbox)
}

// newMachine makes a machine on a backend of its own below the stage.
func (b *bench) newMachine(ctx context.Context) (*local.Provisioner, provisioner.Ref, error) {
	secret := make([]byte, provisioner.KeySize)
	if _, err := rand.Read(secret); err != nil {
		return nil, provisioner.Ref{}, err
	}
	key, err := provisioner.NewKey(secret)
	if err != nil {
		return nil, provisioner.Ref{}, err
	}
	backend := &local.Provisioner{
		Dir: filepath.Join(b.stage.Dir, "files"), Key: key, Instance: "bench",
		Runsc: b.stage.Bin("runsc"), Guest: b.stage.Bin("agentlab-guest"),
	}
	now := time.Now()
	m, err := backend.Create(ctx, provisioner.Spec{
		Papers: provisioner.Papers{
			Instance: backend.Instance, Sandbox: "sb-bench", Owner: "bench", Profile: "bench",
			Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour), MemoryMB: 1024,
		},
		Cores: 2, MemoryMB: 1024, DiskMB: 2048, MaxProcs: 256, Network: "none",
	})
	return backend, m.Ref, err
}

func compareFiles(ctx context.Context, conn guest.Conn, bare runsc, id string) ([]figure, error) {
	const n = 7
	data := make([]byte, fileSize)
	if _, err := rand.Read(data); err != nil {
		return nil, err
	}
	var write, writeFloor, read, readFloor sample
	for range n {
		for _, m := range []struct {
			into *sample
			do   func() error
		}{
			{&write, func() error {
				_, err := conn.WriteFile(ctx, "/workspace/ours", bytes.NewReader(data), guest.WriteOptions{})
				return err
			}},
			{&writeFloor, func() error {
				return bare.exec(ctx, id, bytes.NewReader(data), nil, "/bin/sh", "-c", "cat > /workspace/floor")
			}},
			{&read, func() error { return readBack(ctx, conn, "/workspace/ours") }},
			{&readFloor, func() error {
				return bare.exec(ctx, id, nil, io.Discard, "/bin/cat", "/workspace/floor")
			}},
		} {
			start := time.Now()
			if err := m.do(); err != nil {
				return nil, err
			}
			*m.into = append(*m.into, time.Since(start))
		}
	}
	return []figure{
		faster("file_write", "64 MiB written, rate / cat through runsc exec", write, writeFloor, 0.5),
		faster("file_read", "64 MiB read, rate / cat through runsc exec", read, readFloor, 0.5),
	}, nil
}

func readBack(ctx context.Context, conn guest.Conn, path string) error {
	r, _, err := conn.ReadFile(ctx, path, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != fileSize {
		err = fmt.Errorf("read %d bytes of %d", n, fileSize)
	}
	return err
}
