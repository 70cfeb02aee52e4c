package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sampler looks at a daemon from time to time.
type sampler struct {
	url   string // of its metrics
	state string // its directory
	times []float64
	all   map[string][]float64 // by quantity
	kept  []float64            // MB of what is meant to grow: the database and the log
}

// quantities are what is sampled, as they are called in the table, with the
// metrics that they are the sums of; what is below the state directory has none.
var quantities = []struct{ name, metric string }{
	{"RSS, MB", "process_resident_memory_bytes"},
	{"heap, MB", "go_memstats_heap_inuse_bytes"},
	{"descriptors", "process_open_fds"},
	{"goroutines", "go_goroutines"},
	{"open records", "agentlab_sandboxes"},
	{"files", ""},
	{"disk, MB", ""},
}

// samples are how many a run takes.
const samples = 300

// sample samples until ctx ends.
func (s *sampler) sample(ctx context.Context, length time.Duration) error {
	s.all = map[string][]float64{}
	tick := time.NewTicker(length / samples)
	defer tick.Stop()
	for begun := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		values, err := s.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("sample: %w", err)
		}
		s.times = append(s.times, time.Since(begun).Hours())
		for name, v := range values {
			s.all[name] = append(s.all[name], v)
		}
	}
}

// look takes one sample.
func (s *sampler) look(ctx context.Context) (map[string]float64, error) {
	metrics, err := s.metrics(ctx)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, q := range quantities {
		v := metrics[q.metric]
		if strings.HasSuffix(q.name, ", MB") {
			v /= 1 << 20
		}
		values[q.name] = v
	}
	var kept float64
	values["files"], values["disk, MB"], kept, err = disk(s.state)
	s.kept = append(s.kept, kept)
	return values, err
}

// metrics adds up each metric over its labels.
func (s *sampler) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	sums := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		name, _, _ := strings.Cut(line[:at], "{")
		sums[name] += v
	}
	return sums, lines.Err()
}

// disk counts the files below a directory and adds up what they take. What is
// kept of sandboxes that have ended is told apart: the database forgets it after
// 30 days, the log is put aside when a daemon starts.
func disk(dir string) (files, mb, kept float64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // it went away while we looked
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case strings.HasPrefix(d.Name(), "agentlab.db"), d.Name() == "agentlab.log":
			kept += float64(info.Size()) / (1 << 20)
		default:
			files++
			mb += float64(info.Size()) / (1 << 20)
		}
		return nil
	})
	return files, mb, kept, err
}
