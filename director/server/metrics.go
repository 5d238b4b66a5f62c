package server

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an operator pages on; docs/metrics.md lists them.
type metrics struct {
	reg      prometheus.Registerer
	all      []prometheus.Collector
	requests *prometheus.CounterVec
}

const (
	namespace = "waypost"
	subsystem = "director"
)

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	m := &metrics{reg: reg, requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "admin_requests_total",
		Help: "Requests to the admin API and look-ups, by path and HTTP status."}, []string{"path", "status"})}
	collectors := []prometheus.Collector{
		m.requests,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "moves_in_flight",
			Help: "Moves that are planned or on their way."}, func() float64 { return float64(s.moves.count()) }),
		newClusterCollector(s),
	}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("metrics: %w", err)
		}
		m.all = append(m.all, c)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

// clusterCollector tells of users and backends as they are when it is asked.
type clusterCollector struct {
	s             *Server
	users, states *prometheus.Desc
	alive         *prometheus.Desc
}

func newClusterCollector(s *Server) *clusterCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
	}
	return &clusterCollector{
		s:      s,
		users:  desc("backend_users", "Users by home, by the directory.", "backend"),
		states: desc("users", "Users by state, tombstones (deleted) included.", "state"),
		alive:  desc("backend_alive", "1 for a Waypost backend that the membership sees, else 0.", "backend"),
	}
}

// Describe implements prometheus.Collector.
func (c *clusterCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.users
	out <- c.states
	out <- c.alive
}

// Collect implements prometheus.Collector.
func (c *clusterCollector) Collect(out chan<- prometheus.Metric) {
	t, _ := c.s.census.count()
	for state, n := range t.states {
		out <- prometheus.MustNewConstMetric(c.states, prometheus.GaugeValue, float64(n), string(state))
	}
	for _, b := range c.s.backendViews() {
		out <- prometheus.MustNewConstMetric(c.users, prometheus.GaugeValue, float64(b.Users), string(b.ID))
		if b.Alive == nil {
			continue
		}
		alive := 0.0
		if *b.Alive {
			alive = 1
		}
		out <- prometheus.MustNewConstMetric(c.alive, prometheus.GaugeValue, alive, string(b.ID))
	}
}
