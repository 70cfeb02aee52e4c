package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestTraceScripts runs the scripts of testdata/traces, each with a Proxmox and a
// collector of traces; $WORK/collector.yaml is how to reach the latter.
func TestTraceScripts(t *testing.T) {
	bin := programs(t)
	p := params(func(env *testscript.Env) error {
		sim, err := setupProxmox(env, bin, "8.4.21")
		if err != nil {
			return err
		}
		c := &collector{}
		srv := httptest.NewServer(c)
		env.Defer(srv.Close)
		env.Values[collectorKey{}] = c
		env.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key="+collectorSecret)
		return appendFile(filepath.Join(env.WorkDir, "config/agentlab/config.yaml"), "http_listen: 127.0.0.1:0\nmetrics_listen: 127.0.0.1:0\notlp_endpoint: "+srv.URL+"\n"+sim.Config())
	})
	p.Cmds["traces"], p.Cmds["leaks"] = cmdTraces, cmdLeaks
	p.Dir = "testdata/traces"
	testscript.Run(t, p)
}

const collectorSecret = "canary-collector-key"

type collectorKey struct{}

// collector takes traces as OTLP over HTTP has them.
type collector struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	about []string // the attributes of who sent them
	wrong []string // what is not as OTLP has it
}

// ServeHTTP takes spans, the first time only after it was asked again.
func (c *collector) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var data tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(body, &data)
	}
	if kind := r.Header.Get("Content-Type"); err != nil || r.Method+r.URL.Path != "POST/v1/traces" || kind != "application/x-protobuf" || r.Header.Get("X-Api-Key") != collectorSecret {
		c.wrong = append(c.wrong, fmt.Sprintf("%s %s of %s: %v", r.Method, r.URL.Path, kind, err))
	}
	if c.about == nil {
		c.about = []string{}
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for _, rs := range data.ResourceSpans {
		c.about = append(c.about, fmt.Sprint(rs.Resource.Attributes))
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
}

// cmdTraces prints what has come: a line for each span, with those that it is
// below, each with its outcome and other attributes.
func cmdTraces(ts *testscript.TestScript, _ bool, _ []string) {
	c := ts.Value(collectorKey{}).(*collector)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 || !strings.Contains(strings.Join(c.about, ""), `"service.name"`) {
		ts.Fatalf("the collector was sent %q by %v", c.wrong, c.about)
	}
	var print func(path, parent string)
	print = func(path, parent string) {
		for _, s := range c.below(parent) {
			line := path + s.Name + attributes(s)
			_, err := fmt.Fprintln(ts.Stdout(), line)
			ts.Check(err)
			print(line+" > ", hex.EncodeToString(s.TraceId)+hex.EncodeToString(s.SpanId))
		}
	}
	for _, root := range c.roots() {
		print(root+" > ", root)
	}
}

// attributes are those of a span, each after a space.
func attributes(s *tracepb.Span) (all string) {
	for _, a := range s.Attributes {
		all += fmt.Sprintf(" %s=%s", strings.TrimPrefix(a.Key, "agentlab."), a.Value.GetStringValue())
	}
	return all
}

func parentOf(s *tracepb.Span) string {
	return hex.EncodeToString(s.TraceId) + hex.EncodeToString(s.ParentSpanId)
}

// below returns the children of a span, the first to begin first.
func (c *collector) below(parent string) []*tracepb.Span {
	some := slices.DeleteFunc(slices.Clone(c.spans), func(s *tracepb.Span) bool { return parentOf(s) != parent })
	slices.SortFunc(some, func(a, b *tracepb.Span) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	return some
}

// roots returns the parents that are nobody we were told of.
func (c *collector) roots() (roots []string) {
	known := map[string]bool{}
	for _, s := range c.spans {
		known[hex.EncodeToString(s.TraceId)+hex.EncodeToString(s.SpanId)] = true
	}
	for _, s := range c.spans {
		if p := parentOf(s); !known[p] && !slices.Contains(roots, p) {
			roots = append(roots, p)
		}
	}
	return roots
}
