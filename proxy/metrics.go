package proxy

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

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
	}
	// A series that begins with the trouble is seen too late.
	for _, protocol := range protocols {
		for _, result := range []string{"ok", "failed", "disabled", "throttled", "limit", "in_use", "unavailable"} {
			met.logins.WithLabelValues(protocol, result)
		}
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
