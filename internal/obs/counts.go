package obs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// counts are what is counted when it happens.
type counts struct {
	calls     measured
	transfers measured
	moved     *prometheus.CounterVec
	creates   measured
	destroys  measured
	steps     measured
	moves     *prometheus.CounterVec
	lives     *prometheus.HistogramVec
	requests  measured
	refusals  *prometheus.CounterVec
	strangers *prometheus.CounterVec
	claims    *prometheus.CounterVec
}

// measured is what has ended: how often, by outcome, and how long it took. The
// time does not tell outcomes apart, which would be as many buckets more.
type measured struct {
	ended *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

// Buckets in seconds.
var (
	callBuckets     = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	transferBuckets = []float64{.01, .1, 1, 10, 60, 300, 1800}
	lifeBuckets     = []float64{60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600}
	machineBuckets  = []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
)

func newCounts(r *prometheus.Registry) counts {
	c := counts{
		calls:     measure(r, "agentlab_tool_call", "Calls of tools", callBuckets, "tool"),
		transfers: measure(r, "agentlab_transfer", "Requests that move files by URL", transferBuckets, "direction"),
		moved:     count("agentlab_transfer_bytes_total", "Bytes of files that were moved by URL.", "direction"),
		creates:   measure(r, "agentlab_sandbox_create", "Makings of sandboxes", machineBuckets, "backend"),
		destroys:  measure(r, "agentlab_sandbox_destroy", "Tries to remove the machine of a sandbox", machineBuckets, "backend"),
		requests:  measure(r, "agentlab_backend_request", "Calls of the API of a backend", callBuckets, "backend", "call"),
		steps:     measure(r, "agentlab_sandbox_step", "Steps of the making of sandboxes", machineBuckets, "backend", "step"),
		moves:     count("agentlab_sandbox_state_changes_total", "Changes of the state of sandboxes.", "backend", "state"),
		lives: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "agentlab_sandbox_lifetime_seconds", Help: "From the request for a sandbox to its end.", Buckets: lifeBuckets,
		}, []string{"backend", "state"}),
		refusals:  count("agentlab_limit_refusals_total", "Requests refused for a limit of who asks.", "limit"),
		strangers: count("agentlab_authentication_failures_total", "Requests over HTTP of somebody unknown.", "reason"),
		claims:    count("agentlab_pool_claims_total", "Requests that a machine made ahead would do for.", "profile", "outcome"),
	}
	r.MustRegister(c.moves, c.lives, c.moved, c.refusals, c.strangers, c.claims)
	return c
}

func count(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// measure returns what is measured under a name in the singular.
func measure(r *prometheus.Registry, name, what string, buckets []float64, labels ...string) measured {
	m := measured{
		ended: count(name+"s_total", what+" that have ended.", append(labels, "outcome")...),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name + "_duration_seconds", Help: what + ": how long they took.", Buckets: buckets,
		}, labels),
	}
	r.MustRegister(m.ended, m.took)
	return m
}

func (m measured) add(outcome string, took time.Duration, labels ...string) {
	m.took.WithLabelValues(labels...).Observe(took.Seconds())
	m.ended.WithLabelValues(append(labels, outcome)...).Inc()
}

// All that follows counts what has happened. Each text is a label, so it must be
// of few.

// ToolCall counts a call of a tool that has ended.
func (w *Watch) ToolCall(tool, outcome string, took time.Duration) {
	w.counts.calls.add(outcome, took, tool)
}

// Transfer counts a request that moved bytes of a file by URL and has ended.
func (w *Watch) Transfer(direction, outcome string, bytes int64, took time.Duration) {
	w.counts.transfers.add(outcome, took, direction)
	w.counts.moved.WithLabelValues(direction).Add(float64(bytes))
}

// LimitRefusal counts a request that was refused for a limit of who asks.
func (w *Watch) LimitRefusal(limit string) { w.counts.refusals.WithLabelValues(limit).Inc() }

// AuthFailure counts a request of somebody unknown.
func (w *Watch) AuthFailure(reason string) { w.counts.strangers.WithLabelValues(reason).Inc() }

// Created counts the making of a sandbox that has ended.
func (w *Watch) Created(backend, outcome string, took time.Duration) {
	w.counts.creates.add(outcome, took, backend)
}

// Destroyed counts a try to remove a machine.
func (w *Watch) Destroyed(backend, outcome string, took time.Duration) {
	w.counts.destroys.add(outcome, took, backend)
}

// Claimed counts a request that a machine made ahead would do for. The profile is
// one of the configuration.
func (w *Watch) Claimed(profile, outcome string) {
	w.counts.claims.WithLabelValues(profile, outcome).Inc()
}

// Stepped counts a step of the making of a sandbox.
func (w *Watch) Stepped(backend, step, outcome string, took time.Duration) {
	w.counts.steps.add(outcome, took, backend, step)
}

// Moved counts a change of state.
func (w *Watch) Moved(backend string, to sessions.State) {
	w.counts.moves.WithLabelValues(backend, string(to)).Inc()
}

// Ended counts a sandbox that has left the live states.
func (w *Watch) Ended(backend string, to sessions.State, lived time.Duration) {
	w.counts.lives.WithLabelValues(backend, string(to)).Observe(lived.Seconds())
}

// Request counts a call of a backend's API. The call is one of those that there
// are, without what differs from one machine to the next.
func (w *Watch) Request(backend, call, outcome string, took time.Duration) {
	w.counts.requests.add(outcome, took, backend, call)
}
