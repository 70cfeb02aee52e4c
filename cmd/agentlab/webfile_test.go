package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func webLink(ctx context.Context, s *mcp.ClientSession, args []string) error {
	url, err := fileURL(ctx, s, args[0], args[1])
	if err != nil {
		return err
	}
	return os.WriteFile(args[2], []byte(url), 0o600)
}

// meanwhile runs a program of the scripts.
func meanwhile(ctx context.Context, args []string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%q meanwhile: %w", args, err)
	}
	return nil
}

// cutDownload reads on when the program has ended; there must be less than the
// file, which must be larger than what the buffers between hold.
func cutDownload(ctx context.Context, file string, program []string) error {
	url, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(url), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", res.Status, err)
	}
	if err := meanwhile(ctx, program); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil || ctx.Err() != nil {
		return fmt.Errorf("all came, %d bytes, error %w", n+1, err)
	}
	fmt.Println("cut off")
	return nil
}

// cutUpload begins to send when the server wants it, and sends no more when
// the program has ended; there must be an answer all the same.
func cutUpload(ctx context.Context, file string, program []string) error {
	url, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, string(url), r)
	if err != nil {
		return err
	}
	req.ContentLength = 1 << 30
	req.Header.Set("Expect", "100-continue")
	ran := make(chan error, 1)
	go func() {
		_, err := w.Write(bytes.Repeat([]byte("x"), 1<<20))
		ran <- errors.Join(err, meanwhile(ctx, program))
	}()
	client := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Hour}}
	res, err := client.Do(req)
	if err = errors.Join(err, <-ran); err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	fmt.Printf("%s: %s\n", res.Status, text)
	return err
}
