package mx

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/internal/telemetry"
	"waypost/mx/spool"
)

// metrics are named waypost_mx_*; docs list what to alarm on.
type metrics struct {
	connections *prometheus.CounterVec // by service and result
	open        prometheus.Gauge
	messages    *prometheus.CounterVec // by result
	refused     *prometheus.CounterVec // recipients, by reason
	deferred    *prometheus.CounterVec // recipients, by reason
	deadLetters prometheus.Counter
	staleTwice  prometheus.Counter
	staleOnce   prometheus.Counter
	lostMembers prometheus.Counter
	bytes       prometheus.Counter
	seconds     *prometheus.HistogramVec // by stage
	logins      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, sp *spool.Spool) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := telemetry.NewMetrics(reg, "mx")
	m.GaugeFunc("spool_entries", "Messages that wait in the spool.", func() float64 { s := sp.Stats(); return float64(s.Queued + s.Held) })
	m.GaugeFunc("spool_held", "Messages in the spool that wait for the operator.", func() float64 { return float64(sp.Stats().Held) })
	m.GaugeFunc("spool_dead", "Dead letters in the spool.", func() float64 { return float64(sp.Stats().Dead) })
	m.GaugeFunc("spool_oldest_age_seconds", "Age of the oldest message that waits.", func() float64 {
		if old := sp.Stats().Oldest; !old.IsZero() {
			return time.Since(old).Seconds()
		}
		return 0
	})
	met := &metrics{
		connections: m.CounterVec("connections_total", "Connections, by service and whether they were accepted.", "service", "result"),
		open:        m.Gauge("connections_open", "Connections that are open."),
		messages:    m.CounterVec("messages_total", "Messages, by the answer at their end.", "result"),
		refused:     m.CounterVec("recipients_refused_total", "Recipients that were refused, by reason.", "reason"),
		deferred:    m.CounterVec("recipients_deferred_total", "Recipients that were spooled, by reason.", "reason"),
		deadLetters: m.Counter("dead_letters_total", "Recipients who were gone after their mail was accepted."),
		staleTwice:  m.Counter("stale_twice_total", "Requests that a home called stale again after a fresh look-up (R11): an alarm."),
		staleOnce:   m.Counter("stale_total", "Requests that a home called stale."),
		lostMembers: m.Counter("list_members_refused_total", "Members of aliases that were refused while others were accepted."),
		bytes:       m.Counter("message_bytes_total", "Bytes of accepted messages."),
		seconds:     m.HistogramVec("delivery_seconds", "Time of a message, by stage: commit is from its end to the answer.", nil, "stage"),
		logins:      m.CounterVec("logins_total", "Logins of the submission service.", "result"),
	}
	met.begin()
	return met
}

// begin has the series there from the start: one that begins with the trouble
// is seen too late.
func (m *metrics) begin() {
	for _, reason := range []string{"unknown", "disabled", "over_quota", "relay", "limited", "too_many", "expansion", "directory", "temporary", "other"} {
		m.refused.WithLabelValues(reason)
	}
	for _, reason := range []string{"busy", "stale", "away", "refused", "refused_late", "over_quota", "member", "dropped", "commit", "directory", "temporary"} {
		m.deferred.WithLabelValues(reason)
	}
}
