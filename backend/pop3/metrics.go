package pop3

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what an operator sees of POP3. The label reason is one of the
// words of ending.
type metrics struct {
	sessions  prometheus.Gauge
	ended     *prometheus.CounterVec
	retrieved prometheus.Counter
	expunged  prometheus.Counter
	sent      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		sessions: f.NewGauge(prometheus.GaugeOpts{
			Name: "waypost_pop3_sessions", Help: "Open POP3 sessions.",
		}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "waypost_pop3_sessions_ended_total", Help: "POP3 sessions that ended, by reason.",
		}, []string{"reason"}),
		retrieved: f.NewCounter(prometheus.CounterOpts{
			Name: "waypost_pop3_retrieved_messages_total", Help: "Messages sent whole by RETR.",
		}),
		expunged: f.NewCounter(prometheus.CounterOpts{
			Name: "waypost_pop3_expunged_messages_total", Help: "Messages removed by QUIT.",
		}),
		sent: f.NewCounter(prometheus.CounterOpts{
			Name: "waypost_pop3_sent_bytes_total", Help: "Bytes sent to clients.",
		}),
	}
}
