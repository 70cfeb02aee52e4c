package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func times(ms ...int) sample {
	var s sample
	for _, m := range ms {
		s = append(s, time.Duration(m)*time.Millisecond)
	}
	return s
}

func TestQuantile(t *testing.T) {
	s := times(50, 10, 40, 20, 30)
	got := []time.Duration{s.quantile(0), s.median(), s.quantile(0.9), s.quantile(1)}
	want := []time.Duration(times(10, 30, 50, 50))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("quantiles (-want +got):\n%s", diff)
	}
	if sample(nil).median() != 0 {
		t.Error("the median of nothing is not 0")
	}
}

func TestJSON(t *testing.T) {
	tests := []struct {
		name string
		give figure
		want string
	}{
		{"slower-within", slower("a", "", times(12), times(10), 1.25), `{"id":"a","value":1.2,"unit":"x","floor":10,"goal":1.25,"ok":true,"n":1}`},
		{"slower-beyond", slower("a", "", times(13), times(10), 1.25), `{"id":"a","value":1.3,"unit":"x","floor":10,"goal":1.25,"ok":false,"n":1}`},
		{"faster-within", faster("b", "", times(10), times(9), 0.8), `{"id":"b","value":0.9,"unit":"x","floor":9,"goal":0.8,"ok":true,"n":1}`},
		{"faster-beyond", faster("b", "", times(10), times(7), 0.8), `{"id":"b","value":0.7,"unit":"x","floor":7,"goal":0.8,"ok":false,"n":1}`},
		{"size", size("c", "", "MB", 41, 40, 3), `{"id":"c","value":41,"unit":"MB","floor":0,"goal":40,"ok":false,"n":3}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := (lines{json.NewEncoder(&out)}).add(tt.give); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, strings.TrimSpace(out.String())); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
}
