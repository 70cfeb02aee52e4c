package obs

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// What keeps the records from being read. The texts are shown to whoever can
// connect, and the causes, which may quote the configuration, are not.
var (
	errOpen = errors.New("the installation can't be opened; the log of the daemon says why")
	errRead = errors.New("the store can't be read; the log of the daemon says why")
	errSlow = errors.New("the store did not answer within " + limit.String())
)

// read reads records within the limit.
//
// Errors: errOpen, errRead, errSlow.
func (w *Watch) read(ctx context.Context, q sessions.Query) ([]sessions.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		list []sessions.Sandbox
		err  error
	}
	done := make(chan result, 1)
	go func() { // opening does not heed ctx: it is for all
		var res result
		db, err := w.daemon.Store(ctx)
		if err != nil {
			res.err = errOpen
		} else if res.list, err = db.List(ctx, q); err != nil {
			w.daemon.Log.Warn("read the store for those who watch", "err", err)
			res.err = errRead
		}
		done <- res
	}()
	select {
	case res := <-done:
		return res.list, res.err
	case <-ctx.Done():
		return nil, errSlow
	}
}

// records collects what the store says at the time of a scrape.
type records struct{ *Watch }

var (
	readyDesc     = prometheus.NewDesc("agentlab_ready", "1 if `/readyz` would say `200`, else 0", nil, nil)
	sandboxesDesc = prometheus.NewDesc("agentlab_sandboxes", "sandboxes of all users, without those in pools, that have or may have a machine, as the store has them at the scrape; a state that none is in is left out, and all are while `agentlab_ready` is 0", []string{"backend", "state"}, nil)
	overdueDesc   = prometheus.NewDesc("agentlab_sandboxes_overdue", "sandboxes that have ended, or should have, and whose machine is not removed yet", []string{"backend"}, nil)
	stuckDesc     = prometheus.NewDesc("agentlab_sandboxes_stuck", "sandboxes whose machine could not be removed when that was tried last: `no_answer` (within 30 s), `unavailable`, `not_ours` (the machine does not bear our papers and is left alone), `store` (our own records can't be written) or `failed`. The log has a line when one becomes stuck, when the reason changes, and when it is gone; how long a try waits for the next is up to five minutes", []string{"backend", "reason"}, nil)
	membersDesc   = prometheus.NewDesc("agentlab_pool_members", "machines made ahead that nobody has claimed yet; a state that none is in is left out", []string{"profile", "state"}, nil)
	lateDesc      = prometheus.NewDesc("agentlab_sandbox_overdue_seconds", "for how long the sandbox that ended first is overdue; 0 if none is", []string{"backend"}, nil)
)

// Describe implements [prometheus.Collector].
func (records) Describe(ch chan<- *prometheus.Desc) {
	ch <- readyDesc
	ch <- sandboxesDesc
	ch <- membersDesc
	ch <- overdueDesc
	ch <- lateDesc
	ch <- stuckDesc
}

// Collect implements [prometheus.Collector].
func (r records) Collect(ch chan<- prometheus.Metric) {
	r.collectStuck(ch)
	list, err := r.read(context.Background(), sessions.Query{Ending: true})
	if err != nil {
		ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, 1)
	type kind struct{ of, state string } // a backend, or the profile of a pool
	count, members := map[kind]int{}, map[kind]int{}
	overdue, late := map[string]int{}, map[string]time.Duration{}
	for _, sb := range list {
		if sb.Pooled() {
			members[kind{sb.Profile, string(sb.State)}]++
		} else {
			count[kind{sb.Backend, string(sb.State)}]++
		}
		overdue[sb.Backend] += 0 // a backend with none is there, too
		since := sb.End
		if !sb.Ended.IsZero() {
			since = sb.Ended
		}
		if d := time.Since(since); d > 0 {
			overdue[sb.Backend]++
			late[sb.Backend] = max(late[sb.Backend], d)
		}
	}
	for backend, n := range overdue {
		ch <- prometheus.MustNewConstMetric(overdueDesc, prometheus.GaugeValue, float64(n), backend)
		ch <- prometheus.MustNewConstMetric(lateDesc, prometheus.GaugeValue, late[backend].Seconds(), backend)
	}
	for k, n := range count {
		ch <- prometheus.MustNewConstMetric(sandboxesDesc, prometheus.GaugeValue, float64(n), k.of, k.state)
	}
	for k, n := range members {
		ch <- prometheus.MustNewConstMetric(membersDesc, prometheus.GaugeValue, float64(n), k.of, k.state)
	}
}

func (r records) collectStuck(ch chan<- prometheus.Metric) {
	if r.daemon.Stuck == nil {
		return
	}
	type kind struct{ backend, reason string }
	count := map[kind]int{}
	for _, s := range r.daemon.Stuck() {
		count[kind{s.Backend, s.Class}]++
	}
	for k, n := range count {
		ch <- prometheus.MustNewConstMetric(stuckDesc, prometheus.GaugeValue, float64(n), k.backend, k.reason)
	}
}
