package relay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waypost/mx/spool/entries"
)

// pass lets synthetic time pass.
func pass(d time.Duration) { <-time.After(d); synctest.Wait() }

// TestSchedule: the waits between tries, one warning after 4 hours, and the end
// after 5 days, with a last try.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		r := newRig(t, script{}, nil)
		r.h.set(func() {
			r.h.sc.rcpt = func(string) string { tries = append(tries, time.Now()); return "451 4.7.1 try later" }
		})
		start := time.Now()
		r.add(envelope("id1", "a@out.test"))
		r.run()
		pass(3 * time.Hour)
		if len(r.spooled()) != 0 {
			t.Error("told too early")
		}
		pass(20 * time.Hour)
		if s := r.spooled(); len(s) != 1 || !strings.Contains(s[0].body, "Action: delayed\r\n") || s[0].Received.Sub(start) < 4*time.Hour {
			t.Fatalf("%+v", s)
		}
		pass(4 * 24 * time.Hour)
		if len(r.spooled()) != 1 || len(r.q.List()) != 1 {
			t.Error("told twice, or given up too early")
		}
		pass(24 * time.Hour)
		s := r.spooled()
		if len(s) != 2 || len(r.q.List()) != 0 || !strings.Contains(s[1].body, "Status: 4.4.7\r\n") || !strings.Contains(s[1].body, "Action: failed\r\n") {
			t.Fatalf("%+v", s)
		}
		waits := append(slices.Clone(steps[:]), 4*time.Hour, 4*time.Hour)
		for i, want := range waits {
			if w := tries[i+1].Sub(tries[i]); w < want*9/10 || w > want*11/10+time.Second {
				t.Errorf("wait %d was %v, want about %v", i, w, want)
			}
		}
		if last := tries[len(tries)-1].Sub(start); last < 5*24*time.Hour || last > 5*24*time.Hour+time.Minute {
			t.Errorf("the last try was after %v", last)
		}
	})
}

// TestSmarthostDown: all wait, one alone tries, and when it works again
// everything goes, over few connections; no entry's own schedule has suffered.
func TestSmarthostDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script{}, nil)
		r.h.set(func() { r.h.refuse = errors.New("connection refused") })
		for i := range 50 {
			r.add(envelope(fmt.Sprint("id", i), "a@out.test"))
		}
		r.run()
		pass(2 * time.Hour)
		// 30 s, 1, 2, 4, 8 min, then 15 min each; at the very start all of the
		// workers may be connecting already.
		if n := len(r.h.dials); n < 8 || n > 20 {
			t.Errorf("%d connections were tried", n)
		}
		for i := 5; i < len(r.h.dials); i++ {
			if w := r.h.dials[i].Sub(r.h.dials[i-1]); w < 25*time.Second {
				t.Errorf("try %d came after %v", i, w)
			}
		}
		if r.metric("smarthost_held", "") != 1 {
			t.Error("no alarm")
		}
		for _, e := range r.q.List() {
			if e.Attempts != 0 || !strings.Contains(e.Error, "refused") {
				t.Fatalf("%+v", e)
			}
		}
		before := len(r.h.dials)
		r.h.set(func() { r.h.refuse = nil })
		pass(20 * time.Minute)
		if n := len(r.q.List()); n != 0 || len(r.h.got()) != 50 {
			t.Errorf("%d are left, %d came", n, len(r.h.got()))
		}
		if n := len(r.h.dials) - before; n > 8 || r.h.most > 4 {
			t.Errorf("%d connections, %d at once", n, r.h.most)
		}
		if r.metric("smarthost_held", "") != 0 {
			t.Error("alarm goes on")
		}
	})
}

// TestSmarthostDown_retry: the operator needs not wait for the end of a hold.
func TestSmarthostDown_retry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script{}, nil)
		r.h.set(func() { r.h.refuse = errors.New("connection refused") })
		r.add(envelope("id1", "a@out.test"))
		r.run()
		pass(time.Hour)
		r.h.set(func() { r.h.refuse = nil })
		if r.q.RetryAll() != 1 {
			t.Error("not counted")
		}
		pass(time.Second)
		if n := len(r.q.List()); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestSmarthostDown_expires: the time of an entry ends although it was never
