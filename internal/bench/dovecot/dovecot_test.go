package dovecot

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/access"
)

// shortDir is a folder for Dovecot: short, as its sockets are below it, and open
// to the user whose mail it is.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "wp-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func need(t *testing.T, sieve bool) {
	t.Helper()
	if _, err := Find(); err != nil || sieve && !HasSieve() {
		t.Skip(ErrMissing)
	}
}

// TestSuite runs the whole with few messages, and has Dovecot's folders show that
// the script ran.
func TestSuite(t *testing.T) {
	need(t, true)
	for _, quota := range []string{"maildir", "count"} {
		s := bench.Suite{Dir: shortDir(t), Rounds: 1, Users: 2, Bytes: 1, Duration: 20 * time.Second,
			Cases: []bench.Case{{Size: 2000, Connections: 2, Sieve: true, Quota: true}},
			Peers: []bench.Peer{Peer(Options{Fsync: "always", QuotaBackend: quota, Processes: 2}), bench.LimitPeer()}}
		rep, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r := rep.Rows[0]
		if r.Errors != 0 || r.OnDisk != r.Acknowledged || r.Messages == 0 || r.ServerCPUMS <= 0 {
			t.Errorf("%+v", r)
		}
		box := s.Dir + "/1-dovecot/mail/u0@example.test/Maildir/"
		for _, f := range []string{".Junk", ".Lists", "maildirsize"} {
			if _, err := os.Stat(box + f); err != nil && (f != "maildirsize" || quota == "maildir") {
				t.Errorf("quota %s: %v", quota, err)
			}
		}
	}
}

func TestGrowth(t *testing.T) {
	need(t, false)
	g := bench.Growth{Dir: shortDir(t), Sizes: []int{20}, Operations: 5, Peers: []bench.Peer{Peer(Options{Fsync: "optimized", Processes: 2})}}
	rep, err := g.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ops []string
	for _, r := range rep.Rows {
		ops = append(ops, r.Operation)
		if r.Messages != 20 || r.MedianMS <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if strings.Join(ops, " ") != "delivery append flag expunge" {
		t.Errorf("operations %v", ops)
	}
}

func TestRefusals(t *testing.T) {
	need(t, false)
	for name, c := range map[string]struct {
		dir string
		o   Options
	}{
		"fsync":     {shortDir(t), Options{Fsync: "never"}},
		"long name": {shortDir(t) + "/" + strings.Repeat("x", maxDir), Options{Fsync: "always"}},
		"odd name":  {shortDir(t) + "/%u", Options{Fsync: "always"}},
	} {
		if srv, err := Start(context.Background(), c.dir, bench.Setup{Users: 1}, c.o); err == nil {
			srv.Stop()
			t.Errorf("%s: started", name)
		}
	}
}

func TestAccess(t *testing.T) {
	need(t, false)
	if !HasPOP3() {
		t.Skip("dovecot-pop3d is not installed")
	}
	s := access.Suite{Dir: shortDir(t), Sizes: []int{60}, Batch: 20, Singles: 5, Sessions: 3, Rounds: 1, Duration: time.Millisecond, Pause: time.Millisecond,
		Peers: []bench.Peer{Peer(Options{Fsync: "always", Processes: 1}), Peer(Options{Fsync: "optimized", Processes: 1})}}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	modes := make(map[string]int)
	for _, r := range rep.Rows {
		modes[r.Mode]++
		if r.WallMS <= 0 || r.Times < 1 {
			t.Errorf("%+v", r)
		}
	}
	if modes["fsync=optimized"] != 8 || modes["fsync=always"] < 40 {
		t.Errorf("rows: %v", modes)
	}
	if len(rep.Idle) != 1 || rep.Idle[0].ResidentKiB <= 0 {
		t.Errorf("idle sessions: %+v", rep.Idle)
	}
}
