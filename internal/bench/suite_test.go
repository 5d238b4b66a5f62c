package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/lmtp/lmtptest"
)

// fakePeer is a server in this process that keeps messages as files; lose makes
// it forget one of so many that it acknowledges.
func fakePeer(t *testing.T, name string, lose int, started *[]string) Peer {
	return Peer{Name: name, Mode: "fake", Start: func(_ context.Context, dir string, s Setup) (*Server, error) {
		*started = append(*started, name)
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 1 { // the probe's
			return nil, fmt.Errorf("%s is not fresh: %v, %v", dir, entries, err)
		}
		folder := filepath.Join(dir, "mail", "u", "new")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		var mu sync.Mutex
		n := 0
		srv := lmtptest.New(t, lmtptest.Script{Ext: lmtptest.Full, End: func(m lmtptest.Message) []string {
			mu.Lock()
			defer mu.Unlock()
			if n++; lose == 0 || n%lose > 0 {
				if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(n)), m.Body, 0o600); err != nil {
					return []string{"451 4.3.0 " + err.Error()}
				}
			}
			return []string{"250 2.0.0 kept"}
		}})
		return &Server{Target: target(srv, s.Users), PID: os.Getpid(), Mail: filepath.Join(dir, "mail"),
			Log: func() string { return "nothing" }, Stop: func() error { srv.Close(); return nil }}, nil
	}}
}

func TestSuite(t *testing.T) {
	var order []string
	c := Case{Size: 2000, Connections: 2, Sieve: true, Quota: true}
	s := Suite{Dir: t.TempDir(), Cases: []Case{c}, Rounds: 2, Users: 4, Bytes: 1, WarmUp: time.Minute, // ended by Bytes, as the runs
		Peers: []Peer{fakePeer(t, "other", 0, &order), fakePeer(t, Ours, 0, &order), LimitPeer()}}
	var said []string
	s.Progress = func(line string, final bool) {
		if final && strings.Contains(line, "messages/s") { // not about the disk
			said = append(said, line)
		}
	}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(order, " ") != "other waypost other waypost" || len(said) != 6 {
		t.Errorf("order %v, said %q", order, said)
	}
	if len(rep.Rows) != 3 {
		t.Fatalf("%d rows", len(rep.Rows))
	}
	for _, r := range rep.Rows {
		want := int64(200)                                // Bytes is small: the least, in two rounds
		if r.Peer != "limit" && r.Acknowledged < 2*want { // what warmed up is on the disk, and not counted
			t.Errorf("%s: %d acknowledged, %d measured", r.Peer, r.Acknowledged, r.Messages)
		}
		if r.Messages != want || r.OnDisk != r.Acknowledged || r.Errors != 0 || r.MessagesPerSecond <= 0 || r.Slowest > r.Quickest || r.MedianMS > r.P99MS {
			t.Errorf("%+v", r)
		}
	}
	if rep.Rows[0].RateRatio <= 0 || rep.Rows[1].RateRatio != 0 || rep.Rows[2].GeneratorCPUMS != 0 {
		t.Errorf("ratios %+v", rep.Rows)
	}
	var text, md bytes.Buffer
	if err := errors.Join(rep.Table(&text), rep.Markdown(&md)); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(md.String()), "\n"); len(lines) != 5 || strings.Count(lines[0], "|") != strings.Count(lines[1], "|") || !strings.Contains(lines[3], "| waypost | fake | sieve+quota | 2000 | 2 |") {
		t.Errorf("markdown:\n%s", md.String())
	}
	if !strings.HasPrefix(text.String(), "SERVER") {
		t.Errorf("table:\n%s", text.String())
	}
}

// TestSuiteMissesNothing: a store that loses what it acknowledged has no rate.
func TestSuiteMissesNothing(t *testing.T) {
	var order []string
	s := Suite{Dir: t.TempDir(), Cases: []Case{{Size: 2000, Connections: 1}}, Rounds: 1, Users: 4, Bytes: 1, Peers: []Peer{fakePeer(t, "loser", 50, &order)}}
	rep, err := s.Run(t.Context())
	if !errors.Is(err, ErrCount) || len(rep.Rows) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	s.Bytes = 1 << 60
	s.Dir = t.TempDir()
	if _, err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "MiB free") {
		t.Errorf("a disk that is too small: %v", err)
	}
}

func TestGrowthCompares(t *testing.T) {
	r := GrowthReport{Rows: []GrowthRow{
		{Peer: "a", Operation: "append", Messages: 10, ServerCPUMS: 2}, {Peer: "b", Operation: "append", Messages: 10, ServerCPUMS: 1},
		{Peer: "a", Operation: "append", Messages: 100, ServerCPUMS: 5}, {Peer: "b", Operation: "append", Messages: 100, ServerCPUMS: 1.2},
	}}
	r.compare()
	for i, want := range []float64{1, 1, 2.5, 1.2} {
		if got := r.Rows[i].Growth; got != want {
			t.Errorf("row %d: %v, want %v", i, got, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		where, protocol, from, to string
		ok, local                 bool
	}{
		{"127.0.0.1:25", "smtp", "", "a@b.test", true, true},
		{"[::1]:25", "lmtp", "x@y.test", "a@b.test", true, true},
		{"localhost:25", "smtp", "", "a@b.test", true, true},
		{"/run/lmtp.sock", "lmtp", "", "a@b.test", true, true},
		{"192.0.2.1:25", "smtp", "", "a@b.test", true, false},
		{"mail.example.org:25", "smtp", "", "a@b.test", true, false},
		{"127.0.0.1.example.org:25", "smtp", "", "a@b.test", true, false},
		{"127.0.0.1", "smtp", "", "a@b.test", false, false},
		{"127.0.0.1:25", "imap", "", "a@b.test", false, false},
		{"127.0.0.1:25", "smtp", "", "a", false, false},
		{"127.0.0.1:25", "smtp", "", "a@b>\r\nDATA", false, false},
		{"127.0.0.1:25", "smtp", "not an address", "a@b.test", false, false},
	} {
		got, err := ParseTarget(c.where, c.protocol, c.from, []string{c.to})
		if (err == nil) != c.ok || c.ok && (got.Local() != c.local || got.SMTP != (c.protocol == "smtp") || len(got.To) != 1) {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
	if _, err := ParseTarget("127.0.0.1:25", "smtp", "", nil); err == nil {
		t.Error("no recipients were taken")
	}
}
