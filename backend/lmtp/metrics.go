package lmtp

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what an operator sees of the mail entrance. The label result is
// one of the words in replies.go.
type metrics struct {
	sessions   prometheus.Gauge
	recipients *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	bytes      prometheus.Counter
	seconds    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		sessions: f.NewGauge(prometheus.GaugeOpts{
			Name: "waypost_lmtp_sessions", Help: "Open LMTP connections.",
		}),
		recipients: f.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_lmtp_recipients_total", Help: "Answers to RCPT TO, by result.",
		}, []string{"result"}),
		deliveries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_lmtp_deliveries_total", Help: "Answers for each recipient after the body, by result.",
		}, []string{"result"}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "waypost_lmtp_staged_bytes_total", Help: "Bytes of messages taken in, once per transaction.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "waypost_lmtp_commit_seconds",
			Help:    "Time from the end of a body to the last reply for it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}),
	}
}
