package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNewLogger(t *testing.T) {
	var buf bytes.Buffer
	log, err := NewLogger(&buf, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "user", "ann@example.test")
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil || line["msg"] != "loud" || line["user"] != "ann@example.test" {
		t.Fatalf("%q: %v", buf.String(), err)
	}
	buf.Reset()
	if log, err = NewLogger(&buf, "text", "debug"); err != nil {
		t.Fatal(err)
	}
	log.Debug("detail")
	if s := buf.String(); !strings.Contains(s, "level=DEBUG msg=detail") || strings.Count(s, "\n") != 1 {
		t.Fatalf("%q", s)
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"", "info"}, {"text", "loud"}, {"text", ""}} {
		if _, err := NewLogger(io.Discard, bad[0], bad[1]); err == nil {
			t.Errorf("format %q, level %q were taken", bad[0], bad[1])
		}
	}
}

func TestNewID(t *testing.T) {
	const each, callers = 2000, 8
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			ids := make([]string, each)
			for i := range ids {
				ids[i] = NewID()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if len(id) != IDChars || strings.Trim(id, idAlphabet) != "" {
					t.Errorf("malformed id %q", id)
				}
				seen[id] = true
			}
		})
	}
	wg.Wait()
	if len(seen) != each*callers {
		t.Fatalf("%d different ids of %d", len(seen), each*callers)
	}
}

func TestIDsSortByTime(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for _, after := range []time.Duration{0, time.Millisecond, time.Second, 400 * 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		ids = append(ids, formatID(start.Add(after), ^uint64(after)))
	}
	if !slices.IsSorted(ids) {
		t.Fatalf("not in order: %q", ids)
	}
	if formatID(start, 0) >= formatID(start, ^uint64(0)) {
		t.Fatal("the random part is missing")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, "mx")
	m.Counter("messages_total", "Messages taken.").Inc()
	m.Counter("messages_total", "Messages taken.").Inc()
	m.CounterVec("refusals_total", "Refusals.", "reason").WithLabelValues("quota").Inc()
	m.Gauge("spool_messages", "Messages spooled.").Set(3)
	m.GaugeVec("homes", "Homes.", "state").WithLabelValues("up").Set(1)
	m.GaugeFunc("age_seconds", "Age.", func() float64 { return 7 })
	m.Histogram("delivery_seconds", "Time of deliveries.", nil).Observe(0.2)
	m.HistogramVec("wait_seconds", "Waits.", []float64{1, 2}, "step").WithLabelValues("copy").Observe(1)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetName() == "waypost_mx_messages_total" && f.GetMetric()[0].GetCounter().GetValue() != 2 {
			t.Error("the second Counter was not the first")
		}
	}
	want := []string{"waypost_mx_age_seconds", "waypost_mx_delivery_seconds", "waypost_mx_homes", "waypost_mx_messages_total",
		"waypost_mx_refusals_total", "waypost_mx_spool_messages", "waypost_mx_wait_seconds"}
	if !slices.Equal(names, want) {
		t.Errorf("metrics %q, want %q", names, want)
	}
}

func TestMetricsOfSeveralNodes(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, node := range []string{"b1", "b2"} {
		m := NewMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"node": node}, reg), "backend")
		m.Counter("deliveries_total", "Deliveries.").Inc()
		m.Counter("deliveries_total", "Deliveries.").Inc()
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 || len(families[0].GetMetric()) != 2 || families[0].GetMetric()[1].GetCounter().GetValue() != 2 {
		t.Fatalf("%v", families)
	}
}

func TestMetricsConflictPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a gauge was made under a counter's name")
		}
	}()
	m := NewMetrics(prometheus.NewRegistry(), "mx")
	m.Counter("messages_total", "Messages.")
	m.Gauge("messages_total", "Messages.")
}

func startServer(t *testing.T, opts ...Option) (*Server, <-chan error) {
	t.Helper()
	reg := NewRegistry()
	NewMetrics(reg, "mx").Counter("messages_total", "Messages taken.").Add(5)
	s, err := NewServer("127.0.0.1:0", reg, slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() { s.Close() })
	return s, served
}

func fetch(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServer(t *testing.T) {
	s, served := startServer(t)
	if code, body := fetch(t, s, "/metrics"); code != 200 || !strings.Contains(body, "waypost_mx_messages_total 5\n") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("/metrics: %d %s", code, body)
	}
	if code, body := fetch(t, s, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/"} {
		if code, _ := fetch(t, s, path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.Addr().String()); err == nil {
		c.Close()
		t.Error("still listening")
	}
}

func TestReadiness(t *testing.T) {
	s, _ := startServer(t)
	if code, body := fetch(t, s, "/readyz"); code != 200 || body != "ok\n" {
		t.Errorf("no checks: %d %q", code, body)
	}
	s.Ready("spool", func() error { return nil })
	s.Ready("directory", func() error { return errors.New("no answer\nfrom etcd") })
	s.Ready("certificate", func() error { return errors.New("ended") })
	if code, body := fetch(t, s, "/readyz"); code != 503 || body != "certificate: ended\ndirectory: no answer; from etcd\n" {
		t.Errorf("failing checks: %d %q", code, body)
	}
	s.Ready("directory", func() error { return nil })
	s.Ready("certificate", func() error { return nil })
	if code, _ := fetch(t, s, "/readyz"); code != 200 {
		t.Errorf("passing checks: %d", code)
	}
}

func TestPprofOption(t *testing.T) {
	s, _ := startServer(t, WithPprof())
	if code, body := fetch(t, s, "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("goroutine profile: %d", code)
	}
}

func TestShutdownCutsAfterContext(t *testing.T) {
	s, served := startServer(t)
	entered, release := make(chan struct{}), make(chan struct{})
	s.Ready("slow", func() error {
		close(entered)
		<-release
		return nil
	})
	cut := make(chan error, 1)
	go func() {
		client := &http.Client{Timeout: 20 * time.Second}
		resp, err := client.Get("http://" + s.Addr().String() + "/readyz")
		if err == nil {
			resp.Body.Close()
		}
		cut <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-cut; err == nil {
		t.Error("the request was answered")
	}
	close(release)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestCloseWithoutServe(t *testing.T) {
	s, err := NewServer("127.0.0.1:0", NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", s.Addr().String()); err == nil {
		c.Close()
		t.Fatal("still listening")
	}
	if _, err := NewServer("256.0.0.1:0", NewRegistry(), slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("listened on a malformed address")
	}
}