// tried.
func TestSmarthostDown_expires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script{}, nil)
		r.h.set(func() { r.h.refuse = errors.New("connection refused") })
		r.add(envelope("id1", "a@out.test"))
		r.run()
		pass(5 * time.Hour)
		if s := r.spooled(); len(s) != 1 || !strings.Contains(s[0].body, "Action: delayed") {
			t.Fatalf("%+v", s)
		}
		pass(5 * 24 * time.Hour)
		if s := r.spooled(); len(s) != 2 || len(r.q.List()) != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestBreaks: a message at which the smarthost breaks off holds nobody else
// back for long.
func TestBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script{}, nil)
		r.h.set(func() {
			r.h.sc.end = func(g got) string {
				if strings.Contains(g.rcpts[0], "poison") {
					return ""
				}
				return "250 2.0.0 ok"
			}
		})
		r.add(envelope("id0", "poison@out.test"))
		r.run()
		pass(time.Hour)
		for i := range 20 {
			r.add(envelope(fmt.Sprint("id1", i), "a@out.test"))
		}
		pass(time.Minute)
		if n := len(r.q.List()); n != 1 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestIdempotent: an id is taken once, also after it has ended and the process
// began anew, until it is forgotten.
func TestIdempotent(t *testing.T) {
	r := newRig(t, script{}, nil)
	e := envelope("id1", "a@out.test")
	e.Kind, e.Remember = Redirect, true
	r.add(e)
	if err := r.try(e); !errors.Is(err, ErrKnown) || !r.q.Known("id1") {
		t.Errorf("queued: %v", err)
	}
	r.reopen()
	if err := r.try(e); !errors.Is(err, ErrKnown) {
		t.Errorf("queued, opened again: %v", err)
	}
	r.run()
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	if err := r.try(e); !errors.Is(err, ErrKnown) {
		t.Errorf("ended: %v", err)
	}
	r.reopen()
	if err := r.try(e); !errors.Is(err, ErrKnown) || !r.q.Known("id1") {
		t.Errorf("ended, opened again: %v", err)
	}
	if n := len(r.h.got()); n != 1 {
		t.Errorf("sent %d times", n)
	}
	if EntryID("id1") != "id1" || EntryID("a/b") == "a/b" || EntryID("a/b") == EntryID("a/c") || !entries.ValidID(EntryID("../x")) {
		t.Error("EntryID")
	}
}

