package imap

import (
	"errors"
	"waypost/internal/handoff"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the package's own; docs/ lists them.
type metrics struct {
	open     prometheus.Gauge
	ended    *prometheus.CounterVec // by reason
	stayed   *prometheus.CounterVec // by reason
	bytes    *prometheus.CounterVec // by direction
	appended prometheus.Counter
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		open: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "waypost_imap_sessions", Help: "IMAP sessions that are open.",
		})),
		ended: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_imap_sessions_ended_total", Help: "IMAP sessions that have ended, by reason.",
		}, []string{"reason"})),
		stayed: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_imap_sessions_not_handed_off_total", Help: "IMAP sessions that ended where they should have been handed off, by reason.",
		}, []string{"reason"})),
		bytes: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_imap_bytes_total", Help: "Bytes of IMAP sessions that have ended, by direction (in, out).",
		}, []string{"direction"})),
		appended: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "waypost_imap_appends_total", Help: "Messages stored by APPEND.",
		})),
		failures: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "waypost_imap_failures_total", Help: "Commands answered NO for a fault of the server.",
		})),
	}
	// So that they are there before the first.
	for _, reason := range []handoff.Reason{handoff.TooBig, handoff.Midway, handoff.SlowClient} {
		m.stayed.WithLabelValues(string(reason))
	}
	return m
}

// register adds c to r, or takes what another Server of this process has added.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var had prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &had) {
		if old, ok := had.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}
