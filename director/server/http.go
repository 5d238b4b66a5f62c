package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

const (
	maxRequest = 1 << 20 // bytes of a request that is no stream
	// readWait bounds a request's body, and writeWait its answer; a stream of
	// answers gets it anew with each line.
	readWait  = time.Minute
	writeWait = 5 * time.Minute
)

// call is one request.
type call struct {
	w  http.ResponseWriter
	r  *http.Request
	rc *http.ResponseController
	by cluster.Peer
	// object is what a change was made to, for the audit line.
	object string
	lines  *lines
}

// endpoint answers a call: with a value, an error, or, where it made c.stream
// and both are nil, with what it sent there.
type endpoint func(ctx context.Context, c *call) (any, error)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, fn := range map[string]endpoint{
		"POST /v1/users":          s.postUser,
		"GET /v1/users":           s.listUsers,
		"GET /v1/users/{user}":    s.getUser,
		"PATCH /v1/users/{user}":  s.patchUser,
		"DELETE /v1/users/{user}": s.deleteUser,
		"POST /v1/import":         s.importUsers,

		"GET /v1/check":                s.getCheck,
		"POST /v1/users/{user}/repair": s.repairUser,

		"GET /v1/domains":                s.listDomains,
		"POST /v1/domains":               s.postDomain,
		"DELETE /v1/domains/{domain}":    s.deleteDomain,
		"GET /v1/addresses":              s.listAddresses,
		"PUT /v1/addresses/{address}":    s.putAddress,
		"DELETE /v1/addresses/{address}": s.deleteAddress,

		"GET /v1/backends":         s.listBackends,
		"PUT /v1/backends/{id}":    s.putBackend,
		"PATCH /v1/backends/{id}":  s.patchBackend,
		"DELETE /v1/backends/{id}": s.removeBackend,
		"GET /v1/status":           s.getStatus,

		"POST /v1/backends/{id}/lost":    s.declareLost,
		"POST /v1/users/{user}/restored": s.postRestored,
		"POST /v1/users/{user}/exchange": s.exchangeUser,

		"GET /v1/sessions":       s.listSessions,
		"POST /v1/sessions/kick": s.kick,
		"GET /v1/spool":          s.listSpool,
		"POST /v1/spool/retry":   s.retrySpool,
		"POST /v1/spool/drop":    s.dropSpool,

		"GET /v1/moves":        s.listMoves,
		"POST /v1/moves":       s.postMove,
		"GET /v1/moves/{user}": s.getMove,

		"GET /v1/moves/{user}/verify": s.verifyMove,
		"POST /v1/moves/{user}/undo":  s.undoMove,
		"GET /v1/limits":              s.getLimits,
		"PATCH /v1/limits":            s.patchLimits,

		"GET /v1/lookup": s.lookup,
		"GET /{$}":       s.page,
		"/":              noSuchPath,
	} {
		mux.Handle(pattern, s.endpoint(pattern, fn))
	}
	for pattern, fn := range s.planRoutes() {
		mux.Handle(pattern, s.endpoint(pattern, fn))
	}
	return mux
}

// lookupRoutes are those of the node listener.
func (s *Server) lookupRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/lookup", s.endpoint("GET /v1/lookup", s.lookup))
	mux.Handle("/", s.endpoint("/", noSuchPath))
	return mux
}

func noSuchPath(_ context.Context, c *call) (any, error) {
	return nil, fmt.Errorf("%s %s: no such call: %w", c.r.Method, c.r.URL.Path, director.ErrNotFound)
}

// endpoint adapts fn to HTTP: deadlines, the answer, the count, the audit line.
func (s *Server) endpoint(pattern string, fn endpoint) http.Handler {
	_, path, found := strings.Cut(pattern, " ")
	if !found {
		path = "other"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, rc: http.NewResponseController(w)}
		c.by, _ = cluster.PeerFrom(r.Context()) // both listeners demand it
		c.limit()
		reply, err := fn(r.Context(), c)
		status := c.answer(reply, err)
		s.metrics.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
		s.audit(c, path, status, err)
	})
}

// limit gives the request its time. Where the connection cannot be given
// deadlines it is gone, and the next read or write says so.
func (c *call) limit() {
	_ = c.rc.SetWriteDeadline(time.Now().Add(writeWait))
	if c.r.ContentLength != 0 {
		_ = c.rc.SetReadDeadline(time.Now().Add(readWait))
	}
}

// received takes the limit of reading away: net/http goes on reading behind a
// body, to see the caller go, and takes a deadline for just that.
func (c *call) received() { _ = c.rc.SetReadDeadline(time.Time{}) }

// answer sends what fn returned; the status is for the count.
func (c *call) answer(reply any, err error) int {
	switch {
	case c.lines != nil && err != nil:
		e := admin.AsError(err)
		_ = c.lines.send(map[string]*admin.Error{"stream_error": e}, true) // the caller is gone, or reads it
		return e.Status()
	case err != nil:
		e := admin.AsError(err)
		c.json(e.Status(), e)
		return e.Status()
	case reply != nil:
		c.json(http.StatusOK, reply)
	}
	return http.StatusOK
}

func (c *call) json(status int, v any) {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.WriteHeader(status)
	_ = json.NewEncoder(c.w).Encode(v) // the caller is gone: it asks again
}

// audit leaves one line for each call that changes something, or tried to.
func (s *Server) audit(c *call, path string, status int, err error) {
	if c.r.Method == http.MethodGet || c.r.Method == http.MethodHead {
		return
	}
	attrs := []any{"by", c.by.String(), "call", c.r.Method + " " + path, "object", c.object, "status", status, "from", c.r.RemoteAddr}
	if err != nil {
		s.log.Warn("admin change refused", append(attrs, "error", err)...)
		return
	}
	s.log.Info("admin change", attrs...)
}

// decode reads the request's body. The demanded type is one that no foreign web
// page can have a browser send without asking first.
func decode[Req any](c *call) (Req, error) {
	var req Req
	if kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return req, fmt.Errorf("content type %q: want application/json: %w", c.r.Header.Get("Content-Type"), director.ErrInvalid)
	}
	dec := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return req, fmt.Errorf("request: %w: %w", director.ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return req, fmt.Errorf("request: more than one value: %w", director.ErrInvalid)
	}
	c.received()
	return req, nil
}

// pathUser reads {user}.
func (c *call) pathUser() (director.User, error) {
	c.object = c.r.PathValue("user")
	return director.ParseUser(c.object)
}

// queryUser reads ?user=, which may be absent.
func (c *call) queryUser() (director.User, error) {
	text := c.r.URL.Query().Get("user")
	if text == "" {
		return "", nil
	}
	return director.ParseUser(text)
}

// lines is an answer of one JSON object a line. Safe for concurrent use.
type lines struct {
	c   *call
	mu  sync.Mutex // held while one line is written
	enc *json.Encoder
}

// stream begins such an answer: from here on, errors are in the stream.
func (c *call) stream() *lines {
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.WriteHeader(http.StatusOK)
	_ = c.rc.Flush() // a failure shows at the first line
	c.lines = &lines{c: c, enc: json.NewEncoder(c.w)}
	return c.lines
}

// send writes a line, and sends it off at once if now is set.
func (l *lines) send(v any, now bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.c.rc.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := l.enc.Encode(v); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if !now {
		return nil
	}
	return l.c.rc.Flush()
}
