package clustertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// TestEtcdStopped: logins and deliveries of known users go on without etcd;
// started again, everything catches up.
func TestEtcdStopped(t *testing.T) {
	beside(t)
	c := newCluster(t)
	users := c.withUsers(6)
	for _, u := range users { // every user has been seen once
		if err := send(c.addr(2525), "a@example.org", []string{string(u)}, []byte("Subject: before\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	c.procs["e1"].kill()
	for i, u := range users {
		if err := send(c.addr(2525+i%2), "a@example.org", []string{string(u)}, []byte("Subject: without etcd\r\n\r\nx\r\n")); err != nil {
			t.Errorf("delivery to %s without etcd: %v", u, err)
		}
		s, err := readIMAP(c.addr(1143+i%2), u, "INBOX", false)
		if err != nil || len(s.msgs) != 2 {
			t.Errorf("%s without etcd: %d messages, %v", u, len(s.msgs), err)
		}
		if ids, _, err := readPOP3(c.addr(1110+i%2), u); err != nil || len(ids) != 2 {
			t.Errorf("%s by POP3 without etcd: %d messages, %v", u, len(ids), err)
		}
	}
	// A proxy and an mx even start without it.
	for _, n := range []string{"p1", "mx1"} {
		c.procs[n].signal(15)
		c.procs[n].waitEnd(patience)
		c.procs[n].start(t)
	}
	for _, n := range []string{"p1", "mx1"} {
		c.procs[n].waitReady(t)
	}
	if err := send(c.addr(2525), "a@example.org", []string{string(users[0])}, []byte("Subject: restarted\r\n\r\nx\r\n")); err != nil {
		t.Errorf("delivery by an mx that started without etcd: %v", err)
	}
	if s, err := readIMAP(c.addr(1143), users[0], "INBOX", false); err != nil || len(s.msgs) != 3 {
		t.Errorf("a proxy that started without etcd: %d messages, %v", len(s.msgs), err)
	}
	c.procs["e1"].start(t)
	c.procs["e1"].waitReady(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	late := director.User("late@example.test")
	eventually(t, "new user after etcd is back", patience, func() error {
		_, err := c.admin.CreateUser(ctx, admin.CreateUser{User: string(late), PasswordHash: passwordHash})
		return err
	})
	eventually(t, "the new user gets mail and logs in", patience, func() error {
		if err := send(c.addr(2526), "a@example.org", []string{string(late)}, []byte("Subject: late\r\n\r\nx\r\n")); err != nil {
			return err
		}
		s, err := readIMAP(c.addr(1144), late, "INBOX", false)
		if err == nil && len(s.msgs) == 0 {
			err = fmt.Errorf("no mail yet")
		}
		return err
	})
	moved := c.move(t, users[1], c.elsewhere(t, users[1]))
	if moved.Phase != director.PhaseDone {
		t.Errorf("a move after etcd is back: %+v", moved)
	}
}

// elsewhere is a backend that is not the user's home.
func (c *testCluster) elsewhere(t *testing.T, u director.User) director.BackendID {
	t.Helper()
	got, err := c.admin.User(context.Background(), u)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []director.BackendID{"b1", "b2", "b3"} {
		if id != got.Home {
			return id
		}
	}
	return ""
}

// move moves a user with nobody in the way, and waits for the end.
func (c *testCluster) move(t *testing.T, u director.User, to director.BackendID) admin.Move {
	t.Helper()
	r := c.procs["r1"]
	r.mu.Lock()
	at := r.at
	r.mu.Unlock()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case _, ok := <-at:
				if !ok {
					return
				}
				r.goOn()
			case <-done:
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	eventually(t, "move accepted", 20*time.Second, func() error {
		_, err := c.admin.CreateMove(ctx, string(u), to)
		return err
	})
	m, err := c.admin.WatchMove(ctx, u, func(admin.Move) {})
	if err != nil {
		t.Fatalf("move of %s: %v", u, err)
	}
	return m
}
