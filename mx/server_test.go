package mx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/internal/spoolapi"
	"waypost/mx/spool"
)

// TestServer_drain: a message under way is finished, idle clients are sent
// away, nobody new is taken, and then all is over.
func TestServer_drain(t *testing.T) {
	r := newRig(t, nil)
	idle, working := r.hello(), r.hello()
	working.mail("u1@x.test")
	working.cmd("DATA", "354 ")
	r.stop()
	idle.expect("421 ")
	idle.closed()
	working.send(testBody + "\r\n.\r\n")
	working.expect("250 2.0.0")
	working.expect("421 ")
	working.closed()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.b1.WaitMessages(1)
}

// TestServer_cut: when the time to drain is over a message that is not
// complete is given up, without a 250.
func TestServer_cut(t *testing.T) {
	r := newRig(t, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	p := r.hello()
	p.mail("u1@x.test")
	p.cmd("DATA", "354 ")
	p.send("half\r\n")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if b, _ := io.ReadAll(p.r); strings.HasPrefix(string(b), "2") {
		t.Errorf("%q", b)
	}
	if len(r.b1.Messages()) != 0 {
		t.Error("half a message was delivered")
	}
}

// TestServer_neverServed: what New took is given back.
func TestServer_neverServed(t *testing.T) {
	cfg := Config{Listen: []string{"127.0.0.1:0"}, Hostname: "mx.test", SpoolDir: t.TempDir()}
	for range 2 {
		srv, err := New(cfg, Deps{Directory: newFakeDir(), Dialer: fakeDialer{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if srv.Serve(t.Context()) == nil {
			t.Error("served after the end")
		}
	}
}

func TestControl(t *testing.T) {
	r := newRig(t, never)
	h := httptest.NewServer(r.srv.Control())
	defer h.Close()
	c := &spoolapi.Client{HTTP: h.Client(), Base: h.URL}
	ctx := t.Context()
	if l, err := c.List(ctx); err != nil || len(l.Entries) != 0 || l.Node != "mx1" {
		t.Fatal(l, err)
	}
	r.live.set("b1", false)
	a, b := r.one("250 "), r.one("250 ", "u3@x.test")
	r.eventually("first tries", func() bool {
		return !slices.ContainsFunc(r.srv.spool.List(), func(e spool.Entry) bool { return e.Attempts == 0 })
	})
	l, err := c.List(ctx)
	if err != nil || len(l.Entries) != 2 {
		t.Fatal(l, err)
	}
	e := l.Entries[0]
	if e.ID != a || e.Node != "mx1" || e.State != spoolapi.StateQueued || e.Sender != "s@y.test" || e.Attempts != 1 || e.LastError == "" ||
		e.SizeBytes == 0 || e.NextTry.IsZero() || e.Recipients[0].User != "u1@x.test" || e.Recipients[0].Home != "b1" {
		t.Errorf("%+v", e)
	}
	if d, err := c.Drop(ctx, spoolapi.DropRequest{ID: b}); err != nil || d.Dropped != 1 {
		t.Error(d, err)
	}
	if _, err := c.Drop(ctx, spoolapi.DropRequest{ID: b}); !spoolapi.IsCode(err, spoolapi.CodeNotFound) {
		t.Error(err)
	}
	for _, bad := range []spoolapi.RetryRequest{{}, {ID: "a", All: true}, {User: "nobody"}} {
		if _, err := c.Retry(ctx, bad); !spoolapi.IsCode(err, spoolapi.CodeBad) {
			t.Error(bad, err)
		}
	}
	if n, err := c.Retry(ctx, spoolapi.RetryRequest{User: "u2@x.test"}); err != nil || n.Retried != 0 {
		t.Error(n, err)
	}
	r.live.mu.Lock()
	r.live.dead["b1"] = false
	r.live.mu.Unlock()
	if n, err := c.Retry(ctx, spoolapi.RetryRequest{ID: a}); err != nil || n.Retried != 1 {
		t.Error(n, err)
	}
	r.b1.WaitMessages(1)
	r.spooled(0)
	if n, err := c.Retry(ctx, spoolapi.RetryRequest{All: true}); err != nil || n.Retried != 0 {
		t.Error(n, err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{ID: "mx1", Listen: []string{":25"}, Hostname: "mx.test", SpoolDir: "/s"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"hostname":          func(c *Config) { c.Hostname = "a b" },
		"spool_dir":         func(c *Config) { c.SpoolDir = "" },
		"at least one":      func(c *Config) { c.Listen = nil },
		"no host:port":      func(c *Config) { c.Listen = []string{"25"} },
		"both or neither":   func(c *Config) { c.TLSCert = "x" },
		"submission: needs": func(c *Config) { c.Submission = []string{":587"} },
		"max_message_bytes": func(c *Config) { c.MaxMessageBytes = 1 << 40 },
		"max_recipients":    func(c *Config) { c.MaxRecipients = -1 },
		"busy_wait":         func(c *Config) { c.BusyWait = -1 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := New(Config{}, Deps{}); err == nil {
		t.Error("made of nothing")
	}
	if _, err := New(good, Deps{}); err == nil {
		t.Error("made without dependencies")
	}
	bad := good
	bad.SpoolDir = t.TempDir()
	bad.Listen = []string{"127.0.0.1:0", "192.0.2.1:1"}
	if _, err := New(bad, Deps{Directory: newFakeDir(), Dialer: fakeDialer{}, Log: newRig(t, nil).srv.log}); err == nil {
		t.Error("listens where it cannot")
	}
	if s, err := spool.Open(bad.SpoolDir, spool.Options{}); err != nil {
		t.Error("the spool was left locked:", errors.Unwrap(err))
	} else {
		s.Close()
	}
}
