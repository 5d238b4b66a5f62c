package managesieve

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what an operator sees of ManageSieve.
type metrics struct {
	sessions prometheus.Gauge
	ended    *prometheus.CounterVec // reason, one of endings
	commands *prometheus.CounterVec // command, result: "ok" or "no"
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		sessions: f.NewGauge(prometheus.GaugeOpts{
			Name: "waypost_managesieve_sessions", Help: "Open ManageSieve sessions.",
		}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_managesieve_sessions_ended_total", Help: "ManageSieve sessions that ended, by reason.",
		}, []string{"reason"}),
		commands: f.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_managesieve_commands_total", Help: "ManageSieve commands answered, by result.",
		}, []string{"command", "result"}),
	}
	for _, reason := range endings {
		m.ended.WithLabelValues(reason)
	}
	m.commands.WithLabelValues("LOGOUT", "ok") // a series that begins late is seen late
	return m
}
