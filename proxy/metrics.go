package proxy

import (
	"errors"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/internal/handoff"
	"waypost/internal/telemetry"
	"waypost/proxy/prelogin"
)

// metrics are a proxy's own; login_decisions_total is ObserveLogins'.
type metrics struct {
	connections   *prometheus.CounterVec // protocol
	turnedAway    *prometheus.CounterVec // reason
	open          prometheus.Gauge
	logins        *prometheus.CounterVec // protocol, result
	loginSeconds  *prometheus.HistogramVec
	sessions      *prometheus.GaugeVec   // protocol
	ended         *prometheus.CounterVec // protocol, reason
	bytes         *prometheus.CounterVec // protocol, direction
	held          prometheus.Gauge
	heldTotal     prometheus.Counter
	refusals      *prometheus.CounterVec // backend, status
	refusedTwice  *prometheus.CounterVec // backend
	backendErrors *prometheus.CounterVec // backend
	handedOff     prometheus.Counter
	resumed       prometheus.Counter
	notCarried    *prometheus.CounterVec // reason
	pause         prometheus.Histogram
	parked        prometheus.Gauge
}

// carryReasons are the values of sessions_not_carried_total's reason; what a backend says
// besides is "other".
var carryReasons = [...]handoff.Reason{
	handoff.Version, handoff.Folder, handoff.Identity, handoff.Rewound, handoff.UnknownMessages, handoff.TooBig, handoff.Midway,
	handoff.SlowClient, handoff.Account, handoff.Unproven, handoff.Twice, handoff.Waited, handoff.Capability, handoff.Foreign, handoff.Lost,
}

// reasonOther is a backend's word that this proxy does not know.
const reasonOther handoff.Reason = "other"

// carryReason is a reason as metrics have it, whatever a backend says.
func carryReason(r handoff.Reason) handoff.Reason {
	if slices.Contains(carryReasons[:], r) {
		return r
	}
	return reasonOther
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := telemetry.NewMetrics(reg, "proxy")
	met := &metrics{
		connections:   m.CounterVec("connections_total", "Client connections accepted.", "protocol"),
		turnedAway:    m.CounterVec("connections_refused_total", "Client connections closed at once because of a limit.", "reason"),
		open:          m.Gauge("connections", "Client connections now, logged in or not."),
		logins:        m.CounterVec("logins_total", "Logins by result as the client was told.", "protocol", "result"),
		loginSeconds:  m.HistogramVec("login_seconds", "Time from credentials to the answer.", nil, "protocol"),
		sessions:      m.GaugeVec("sessions", "Sessions now.", "protocol"),
		ended:         m.CounterVec("sessions_ended_total", "Sessions ended, by reason.", "protocol", "reason"),
		bytes:         m.CounterVec("bytes_total", "Bytes copied in sessions: in is from clients.", "protocol", "direction"),
		held:          m.Gauge("logins_held", "Logins that wait now for a move or for a changed record."),
		heldTotal:     m.Counter("logins_held_total", "Logins that had to wait for a move or for a changed record."),
		refusals:      m.CounterVec("backend_refusals_total", "Sessions that backends refused, by their answer.", "backend", "status"),
		refusedTwice:  m.CounterVec("refused_twice_total", "Logins refused twice at the same home and epoch (R11): an alarm.", "backend"),
		backendErrors: m.CounterVec("backend_errors_total", "Failed attempts to open a session on a backend.", "backend"),
		handedOff:     m.Counter("sessions_handed_off_total", "Sessions that backends have let go of, to be resumed."),
		resumed:       m.Counter("sessions_resumed_total", "Sessions resumed, after a hand-off or from the checkpoint of a lost backend."),
		notCarried:    m.CounterVec("sessions_not_carried_total", "Sessions ended because they could not go on after a move, a restart or a loss of their backend.", "reason"),
		pause:         m.Histogram("session_pause_seconds", "How long sessions were held up that were resumed.", []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 45, 60}),
		parked:        m.Gauge("sessions_parked", "Sessions that wait now to be resumed."),
	}
	// A series that begins with the trouble is seen too late.
	for _, protocol := range protocols {
		for _, result := range []string{"ok", "failed", "disabled", "throttled", "limit", "in_use", "unavailable"} {
			met.logins.WithLabelValues(protocol, result)
		}
	}
	for _, r := range carryReasons {
		met.notCarried.WithLabelValues(string(r))
	}
	return met
}

// result names a login's outcome for logins_total.
func result(err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{nil, "ok"}, {prelogin.ErrAuth, "failed"}, {prelogin.ErrDisabled, "disabled"}, {prelogin.ErrThrottled, "throttled"}, {prelogin.ErrDelay, "delayed"},
		{prelogin.ErrLimit, "limit"}, {prelogin.ErrInUse, "in_use"},
	} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return "unavailable"
}
