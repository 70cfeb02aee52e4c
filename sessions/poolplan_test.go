package sessions

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A pool of two, whose members are replaced when they are 48 minutes old.
func TestPoolPlan(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	p := Pool{Size: 2, MaxAge: time.Hour, Burst: 1}
	// members are written as "STATE:age in minutes", those of an old recipe with a
	// "!", those that were to be kept for longer with a "+".
	for name, tt := range map[string]struct{ members, want string }{
		"none":                      {"", "make 1"},
		"full":                      {"READY:5 READY:0", "look 43m0s"},
		"one is missing":            {"READY:5", "make 1 look 43m0s"},
		"one is being made":         {"READY:5 BOOTING:1", "look 43m0s"},
		"burst":                     {"REQUESTED:0", "look 48m0s"},
		"one is old":                {"READY:48 READY:5", "make 1 look 43m0s"},
		"not quite":                 {"READY:47 READY:5", "look 1m0s"},
		"its replacement is made":   {"READY:48 READY:5 BOOTING:1", "look 43m0s"},
		"its replacement is there":  {"READY:48 READY:5 READY:0", "drain 0 look 43m0s"},
		"both are old":              {"READY:50 READY:49", "make 1"},
		"three are old":             {"READY:52 READY:50 READY:49", "drain 0"},
		"one was old when made":     {"BOOTING:50 READY:5", "look 43m0s"},
		"all of an old recipe":      {"READY:5! BOOTING:1!", "drain 0 drain 1 make 1"},
		"one of an old recipe":      {"READY:5! READY:1", "drain 0 make 1 look 47m0s"},
		"it is being removed":       {"DESTROYING:5! READY:1", "make 1 look 47m0s"},
		"too many are":              {"DESTROYING:5! FAILED:5 TIMEOUT:60", ""},
		"too many are, one to come": {"FAILED:5 TIMEOUT:60", "make 1"},
		"one is kept for longer":    {"READY:50+ READY:5", "make 1 look 43m0s"},
		"and for too long":          {"READY:60+ READY:5", "drain 0 make 1 look 43m0s"},
		"one too many":              {"READY:3 READY:2 READY:1 READY:0", "drain 0 drain 1 look 45m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			var members []Sandbox
			for i, m := range strings.Fields(tt.members) {
				state, rest, _ := strings.Cut(m, ":")
				var age int
				if _, err := fmt.Sscan(strings.TrimRight(rest, "!+"), &age); err != nil {
					t.Fatal(err)
				}
				sb := Sandbox{ID: fmt.Sprint(i), State: State(state), Recipe: "now", Created: noon.Add(-time.Duration(age) * time.Minute)}
				if strings.HasSuffix(rest, "!") {
					sb.Recipe = "before"
				}
				sb.End = sb.Created.Add(p.MaxAge)
				if strings.HasSuffix(rest, "+") {
					sb.End = sb.End.Add(p.MaxAge)
				}
				members = append(members, sb)
			}
			u := p.plan(members, "now", noon)
			var got []string
			for _, sb := range u.drain {
				got = append(got, "drain "+sb.ID)
			}
			if u.make > 0 {
				got = append(got, fmt.Sprint("make ", u.make))
			}
			if !u.look.Equal(forever) {
				got = append(got, "look "+u.look.Sub(noon).String())
			}
			if is := strings.Join(got, " "); is != tt.want {
				t.Errorf("plan is %q, want %q", is, tt.want)
			}
		})
	}
}
