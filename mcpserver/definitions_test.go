package mcpserver_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/tiktoken-go/tokenizer"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

var update = flag.Bool("update", false, "rewrite testdata")

// definitions returns what a client is told of each tool, resource, template
// or prompt, as it is sent. kind is the name of the list.
func definitions(t *testing.T, kind string) map[string]json.RawMessage {
	t.Helper()
	r := start(t, offering, func(s *mcpserver.Server) {
		s.Tools = tools.All(nil, sessions.BuiltinProfiles(), slog.New(slog.DiscardHandler))
	}).dial(t)
	r.send(strings.TrimSpace(mcpserver.Hello{HostDirs: []string{t.TempDir()}}.Line())) // with all that may be offered
	method := map[string]string{"resourceTemplates": "resources/templates"}[kind]
	r.send(`{"jsonrpc":"2.0","id":1,"method":"` + cmp.Or(method, kind) + `/list"}`)
	var list map[string][]json.RawMessage
	if err := json.Unmarshal(r.answer().Result, &list); err != nil {
		t.Fatal(err)
	}
	defs := map[string]json.RawMessage{}
	for _, raw := range list[kind] {
		var def struct{ Name string }
		if err := json.Unmarshal(raw, &def); err != nil {
			t.Fatal(err)
		}
		defs[def.Name] = raw
	}
	return defs
}

// The golden files are what clients see: a change of theirs is a change of the
// interface.
func TestDefinitionsAreGolden(t *testing.T) {
	for _, kind := range []string{"tools", "resources", "resourceTemplates", "prompts"} {
		t.Run(kind, func(t *testing.T) { checkGolden(t, filepath.Join("testdata", kind), definitions(t, kind)) })
	}
}

func checkGolden(t *testing.T, dir string, defs map[string]json.RawMessage) {
	t.Helper()
	for name, raw := range defs {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
		path := filepath.Join(dir, name+".json")
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s differs; -update rewrites it (-want +got):\n%s", path, diff)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != len(defs) || len(files) == 0 {
		t.Errorf("%d golden files for %d definitions, error %v", len(files), len(defs), err)
	}
}

func TestDefinitionsFitClients(t *testing.T) {
	codec, err := tokenizer.Get(tokenizer.O200kBase)
	if err != nil {
		t.Fatal(err)
	}
	defs := definitions(t, "tools")
	if len(defs) != 16 {
		t.Errorf("%d tools", len(defs))
	}
	total := 0
	for name, raw := range defs {
		n, err := codec.Count(string(raw))
		if err != nil {
			t.Fatal(err)
		}
		total += n
		checkDefinition(t, name, raw)
	}
	t.Logf("%d tokens", total)
	if total >= 4000 {
		t.Errorf("the definitions have %d tokens, want less than 4000", total)
	}
}

// checkDefinition holds a definition to what all clients can use.
func checkDefinition(t *testing.T, name string, raw json.RawMessage) {
	t.Helper()
	if !regexp.MustCompile(`^[a-z_]{1,24}$`).MatchString(name) {
		t.Errorf("name %q", name)
	}
	if m := regexp.MustCompile(`"(anyOf|oneOf|allOf|\$ref|\$defs|nullable)"|"type":\[`).Find(raw); m != nil {
		t.Errorf("%s: schema has %s", name, m)
	}
	var def struct {
		Title, Description string
		InputSchema        map[string]any
		OutputSchema       struct {
			Properties map[string]struct {
				Type  string
				Items struct {
					Properties map[string]struct{ Type string }
				}
			}
		}
		Annotations map[string]any
	}
	if err := json.Unmarshal(raw, &def); err != nil {
		t.Fatal(err)
	}
	if def.Title == "" || def.Description == "" || def.InputSchema["additionalProperties"] != false {
		t.Errorf("%s: title %q, description %q, additionalProperties %v", name, def.Title, def.Description, def.InputSchema["additionalProperties"])
	}
	for _, hint := range []string{"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} {
		if _, ok := def.Annotations[hint].(bool); !ok {
			t.Errorf("%s: no annotation %s", name, hint)
		}
	}
	flat := []string{"string", "integer", "boolean"}
	for key, p := range def.OutputSchema.Properties {
		if !slices.Contains(append(flat, "array"), p.Type) {
			t.Errorf("%s: output %s is of type %s", name, key, p.Type)
		}
		for item, q := range p.Items.Properties {
			if !slices.Contains(flat, q.Type) {
				t.Errorf("%s: output %s.%s is of type %s", name, key, item, q.Type)
			}
		}
	}
}