func TestDone_isBounded(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	d, err := openDone(dir, 8*time.Hour, 80)
	if err != nil {
		t.Fatal(err)
	}
	files := func() int { f, _ := os.ReadDir(dir); return len(f) }
	for i := range 1000 {
		if err := d.add(fmt.Sprint("id", i), now); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.known) > 80 || len(d.known) < 60 || files() > 9 || !d.has("id999") || d.has("id0") {
		t.Errorf("%d known in %d files", len(d.known), files())
	}
	d.close()
	// A torn line is none; what is after it is in another file.
	last := filepath.Join(dir, fmt.Sprint(d.parts[len(d.parts)-1].begun))
	f, err := os.OpenFile(last, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, "torn")
	f.Close()
	if d, err = openDone(dir, 8*time.Hour, 80); err != nil {
		t.Fatal(err)
	}
	if err := d.add("next", now); err != nil {
		t.Fatal(err)
	}
	d.close()
	if d, err = openDone(dir, 8*time.Hour, 80); err != nil {
		t.Fatal(err)
	}
	if !d.has("id999") || d.has("torn") || !d.has("next") || d.has("tornnext") {
		t.Error("after a torn line")
	}
	if err := d.add("late", now.Add(20*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := d.add("later", now.Add(40*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if d.has("id999") || !d.has("later") {
		t.Error("not forgotten")
	}
	d.close()
}

func TestFull(t *testing.T) {
	r := newRig(t, script{}, func(c *Config) { c.MaxEntries, c.UserPerHour = 2, 3 })
	r.add(envelope("id1", "a@out.test"))
	var limit *LimitError
	if err := r.try(envelope("id2", "a@out.test", "b@out.test", "c@out.test")); !errors.As(err, &limit) {
		t.Errorf("limit: %v", err)
	}
	r.add(envelope("id2", "a@out.test"))
	if err := r.try(envelope("id3", "a@out.test")); !errors.Is(err, ErrFull) {
		t.Errorf("full: %v", err)
	}
}

// TestInward: recipients of this cluster go by the spool, members outside by
// the smarthost, and what leads nowhere is told.
func TestInward(t *testing.T) {
	r := newRig(t, script{}, nil)
	r.add(envelope("id1", "u1@x.test", "list@x.test", "no@x.test", "a@out.test"))
	r.run()
	r.eventually("ended", func() bool { return len(r.q.List()) == 0 })
	g := r.h.got()
	if len(g) != 1 || len(g[0].rcpts) != 2 {
		t.Errorf("outside: %+v", g)
	}
	var report, mail int
	for _, s := range r.spooled() {
		switch {
		case strings.HasPrefix(s.ID, "in-"):
			mail++
			if len(s.Recipients) != 2 || s.body != testBody || s.Sender != "u1@x.test" {
				t.Errorf("%+v", s)
			}
		case strings.Contains(s.body, "<no@x.test>") && s.Sender == "":
			report++
		}
	}
	if report != 1 || mail != 1 {
		t.Errorf("%d reports, %d messages", report, mail)
	}
}

// TestDeadLetter: nobody outside, and no null sender, is ever told of a
// failure; the operator may try again or drop it.
func TestDeadLetter(t *testing.T) {
	no := func(string) string { return "550 5.1.1 no" }
	r := newRig(t, script{rcpt: no}, nil)
	redirect := envelope("id1", "a@out.test", "b@out.test")
	redirect.Kind, redirect.From, redirect.Reports = Redirect, "stranger@far.test", false
	reply := envelope("id2", "a@out.test")
	reply.Kind = Vacation // the sender is dropped
	null := envelope("id3", "a@out.test")
	null.From = ""
	forward := envelope("id4", "a@out.test")
	forward.Kind, forward.User = Forward, ""
	for _, e := range []Envelope{redirect, reply, null, forward} {
		r.add(e)
	}
	r.run()
	dead := func() (n int) {
		for _, e := range r.q.List() {
			if e.State == Dead {
				n++
			}
		}
		return n
	}
	r.eventually("dead", func() bool { return dead() == 3 && len(r.q.List()) == 3 })
	if s := r.spooled(); len(s) != 0 {
		t.Errorf("told: %+v", s)
	}
	if r.metric("dead_letters_total", "") != 4 || strings.Count(r.logs.String(), "ALARM: dead letter") != 3 {
		t.Error("no alarm")
	}
	if !strings.Contains(r.h.cmds(), "MAIL FROM:<> ") {
		t.Error(r.h.cmds())
	}
	r.reopen()
	if dead() != 3 {
		t.Fatalf("%+v", r.q.List())
	}
	if err := r.try(redirect); !errors.Is(err, ErrKnown) {
		t.Errorf("a dead one again: %v", err)
	}
	r.h.set(func() { r.h.sc.rcpt = nil })
	if err := r.q.Retry("id1"); err != nil {
		t.Fatal(err)
	}
	if err := r.q.Drop("id3"); err != nil {
		t.Fatal(err)
	}
	if err := r.q.Drop("id3"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	r.run()
	r.eventually("sent", func() bool { return len(r.q.List()) == 1 })
	if g := r.h.got(); len(g) != 1 || len(g[0].rcpts) != 2 || g[0].body != testBody {
		t.Errorf("%+v", g)
	}
	r.reopen()
	if dead() != 1 || len(r.q.List()) != 1 {
		t.Errorf("%+v", r.q.List())
	}
}

// TestRetry: the operator needs not wait.
func TestRetry(t *testing.T) {
	r := newRig(t, script{rcpt: func(string) string { return "451 4.3.0 later" }}, nil)
	r.add(envelope("id1", "a@out.test"))
	r.run()
	tried := func(n int) func() bool { return func() bool { return r.q.List()[0].Attempts == n } }
	r.eventually("tried", tried(1))
	if err := r.q.Retry("id1"); err != nil {
		t.Fatal(err)
	}
	r.eventually("tried again", tried(2))
	if r.q.RetryUser("u2@x.test") != 0 || r.q.RetryUser("u1@x.test") != 1 {
		t.Error("RetryUser")
	}
	r.eventually("tried again", tried(3))
	r.h.set(func() { r.h.sc.rcpt = nil })
	if r.q.RetryAll() != 1 {
		t.Error("RetryAll")
	}
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	if err := r.q.Retry("id1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
