package clustertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/director"
	"waypost/internal/testmail"
)

// TestCorpus: 2,000 real messages to 100 users over 3 backends by SMTP, read
// back by IMAP and by POP3 through the proxies, byte for byte.
func TestCorpus(t *testing.T) {
	beside(t)
	if testing.Short() {
		t.Log("this is the long test")
	}
	msgs, real, err := testmail.Load(t.TempDir(), 2000)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages, from the corpus: %v", len(msgs), real)
	c := newCluster(t)
	users := c.withUsers(100)
	homes := make(map[director.BackendID]int)
	for _, u := range users {
		got, err := c.admin.User(context.Background(), u)
		if err != nil {
			t.Fatal(err)
		}
		homes[got.Home]++
	}
	if len(homes) != 3 {
		t.Errorf("users were not spread over the backends: %v", homes)
	}
	want := make(map[director.User]map[[32]byte]int)
	for _, u := range users {
		want[u] = make(map[[32]byte]int)
	}
	var g errgroup.Group
	g.SetLimit(8)
	var mu sync.Mutex
	for i, m := range msgs {
		u := users[i%len(users)]
		mu.Lock()
		want[u][sha256.Sum256(plain(m.Body))]++
		mu.Unlock()
		port := 2525 + i%2
		g.Go(func() error {
			if err := send(c.addr(port), "sender@example.org", []string{string(u)}, m.Body); err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i, u := range users {
		g.Go(func() error { return c.readBack(u, 1143+i%2, 1110+i%2, want[u]) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("read back twice in %s", time.Since(start).Round(time.Millisecond))
}

func (c *testCluster) readBack(u director.User, imapPort, popPort int, want map[[32]byte]int) error {
	s, err := readIMAP(c.addr(imapPort), u, "INBOX", true)
	if err != nil {
		return fmt.Errorf("%s by IMAP: %w", u, err)
	}
	_, bodies, err := readPOP3(c.addr(popPort), u)
	if err != nil {
		return fmt.Errorf("%s by POP3: %w", u, err)
	}
	if len(bodies) != len(s.msgs) {
		return fmt.Errorf("%s: %d by POP3, %d by IMAP", u, len(bodies), len(s.msgs))
	}
	got := make(map[[32]byte]int)
	for i, m := range s.msgs {
		if !bytes.Equal(m.body, bodies[i]) {
			return fmt.Errorf("%s: message %d differs between IMAP and POP3", u, i+1)
		}
		sum := sha256.Sum256(plain(m.body))
		if got[sum]++; got[sum] > want[sum] {
			return fmt.Errorf("%s: message %d was never sent so, or once too often:\n%.600q", u, i+1, m.body)
		}
	}
	total := 0
	for _, n := range want {
		total += n
	}
	if len(s.msgs) != total {
		return fmt.Errorf("%s: %d messages, %d were sent", u, len(s.msgs), total)
	}
	return nil
}
