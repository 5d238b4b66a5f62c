// Package telemetry is how a Waypost process tells about itself: log lines,
// metrics, readiness, and the identifiers that tie log lines of one session or
// delivery together across machines.
//
// It holds no state of its own: loggers, registries and servers are made by the
// mains and handed down. Nothing here survives a crash or needs to. The server
// listens in plain HTTP and tells no secrets, but it belongs on an address that
// only the operator's monitoring reaches.
package telemetry
