package pvetest

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// schemaParam is a parameter in the recorded schema.
type schemaParam struct {
	Type      string
	Optional  any
	Enum      []string
	Minimum   any
	Maximum   any
	MaxLength int
	MinLength int
}

type schemaCall struct {
	Params      map[string]schemaParam
	Permissions struct {
		Check []any
		User  string
	}
	Protected int
}

// TestTablesAgreeWithSchema holds our tables against the schemas that were
// read off PVE 8.4 and 9, in the directory PVETEST_SCHEMA names. Without it
// only what the tables say of themselves is looked at.
func TestTablesAgreeWithSchema(t *testing.T) {
	dir := os.Getenv("PVETEST_SCHEMA")
	if dir == "" {
		t.Log("PVETEST_SCHEMA names no directory with schemas: the parameter tables are held against none")
	}
	for _, v := range []struct {
		release int
		file    string
	}{{804, "schema-8.4.json"}, {900, "schema-9.json"}} {
		table := routes(v.release)
		var schema map[string]schemaCall
		if dir != "" {
			data, err := os.ReadFile(filepath.Join(dir, v.file))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &schema); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range table {
			name := r.method + " " + r.path
			if r.call == nil {
				t.Errorf("%s has no handler", name)
			}
			want, ok := schema[name]
			if schema == nil || !ok || name == "PUT /storage/{storage}" { // of which only the content is simulated
				continue // indices, which the schemas leave out
			}
			for _, diff := range routeDiff(r, want) {
				t.Errorf("%d: %s: %s", v.release, name, diff)
			}
		}
	}
}

func routeDiff(r *route, want schemaCall) []string {
	var diffs []string
	if (want.Protected == 1) != r.daemon {
		diffs = append(diffs, fmt.Sprintf("in pvedaemon: %v, want %v", r.daemon, want.Protected == 1))
	}
	if p := permission(want); p != "" && !strings.HasPrefix(r.perm, "!") && p != r.perm {
		diffs = append(diffs, fmt.Sprintf("permission %q, want %q", r.perm, p))
	}
	for name, p := range want.Params {
		spec := r.specs[name]
		if spec == nil {
			diffs = append(diffs, "lacks the parameter "+name)
			continue
		}
		if d := paramDiff(spec, p, strings.Contains(r.path, "{"+name+"}")); d != "" {
			diffs = append(diffs, name+": "+d)
		}
	}
	for name := range r.specs {
		if _, ok := want.Params[name]; !ok && name != "regenerate" { // measured on 9.2
			diffs = append(diffs, "has a parameter too many: "+name)
		}
	}
	return diffs
}

// permission is the simple kind of check: one path, privileges, all or any.
func permission(c schemaCall) string {
	if len(c.Permissions.Check) < 3 || c.Permissions.Check[0] != "perm" || c.Permissions.User != "" {
		return ""
	}
	privs, ok := c.Permissions.Check[2].([]any)
	if !ok {
		return ""
	}
	names := make([]string, len(privs))
	for i, p := range privs {
		names[i] = fmt.Sprint(p)
	}
	return fmt.Sprint(c.Permissions.Check[1]) + " " + strings.Join(names, "|")
}

func paramDiff(s *param, want schemaParam, inPath bool) string {
	optional := fmt.Sprint(want.Optional) == "1"
	switch {
	case s.kind != want.Type:
		return fmt.Sprintf("type %s, want %s", s.kind, want.Type)
	case s.required == optional && !inPath:
		return fmt.Sprintf("required %v, want %v", s.required, !optional)
	case s.maxLen != want.MaxLength:
		return fmt.Sprintf("at most %d characters, want %d", s.maxLen, want.MaxLength)
	case s.minLen != want.MinLength:
		return fmt.Sprintf("at least %d characters, want %d", s.minLen, want.MinLength)
	case !sameNumber(s.min, want.Minimum):
		return fmt.Sprintf("minimum %g, want %v", s.min, want.Minimum)
	case !sameNumber(s.max, want.Maximum):
		return fmt.Sprintf("maximum %g, want %v", s.max, want.Maximum)
	case s.enum != nil && !slices.Equal(slices.Sorted(slices.Values(s.enum)), slices.Sorted(slices.Values(want.Enum))):
		return fmt.Sprintf("one of %v, want %v", s.enum, want.Enum)
	}
	return ""
}

func sameNumber(have float64, want any) bool {
	if want == nil {
		return math.IsNaN(have)
	}
	n, err := strconv.ParseFloat(fmt.Sprint(want), 64)
	return err == nil && n == have
}
