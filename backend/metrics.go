package backend

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// metrics are what an operator pages on; docs/metrics.md lists them.
type metrics struct {
	reg         prometheus.Registerer
	refusals    *prometheus.CounterVec
	alarms      prometheus.Counter
	takenBack   prometheus.Counter
	pulledBytes prometheus.Counter
	handedOff   *prometheus.CounterVec
	resumed     prometheus.Counter
	checkpoints prometheus.Counter
	notResumed  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, b *Server) (*metrics, error) {
	const ns, sub = "waypost", "backend"
	m := &metrics{
		reg: reg,
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "fence_refusals_total",
			Help: "Requests refused by the fence, by reason: stale, busy, refused."}, []string{"reason"}),
		alarms: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "alarms_total",
			Help: "Users that are refused because fence and directory contradict each other, and messages found past a fence. Page on any."}),
		takenBack: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "busy_taken_back_total",
			Help: "Busy users this home returned to active because the move was over the limit or had no owner."}),
		pulledBytes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "pulled_bytes_total",
			Help: "Bytes of mail copied here by moves."}),
		handedOff: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sessions_handed_off_total",
			Help: "Sessions that were handed off to their proxies, by why: moving, stopping, mailbox_closed."}, []string{"why"}),
		resumed: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sessions_resumed_total",
			Help: "Sessions that had been handed off and went on here."}),
		checkpoints: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "session_checkpoints_total",
			Help: "States of silent sessions that proxies were given, to go on from if this backend is lost."}),
		notResumed: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sessions_not_resumed_total",
			Help: "Sessions that had been handed off and could not go on, by reason."}, []string{"reason"}),
	}
	// A series that begins with the trouble is seen too late.
	for _, reason := range []string{"stale", "busy", "refused"} {
		m.refusals.WithLabelValues(reason)
	}
	for _, why := range []string{leftMoving, leftStopping, leftClosed} {
		m.handedOff.WithLabelValues(why)
	}
	for _, reason := range []handoff.Reason{handoff.Version, handoff.Folder, handoff.Identity, handoff.Rewound, handoff.UnknownMessages, handoff.TooBig,
		handoff.Twice, handoff.Capability} {
		m.notResumed.WithLabelValues(string(reason))
	}
	gauges := []prometheus.Collector{
		m.refusals, m.alarms, m.takenBack, m.pulledBytes, m.handedOff, m.resumed, m.checkpoints, m.notResumed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "sessions", Help: "Open IMAP and POP3 sessions."},
			func() float64 { return float64(b.sessions.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "users", Help: "Users this backend serves."},
			func() float64 { return float64(b.servedUsers()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "outbox_waiting", Help: "Messages of filters that no mx has taken yet."},
			func() float64 { return float64(b.outbox.Waiting()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "outbox_refused", Help: "Messages of filters that no mx will ever take, set aside."},
			func() float64 { return float64(b.outbox.Refused()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "folder_cache_bytes", Help: "About how much memory folders take that no session has open."},
			func() float64 { return float64(b.folders.Bytes()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "text_indexes_open", Help: "Open text indexes."},
			func() float64 { return float64(b.texts.Stats().Open) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "text_indexes_waiting", Help: "Folders that have messages for the text index."},
			func() float64 { return float64(b.texts.Stats().Waiting) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "text_index_messages_total", Help: "Messages taken into text indexes."},
			func() float64 { return float64(b.texts.Stats().Taken) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "text_indexes_dropped_total", Help: "Text indexes that could not be read and were dropped."},
			func() float64 { return float64(b.texts.Stats().Dropped) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "free_bytes", Help: "Free bytes on the mail disk."},
			func() float64 { _, free, _ := b.disk.room(); return float64(free) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "busy_users", Help: "Users of this home that are being moved."},
			func() float64 { return float64(len(b.busy.Snapshot())) }),
	}
	for _, c := range gauges {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) fenceRefusal(err error) {
	switch {
	case errors.Is(err, mailbox.ErrFrozen):
		m.refusals.WithLabelValues("busy").Inc()
	case errors.Is(err, mailbox.ErrStale):
		m.refusals.WithLabelValues("stale").Inc()
	case errors.Is(err, mailbox.ErrRefused):
		m.refusals.WithLabelValues("refused").Inc()
	}
}
