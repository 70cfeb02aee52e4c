package obs

import (
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// room collects what is left of what a daemon may run out of, at the time of a
// scrape.
type room struct{ daemon Daemon }

var (
	waitingDesc = prometheus.NewDesc("agentlab_create_waiting", "sandboxes that are requested and stand in line for a slot of the backend", []string{"backend"}, nil)
	slotsDesc   = prometheus.NewDesc("agentlab_create_slots_free", "how many more sandboxes the backend would begin to make at once", []string{"backend"}, nil)
	freeDesc    = prometheus.NewDesc("agentlab_state_free_bytes", "what is free of the file system that the state directory is on, to the daemon's user", nil, nil)
	sizeDesc    = prometheus.NewDesc("agentlab_state_size_bytes", "how large the file system is that the state directory is on", nil, nil)
)

// Describe implements [prometheus.Collector].
func (room) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- slotsDesc
	ch <- freeDesc
	ch <- sizeDesc
}

// Collect implements [prometheus.Collector]. A directory that there is not has no
// room to tell of.
func (r room) Collect(ch chan<- prometheus.Metric) {
	if r.daemon.Load != nil {
		for _, l := range r.daemon.Load() {
			ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(l.Waiting), l.Backend)
			ch <- prometheus.MustNewConstMetric(slotsDesc, prometheus.GaugeValue, float64(l.Free), l.Backend)
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs(r.daemon.State, &fs) == nil {
		ch <- prometheus.MustNewConstMetric(freeDesc, prometheus.GaugeValue, float64(fs.Bavail)*float64(fs.Bsize))
		ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(fs.Blocks)*float64(fs.Bsize))
	}
}
