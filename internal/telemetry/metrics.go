package telemetry

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes a registry with the metrics of the Go runtime and of this
// process.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Metrics makes the metrics of one role, named waypost_<role>_<name>, and
// registers them. Names follow Prometheus: units at the end, counters with
// _total. Where one process runs several nodes of a role, give each a registerer
// of its own labels (prometheus.WrapRegistererWith).
//
// Asking twice for one metric gives the same one, so that two parts of a role
// may count together. A name that is malformed, or taken by a metric of another
// kind or other labels, is a mistake in the program and panics.
type Metrics struct {
	reg  prometheus.Registerer
	role string
}

// NewMetrics makes metrics for a role, such as "mx", in reg.
func NewMetrics(reg prometheus.Registerer, role string) *Metrics { return &Metrics{reg, role} }

func (m *Metrics) name(name string) string { return prometheus.BuildFQName("waypost", m.role, name) }

// Counter counts events.
func (m *Metrics) Counter(name, help string) prometheus.Counter {
	return register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: m.name(name), Help: help}))
}

// CounterVec counts events by labels, whose values must be few and not chosen
// by strangers.
func (m *Metrics) CounterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return register(m, prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.name(name), Help: help}, labels))
}

// Gauge is a value that goes up and down.
func (m *Metrics) Gauge(name, help string) prometheus.Gauge {
	return register(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: m.name(name), Help: help}))
}

// GaugeVec is a gauge by labels; see CounterVec.
func (m *Metrics) GaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(m, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.name(name), Help: help}, labels))
}

// GaugeFunc is a gauge that is asked when metrics are read; value must answer
// at once and be safe for concurrent use. Asked for twice, the first value
// stays.
func (m *Metrics) GaugeFunc(name, help string, value func() float64) {
	register(m, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: m.name(name), Help: help}, value))
}

// Histogram counts observations in buckets with the given upper bounds, in the
// unit that ends the name; nil gives Prometheus's own, which suit seconds of
// network requests.
func (m *Metrics) Histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(m, prometheus.NewHistogram(prometheus.HistogramOpts{Name: m.name(name), Help: help, Buckets: buckets}))
}

// HistogramVec is a histogram by labels; see CounterVec.
func (m *Metrics) HistogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	opts := prometheus.HistogramOpts{Name: m.name(name), Help: help, Buckets: buckets}
	return register(m, prometheus.NewHistogramVec(opts, labels))
}

// register registers c, or gives the one that is registered already.
func register[C prometheus.Collector](m *Metrics, c C) C {
	err := m.reg.Register(c)
	if err == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	panic(fmt.Sprintf("telemetry: metric of role %s: %v", m.role, err))
}
