package clustertest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestLostAnswers: a backend is killed again and again under as much mail as
// it takes, so that many of its answers are lost between commit and 250, and
// the users move meanwhile. Every message is there once: the delivery id is
// remembered with the message, and moves along (I3).
func TestLostAnswers(t *testing.T) {
	beside(t)
	c := newCluster(t)
	users := c.withUsers(6)
	l := &load{c: c, t: t, stop: make(chan struct{})}
	for _, u := range users {
		l.users = append(l.users, &loadUser{name: u, acked: make(map[string]bool), silent: make(map[string]int), uids: make(map[uint32]string), flagged: make(map[uint32]bool)})
	}
	var wg sync.WaitGroup
	var number atomic.Int64
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				n := number.Add(1)
				u := l.users[n%int64(len(l.users))]
				subject := fmt.Sprintf("lost-%d", n)
				err := send(c.addr(2525+int(n%2)), "lost@example.org", []string{string(u.name)}, messageFor(subject))
				u.mu.Lock()
				switch {
				case err == nil:
					u.acked[subject] = true
				case errors.Is(err, errSilent):
					u.silent[subject]++
				}
				u.mu.Unlock()
			}
		})
	}
	const rounds = 12
	for i := range rounds {
		b := fmt.Sprintf("b%d", i%3+1)
		already := number.Load()
		eventually(t, "mail flows", patience, func() error {
			if number.Load() < already+150 {
				return errors.New("slowly")
			}
			return nil
		})
		c.restart(b)
		c.procs[b].waitReady(t)
		if i%4 == 3 {
			c.move(t, users[i%len(users)], c.elsewhere(t, users[i%len(users)]))
		}
	}
	close(l.stop)
	wg.Wait()
	t.Logf("%d messages sent, %d kills", number.Load(), rounds)
	l.settled(patience)
}
