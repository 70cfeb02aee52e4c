package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// A leak is seen in noise that hides it from the eye, and noise is no leak.
func TestFit(t *testing.T) {
	for name, tt := range map[string]struct {
		value func(hours float64, n int, noise float64) float64
		flat  bool
	}{
		"constant": {func(float64, int, float64) float64 { return 12 }, true},
		"noise":    {func(_ float64, _ int, noise float64) float64 { return 100 + 20*noise }, true},
		"sawtooth": {func(_ float64, n int, _ float64) float64 { return float64(50 + n%7) }, true},
		"warm-up":  {func(h float64, _ int, noise float64) float64 { return 100 + noise + 50*min(h, 0.15) }, true},
		"falls":    {func(h float64, _ int, noise float64) float64 { return 100 + noise - 50*h }, true},
		"trifle":   {func(h float64, _ int, _ float64) float64 { return 100 + h }, true},
		"leak":     {func(h float64, _ int, noise float64) float64 { return 100 + 5*noise + 15*h }, false},
		"one-each": {func(_ float64, n int, _ float64) float64 { return float64(20 + n/50) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same every time
			s := &sampler{all: map[string][]float64{}}
			for n := range samples {
				hours := float64(n) / samples
				s.times = append(s.times, hours)
				for _, q := range quantities {
					s.all[q.name] = append(s.all[q.name], tt.value(hours, n, random.Float64()-0.5))
				}
			}
			var table strings.Builder
			err := s.judge(&table)
			if (err == nil) != tt.flat {
				t.Errorf("judged: %v\n%s", err, table.String())
			}
		})
	}
}

func TestTooFewSamples(t *testing.T) {
	s := &sampler{times: make([]float64, 2*blocks-1)}
	if err := s.judge(&strings.Builder{}); err == nil {
		t.Error("judged on next to nothing")
	}
}
