package clustertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// TestNoWrongViewWhateverDies kills the source or the target of moves at the steps where
// sessions are on their way. A connection may end then, but none may be told anything wrong,
// and none may hang.
func TestNoWrongViewWhateverDies(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	s := &survivors{testCluster: c, user: c.user(t, "alice@example.test", "b1")}
	s.fill(t)
	var ended atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i, w := range s.works() {
		if w.name == "append" {
			continue // of one that was cut nobody knows whether it was done
		}
		work.Go(func() {
			for running(stop) {
				k, err := s.selected(1143+i%2, w.name)
				for n := 0; err == nil && running(stop); n++ {
					if err = w.do(k); err == nil && n%5 == 0 {
						err = k.right()
					}
				}
				if k != nil {
					k.conn.Close()
				}
				switch {
				case errors.Is(err, errWrong) && !strings.Contains(err.Error(), "UNAVAILABLE"):
					t.Errorf("%s: %v", w.name, err)
					return
				case err != nil:
					ended.Add(1)
				}
			}
		})
	}
	homes := []director.BackendID{"b2", "b3", "b1"}
	kills := 0
	for _, point := range []string{"frozen", "sealed", "flipped"} {
		for _, side := range []string{"source", "target"} {
			from := c.home(t, s.user)
			to := homes[kills%3]
			if to == from {
				to = homes[(kills+1)%3]
			}
			victim := map[string]director.BackendID{"source": from, "target": to}[side]
			s.send(t, "Subject: more\r\n\r\nx\r\n")
			m := c.moveKilling(t, s.user, to, point, string(victim))
			kills++
			t.Logf("%s of %s to %s killed when %s: %s", side, from, to, point, m.Phase)
		}
	}
	close(stop)
	work.Wait()
	t.Logf("%d connections ended in %d kills", ended.Load(), kills)
}

func running(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

// moveKilling moves a user, and kills a process, once, when the mover comes to a point.
func (c *testCluster) moveKilling(t *testing.T, u director.User, to director.BackendID, point, victim string) admin.Move {
	t.Helper()
	r := c.procs["r1"]
	r.mu.Lock()
	at := r.at
	r.mu.Unlock()
	done := make(chan struct{})
	var answers sync.WaitGroup
	answers.Go(func() {
		killed := false
		for {
			select {
			case line, ok := <-at:
				if !ok {
					return
				}
				if !killed && strings.HasPrefix(line, point+" ") {
					killed = true
					c.procs[victim].kill()
					c.procs[victim].start(t)
				}
				r.goOn()
			case <-done:
				return
			}
		}
	})
	defer answers.Wait()
	defer close(done)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	eventually(t, "move accepted", 20*time.Second, func() error {
		_, err := c.admin.CreateMove(ctx, string(u), to)
		return err
	})
	m, err := c.admin.WatchMove(ctx, u, func(admin.Move) {})
	if err != nil {
		t.Fatalf("move of %s: %v", u, err)
	}
	c.procs[victim].waitReady(t)
	return m
}
