package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"waypost/internal/bench"
	"waypost/internal/bench/dovecot"
	"waypost/internal/lmtp/lmtptest"
)

func TestBenchRefuses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"bench", "say what to do"},
		{"bench deliver --peer courier", "want dovecot-always"},
		{"bench deliver --filters some", "want plain"},
		{"bench deliver --size 10", "want at least"},
		{"bench deliver --connections 0", "want 1 to 1000"},
		{"bench deliver --dovecot-quota dict", "want maildir or count"},
		{"bench deliver --target 127.0.0.1:25", "who gets the messages"},
		{"bench deliver --target 127.0.0.1:25 --protocol imap --to a@b.test", "want smtp or lmtp"},
		{"bench deliver --target 192.0.2.1:25 --to a@b.test", "--yes-really"},
		{"bench deliver --target mail.example.org:25 --to a@b.test", "--yes-really"},
		{"bench grow --messages 10 --operations 20", "at least as many messages"},
		{"bench grow --peer courier", "want dovecot-always"},
		{"bench imap --peer courier", "want dovecot-always"},
		{"bench imap --messages 100 --batch 60 --operations 10", "want at least 120"},
		{"bench imap --rounds 0", "rounds 0"},
		{"bench imap --only copy,fetch", "want select, fetch-flags"},
		{"bench move --peer courier", "want waypost, dovecot or rsync"},
		{"bench move --peer waypost --messages 10", "want at least 100"},
	} {
		a, _, stderr := newTest("")
		if code := a.main(t.Context(), strings.Fields(c.args)); code != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: exit code %d, %q", c.args, code, stderr)
		}
	}
}

func TestBenchTarget(t *testing.T) {
	var n atomic.Int64
	s := lmtptest.New(t, lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(r lmtptest.Rcpt) string {
		if r.Addr == "full@x.test" && n.Add(1)%2 == 0 {
			return "452 4.2.2 over quota"
		}
		return "250 2.1.5 ok"
	}})
	run := func(to string) (int, bench.Summary, string) {
		a, stdout, stderr := newTest("")
		code := a.main(t.Context(), strings.Fields("bench deliver --quick --json --duration 200ms --protocol lmtp --target "+s.Addr()+" --to "+to))
		var sum bench.Summary
		if err := json.Unmarshal([]byte(stdout.String()), &sum); err != nil {
			t.Errorf("%v: %s %s", err, stdout, stderr)
		}
		return code, sum, stderr.String()
	}
	if code, sum, said := run("a@x.test"); code != exitDone || sum.Messages == 0 || sum.Messages != int64(len(s.Messages())) || sum.Errors != 0 {
		t.Errorf("exit code %d, %+v, %s", code, sum, said)
	}
	a, _, stderr := newTest("")
	if code := a.main(t.Context(), strings.Fields("bench deliver --quick --duration 1m --protocol lmtp --target "+s.Addr()+" --to full@x.test")); code != exitFailed || !strings.Contains(stderr.String(), "over quota") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

// TestBenchDeliver: the whole, as an operator calls it, with the peers that need
// no other process of ours.
func TestBenchDeliver(t *testing.T) {
	peers := "--peer limit"
	if _, err := dovecot.Find(); err == nil {
		peers += " --peer dovecot-optimized"
	}
	dir, err := os.MkdirTemp("/tmp", "wp-cli-") // Dovecot's sockets want short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a, stdout, stderr := newTest("")
	args := fmt.Sprintf("bench deliver --quick --json --filters plain --duration 300ms --users 2 --connections 2 --dir %s %s", dir, peers)
	if code := a.main(t.Context(), strings.Fields(args)); code != exitDone {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var rep bench.Report
	if err := json.Unmarshal([]byte(stdout.String()), &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Rows) != strings.Count(peers, "--peer") {
		t.Errorf("%+v", rep.Rows)
	}
	for _, r := range rep.Rows {
		if r.Messages == 0 || r.Errors != 0 || r.OnDisk != r.Acknowledged {
			t.Errorf("%+v", r)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
}
