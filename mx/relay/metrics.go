package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/internal/telemetry"
)

// metrics are named waypost_relay_*.
type metrics struct {
	accepted    *prometheus.CounterVec // by kind
	attempts    *prometheus.CounterVec // recipients, by result
	reports     *prometheus.CounterVec // by action
	deadLetters prometheus.Counter
	limited     prometheus.Counter
}

// results are the labels of verdicts.
var results = [...]string{later: "later", delivered: "sent", failed: "failed"}

func newMetrics(reg prometheus.Registerer, q *Queue) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := telemetry.NewMetrics(reg, "relay")
	m.GaugeFunc("queue_entries", "Messages that wait to leave.", func() float64 { return float64(q.Stats().Queued) })
	m.GaugeFunc("queue_dead", "Dead letters of the way out.", func() float64 { return float64(q.Stats().Dead) })
	m.GaugeFunc("queue_oldest_age_seconds", "Age of the oldest message that waits to leave.", func() float64 {
		if old := q.Stats().Oldest; !old.IsZero() {
			return time.Since(old).Seconds()
		}
		return 0
	})
	m.GaugeFunc("smarthost_held", "1 while trouble of the smarthost holds everything back.", func() float64 {
		if q.hosts.held() {
			return 1
		}
		return 0
	})
	met := &metrics{
		accepted:    m.CounterVec("messages_total", "Messages taken into the queue, by kind.", "kind"),
		attempts:    m.CounterVec("recipients_total", "Recipients tried at the smarthost, by result.", "result"),
		reports:     m.CounterVec("reports_total", "Delivery status notifications made, by action.", "action"),
		deadLetters: m.Counter("dead_letters_total", "Recipients who failed and of whom nobody may be told: an alarm."),
		limited:     m.Counter("limited_total", "Messages refused because of their user's limits."),
	}
	for _, k := range []Kind{Submission, Forward, Redirect, Vacation, Notify, Reject, Echo} {
		met.accepted.WithLabelValues(string(k))
	}
	for _, r := range results {
		met.attempts.WithLabelValues(r)
	}
	for _, a := range []action{actionFailed, actionDelayed, actionRelayed} {
		met.reports.WithLabelValues(string(a))
	}
	return met
}
