package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 60 * time.Second // a CPU profile takes 30 s
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	maxScrapes     = 4
)

// Server answers monitoring over plain HTTP:
//
//	/metrics       the registry, for Prometheus
//	/healthz       200 while the process lives
//	/readyz        200 while all readiness checks pass, else 503 with the reasons
//	/debug/pprof/  profiles, if asked for WithPprof
type Server struct {
	ln   net.Listener
	http *http.Server

	mu     sync.Mutex // guards checks; not held while they run
	checks map[string]func() error
}

// Option changes what a Server offers.
type Option func(*http.ServeMux)

// WithPprof adds /debug/pprof/. Profiles show addresses and memory contents'
// shapes, and cost CPU: for addresses that strangers cannot reach.
func WithPprof() Option {
	return func(mux *http.ServeMux) {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
}

// NewServer listens on addr ("host:port", port 0 for any) and serves once Serve
// is called.
func NewServer(addr string, reg *prometheus.Registry, log *slog.Logger, opts ...Option) (*Server, error) {
	lc := net.ListenConfig{}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("telemetry listener: %w", err)
	}
	s := &Server{ln: ln, checks: map[string]func() error{}}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:            errorLog,
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	for _, opt := range opts {
		opt(mux)
	}
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
	}
	return s, nil
}

// Ready adds a readiness check, or replaces the one of that name. The process is
// ready while every check gives nil; so a role registers a failing check before
// it starts and lets it pass when it serves. Checks run in each request, also
// concurrently, and must answer at once from what is in memory. Their errors are
// shown to whoever asks.
func (s *Server) Ready(name string, check func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// NotReady runs the checks and gives the failures, one line each, sorted by
// name; none means ready.
func (s *Server) NotReady() []string {
	s.mu.Lock()
	checks := maps.Clone(s.checks)
	s.mu.Unlock()
	var failures []string
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name](); err != nil {
			failures = append(failures, name+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return failures
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if failures := s.NotReady(); len(failures) > 0 {
		answer(w, http.StatusServiceUnavailable, strings.Join(failures, "\n")+"\n")
		return
	}
	answer(w, http.StatusOK, "ok\n")
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the asker may be gone
}

// Addr is the address listened on.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Serve answers until Shutdown or Close and then returns nil. It may be called
// once.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("telemetry server: %w", err)
	}
	return nil
}

// Shutdown stops accepting and waits for requests in progress until ctx ends;
// then it cuts them and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err == nil {
		return s.closeListener()
	}
	return errors.Join(fmt.Errorf("telemetry server: %w", err), s.Close())
}

// Close ends everything at once.
func (s *Server) Close() error {
	return errors.Join(s.http.Close(), s.closeListener())
}

// closeListener is for a server that was never asked to Serve: its listener is
// not known to http.Server.
func (s *Server) closeListener() error {
	if err := s.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("telemetry listener: %w", err)
	}
	return nil
}
