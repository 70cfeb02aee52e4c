package obs_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/goccy/go-yaml"
)

// series are the labels of each series of a scrape, by name.
type series map[string][]string

func scraped(body string) series {
	all := series{"up": {"job", "instance"}} // Prometheus makes it itself
	for _, line := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? `).FindAllStringSubmatch(body, -1) {
		labels := []string{"job", "instance"}
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(line[2], -1) {
			labels = append(labels, label[1])
		}
		all[line[1]] = labels
	}
	return all
}

// check parses a query and looks whether there is what it asks for: its metrics,
// their labels and, of ours, values that the document knows.
func (all series) check(t *testing.T, where, query, doc string) {
	t.Helper()
	expr, err := metricsql.Parse(query)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	metrics := 0
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			metrics++
			all.checkMetric(t, where, e, doc)
		case *metricsql.AggrFuncExpr:
			for _, label := range e.Modifier.Args {
				metricsql.VisitAll(e, func(below metricsql.Expr) {
					if m, ok := below.(*metricsql.MetricExpr); ok && !slices.Contains(all[name(m)], label) {
						t.Errorf("%s: %s has no label %q", where, name(m), label)
					}
				})
			}
		}
	})
	if metrics == 0 {
		t.Errorf("%s asks for no metric: %s", where, query)
	}
}

func (all series) checkMetric(t *testing.T, where string, m *metricsql.MetricExpr, doc string) {
	t.Helper()
	labels, ok := all[name(m)]
	if !ok {
		t.Errorf("%s: a daemon has no metric %q", where, name(m))
		return
	}
	for _, f := range m.LabelFilterss[0][1:] {
		if !slices.Contains(labels, f.Label) {
			t.Errorf("%s: %s has no label %q", where, name(m), f.Label)
		}
		if f.Label == "instance" || f.Label == "job" {
			continue
		}
		for value := range strings.SplitSeq(f.Value, "|") {
			if !strings.Contains(doc, "`"+value+"`") {
				t.Errorf("%s: %s is never %q, as far as docs/metrics.md says", where, f.Label, value)
			}
		}
	}
}

func name(m *metricsql.MetricExpr) string { return m.LabelFilterss[0][0].Value }

func TestAlertsAskForWhatThereIs(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text := readFile(t, "../../packaging/prometheus/agentlab.rules.yaml")
	if err := yaml.UnmarshalWithOptions([]byte(text), &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	all, doc := scraped(everything(t)), readFile(t, "../../docs/metrics.md")
	seen := map[string]bool{}
	for _, r := range file.Groups[0].Rules {
		all.check(t, r.Alert, r.Expr, doc)
		if r.Alert == "" || seen[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("alert %q is there twice, or lacks a severity, a summary or a description", r.Alert)
		}
		seen[r.Alert] = true
		for _, tool := range regexp.MustCompile(`agentlab_\w+`).FindAllString(r.Annotations["description"], -1) {
			if all[tool] == nil {
				t.Errorf("%s names %s, which there is not", r.Alert, tool)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("there is no alert")
	}
}

// panel is one of a dashboard of Grafana.
type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ RefID, Expr string }
}

func TestDashboardAsksForWhatThereIs(t *testing.T) {
	var board struct {
		Title, UID string
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
		Panels []panel
	}
	if err := json.Unmarshal([]byte(readFile(t, "../../packaging/grafana/agentlab.json")), &board); err != nil {
		t.Fatal(err)
	}
	all, doc := scraped(everything(t)), readFile(t, "../../docs/metrics.md")
	shown := ""
	for i, p := range board.Panels {
		for _, q := range p.Targets {
			all.check(t, p.Title, strings.ReplaceAll(q.Expr, "$__rate_interval", "5m"), doc)
			shown += q.Expr + "\n"
		}
		if p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d, %q, shows nothing", p.ID, p.Title)
		}
		for _, q := range board.Panels[:i] {
			if p.ID == q.ID || p.over(q) {
				t.Errorf("panels %q and %q have the same id or lie over each other", p.Title, q.Title)
			}
		}
	}
	for metric := range all {
		base := regexp.MustCompile(`_(count|sum|bucket)$`).ReplaceAllString(metric, "")
		if strings.HasPrefix(metric, "agentlab_") && !strings.Contains(shown, base) && !slices.Contains(unshown(), base) {
			t.Errorf("nothing shows %s", metric)
		}
	}
}

// unshown are the metrics that another one on the dashboard tells as well, and
// that which its variable is made of.
func unshown() []string {
	return []string{"agentlab_build_info", "agentlab_sandbox_overdue_seconds", "agentlab_sandbox_destroy_duration_seconds", "agentlab_transfer_duration_seconds"}
}

func (p panel) over(q panel) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
