package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"time"
)

// fork runs a program with nothing attached and returns how long it took.
func fork(ctx context.Context, argv []string) (time.Duration, error) {
	start := time.Now()
	err := exec.CommandContext(ctx, argv[0], argv[1:]...).Run()
	return time.Since(start), err
}

// printForks is the program that measures inside a sandbox.
func printForks(ctx context.Context, w io.Writer, n int, argv []string) error {
	out := bufio.NewWriter(w)
	for range n {
		took, err := fork(ctx, argv)
		if err != nil {
			return fmt.Errorf("run %q: %w", argv, err)
		}
		fmt.Fprintln(out, took.Nanoseconds())
	}
	return out.Flush()
}

// parseForks reads what printForks printed.
func parseForks(text []byte) (sample, error) {
	var s sample
	for field := range bytes.FieldsSeq(text) {
		ns, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read times: %w", err)
		}
		s = append(s, time.Duration(ns))
	}
	return s, nil
}
