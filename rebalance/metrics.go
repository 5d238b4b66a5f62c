package rebalance

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	ended       *prometheus.CounterVec
	copied      prometheus.Counter
	busySeconds prometheus.Histogram
	putOff      prometheus.Counter
	yielded     prometheus.Counter
	sending     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	const ns, sub = "waypost", "rebalance"
	m := &metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "moves_total",
			Help: "Moves that ended, by result: done, undone."}, []string{"result"}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "copied_bytes_total",
			Help: "Bytes of mail that moves copied."}),
		busySeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "busy_seconds",
			Help: "How long users were held by moves that were done.", Buckets: []float64{.05, .1, .2, .5, 1, 2, 5, 10, 30}}),
	}
	m.putOff = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "put_off_total",
		Help: "Tries of moves that were rolled back, or not begun, because the user would be busy for too long."})
	m.yielded = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "yielded_seconds_total",
		Help: "Time in which copies were paused because users had to wait."})
	m.sending = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sending_wait_seconds_total",
		Help: "Time in which moves waited for clients in the middle of a long message."})
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "moves_in_flight",
		Help: "Moves that this mover is executing."}, func() float64 { return float64(s.inFlight()) })
	for _, c := range []prometheus.Collector{m.ended, m.copied, m.busySeconds, m.putOff, m.yielded, m.sending, inFlight} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
