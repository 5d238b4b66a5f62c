package benchmark

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/hops"
)

// TestLimitSaysAsMuch: what the limit of sessions answers is as long as Waypost's answers; where
// numbers may have other lengths, about.
func TestLimitSaysAsMuch(t *testing.T) {
	const messages, spare = 120, 8
	var said [2][]string
	for i, p := range []bench.Peer{Peer(Options{Settle: time.Millisecond}), hops.Peers()[1]} {
		srv, err := p.Start(t.Context(), t.TempDir(), bench.Setup{Users: 1, IMAP: true, Access: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := srv.Stop(); err != nil {
				t.Error(err)
			}
		}()
		cur := filepath.Join(srv.Access.Maildir, "cur")
		if err := os.MkdirAll(cur, 0o700); err != nil {
			t.Fatal(err)
		}
		for n := range messages {
			name := fmt.Sprintf("170000%04d.M000000P1.bench,S=24,W=28:2,S", n)
			if err := os.WriteFile(filepath.Join(cur, name), []byte("Subject: x\n\n.dot\nhello.\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said[i] = append(dialogue(t, srv.IMAP, [2]string{"", "\r\n"}, [2]string{"b1 LOGIN " + srv.User + " " + srv.Password, "Logged in.\r\n"},
			[2]string{"b2 SELECT INBOX", "SELECT completed\r\n"}, [2]string{"b3 LOGOUT", "LOGOUT completed\r\n"}),
			dialogue(t, srv.Access.POP3, [2]string{"", "\r\n"}, [2]string{"USER " + srv.User, "\r\n"}, [2]string{"PASS " + srv.Password, "\r\n"},
				[2]string{"STAT", "\r\n"}, [2]string{"RETR 1", "\r\n.\r\n"}, [2]string{"QUIT", "\r\n"})...)
	}
	for i, ours := range said[0] {
		if limit := said[1][i]; len(limit) < len(ours)-spare || len(limit) > len(ours)+spare {
			t.Errorf("%d bytes for %d:\n%s%s", len(limit), len(ours), limit, ours)
		}
	}
}

// dialogue sends lines, each when the answer before has ended as it must, and gives the answers.
func dialogue(t *testing.T, addr string, script ...[2]string) (said []string) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(startWait)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	for _, s := range script {
		if s[0] != "" {
			if _, err := fmt.Fprintf(nc, "%s\r\n", s[0]); err != nil {
				t.Fatal(err)
			}
		}
		var b strings.Builder
		for !strings.HasSuffix(b.String(), s[1]) {
			line, err := r.ReadString('\n')
			b.WriteString(line)
			if err != nil {
				t.Fatalf("%s: %q: %v", s[0], b.String(), err)
			}
		}
		said = append(said, b.String())
	}
	return said
}
