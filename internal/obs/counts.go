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
		calls: measure(r, "agentlab_tool_call", "calls of tools that have ended. What was refused before it reached a tool, such as a call of one that there is not, is none",
			"how long calls of tools took, from 5 ms to 2 min", callBuckets, "tool"),
		transfers: measure(r, "agentlab_transfer", "requests that move files by URL, `upload` or `download`, and have ended; a part is one. The outcome may also be `interrupted` (the client went away, or sent or read nothing for too long) or `revoked`",
			"how long requests that move files by URL took, from 10 ms to 30 min", transferBuckets, "direction"),
		moved: count("agentlab_transfer_bytes_total", "bytes of files that were moved by URL, also by requests that failed then", "direction"),
		creates: measure(r, "agentlab_sandbox_create", "makings of sandboxes that have ended; `not_found` is that it was destroyed meanwhile",
			"from the request for a sandbox until it was ready or that had failed, from 0.1 s to 5 min", machineBuckets, "backend"),
		destroys: measure(r, "agentlab_sandbox_destroy", "tries to remove a machine; one that fails is repeated, except for `not_ours`",
			"how long tries to remove a machine took, from 0.1 s to 5 min", machineBuckets, "backend"),
		requests: measure(r, "agentlab_backend_request", "calls of the API of a Proxmox, each time that one is made; a call is such as `POST nodes/qemu/clone`, without the names of nodes, machines, tasks and volumes. The outcome is `ok`, or what kind of failure it was, such as `permission denied`, `not authenticated`, `unreachable`, `certificate not trusted`, `no quorum`. `not found` need not be one: that is how a machine is seen to be gone",
			"how long calls of the API of a Proxmox took, from 5 ms to 2 min", callBuckets, "backend", "call"),
		steps: measure(r, "agentlab_sandbox_step", "steps of making sandboxes that have ended: the `wait` for a slot, to `provision` the machine and start it, the `boot` until a command could be run in it; of one that was made ahead only the `handover`",
			"how long the steps of making sandboxes took, from 0.1 s to 5 min", machineBuckets, "backend", "step"),
		moves: count("agentlab_sandbox_state_changes_total", "changes of the state of sandboxes, by the new one, those of pools too. A request (`REQUESTED`) and a claim from a pool (`BOOTING`) are no change", "backend", "state"),
		lives: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "agentlab_sandbox_lifetime_seconds", Help: "from the request for a sandbox to its end, from 1 min to a week; the state is that in which it ended: `TIMEOUT`, `FAILED` or `DESTROYING`. Those of pools are among them", Buckets: lifeBuckets,
		}, []string{"backend", "state"}),
		refusals:  count("agentlab_limit_refusals_total", "requests refused for a limit of who asks: `rate`, `calls`, `connection_calls`, `streams`, `bodies`, `subscriptions`, `connections`. A quota of sandboxes is an outcome of `create_sandbox`", "limit"),
		strangers: count("agentlab_authentication_failures_total", "requests over HTTP of somebody unknown: with a token that is `missing` or `invalid`, or that could not be checked (`unavailable`), or with a URL of a file that is not valid (`ticket`)", "reason"),
		claims:    count("agentlab_pool_claims_total", "requests that a machine of the profile's pool would do for: `warm`, with one that was handed over, `cold`, since there was none, or `failed`, with one that could not be handed over and was replaced by another", "profile", "outcome"),
	}
	r.MustRegister(c.moves, c.lives, c.moved, c.refusals, c.strangers, c.claims)
	return c
}

func count(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// measure returns what is measured under a name in the singular.
func measure(r *prometheus.Registry, name, ended, took string, buckets []float64, labels ...string) measured {
	m := measured{
		ended: count(name+"s_total", ended, append(labels, "outcome")...),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name + "_duration_seconds", Help: took, Buckets: buckets,
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
