package backend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/carry"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/wire"
)

// company is one session of each kind, in the middle of something.
type company struct {
	idle, append, pop, sieve *rider
}

func (p *fakeProxy) company() company {
	p.r.t.Helper()
	c := company{p.ride("imap", "idle"), p.ride("imap", "append"), p.ride("pop3", "pop"), p.ride("managesieve", "sieve")}
	c.idle.asks("a SELECT INBOX\r\n", "a OK ")
	c.idle.asks("b IDLE\r\n", "+ ")
	c.append.asks("a APPEND INBOX {40}\r\n", "+ ")
	c.append.say("Subject: in two\r\n")
	c.pop.asks("DELE 1\r\n", "+OK message 1 deleted\r\n")
	c.sieve.say("PUTSCRIPT \"a\" {7+}\r\nke")
	return c
}

func (c company) all() []*rider { return []*rider{c.idle, c.append, c.pop, c.sieve} }

func (c company) went(n int) {
	for _, x := range c.all() {
		x.went(n)
	}
}

// goesOn finishes what company began: nobody has noticed anything.
func (c company) goesOn(r *rig, rec director.Record) {
	r.t.Helper()
	c.append.asks("\r\n012345678901234567890\r\n", "a OK ")
	c.idle.hears("* 3 EXISTS\r\n")
	r.must(r.deliver(rec.Home, rec.Epoch, "late", "Subject: late\r\n\r\nx\r\n"))
	c.idle.hears("* 4 EXISTS\r\n")
	c.sieve.asks("ep;\r\n\r\n", "OK \"Script stored.\"\r\n")
	c.sieve.asks("LISTSCRIPTS\r\nLOGOUT\r\n", "\"a\"\r\nOK ")
	if got := c.pop.asks("STAT\r\n", "\r\n"); !strings.HasPrefix(got, "+OK 1 ") {
		r.t.Errorf("STAT: %q", got)
	}
	c.pop.asks("QUIT\r\n", "+OK bye\r\n")
	if err := c.pop.end(); !errors.Is(err, io.EOF) {
		r.t.Error(err)
	}
	c.idle.hears("* 1 EXPUNGE\r\n")
	c.idle.asks("DONE\r\n", "b OK ")
	c.idle.asks("c UID SEARCH ALL\r\n", "* SEARCH 2 3 4\r\n")
}

func (r *rig) two(id director.BackendID) director.Record {
	r.t.Helper()
	rec := r.create(id)
	for _, d := range []string{"d1", "d2"} {
		r.must(r.deliver(id, rec.Epoch, d, "Subject: "+d+"\r\n\r\nhello\r\n"))
	}
	return rec
}

func (r *rig) move(to director.BackendID, id string) director.Record {
	r.t.Helper()
	m, busy := r.toSealed(to, id)
	rec := r.flip(m, busy)
	r.fenceIs(to, fence.Fence{State: fence.Serving, Epoch: rec.Epoch})
	r.finish(m, rec)
	r.fenceIs(m.Source, fence.Fence{State: fence.Gone, Epoch: rec.Epoch})
	return rec
}

// TestSessionsSurviveMoves: there and back.
func TestSessionsSurviveMoves(t *testing.T) {
	r := newRig(t, "b1", "b2")
	r.two("b1")
	c := newFakeProxy(r).company()
	r.move("b2", "m1")
	c.went(1)
	rec := r.move("b1", "m2")
	c.went(2)
	c.goesOn(r, rec)
	b1, b2 := r.nodes["b1"], r.nodes["b2"]
	if got := value(b1.metrics.handedOff.WithLabelValues("moving")); got != 4 {
		t.Errorf("b1 has handed off %v", got)
	}
	if a, b := value(b1.metrics.resumed), value(b2.metrics.resumed); a != 4 || b != 4 {
		t.Errorf("%v and %v resumed", a, b)
	}
}

// TestSessionsSurviveARollback: the source goes on with them, and nobody else had the
// maildrop.
func TestSessionsSurviveARollback(t *testing.T) {
	r := newRig(t, "b1", "b2")
	r.two("b1")
	p := newFakeProxy(r)
	c := p.company()
	_, busy := r.toSealed("b2", "m1")
	for _, x := range c.all() {
		eventually(t, x.session+" is told to wait", func() error {
			x.mu.Lock()
			defer x.mu.Unlock()
			if x.refused[wire.StatusBusy] == 0 {
				return fmt.Errorf("%v", x.refused)
			}
			return nil
		})
	}
	if got := r.nodes["b1"].maildrops.Holder(alice); got != "pop" {
		t.Errorf("at the source the maildrop is %q's", got)
	}
	if got := r.nodes["b2"].maildrops.Holder(alice); got != "pop" {
		t.Errorf("at the target the maildrop is %q's", got)
	}
	rec, err := r.dir.Rollback(t.Context(), alice, busy)
	r.must(err)
	c.went(1)
	c.goesOn(r, rec)
}

// TestSessionsSurviveARestart: they wait for the backend to come back.
func TestSessionsSurviveARestart(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	c := newFakeProxy(r).company()
	n := r.nodes["b1"]
	n.stop()
	if got := value(n.metrics.handedOff.WithLabelValues("stopping")); got != 4 {
		t.Errorf("%v handed off", got)
	}
	r.start(n.cfg)
	c.went(1)
	c.goesOn(r, rec)
}

// TestMailboxClosedUnderSessions: a mailbox that has to be read anew is no reason to end.
func TestMailboxClosedUnderSessions(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	c := newFakeProxy(r).company()
	for n := range 3 {
		u := r.nodes["b1"].use(alice)
		u.mu.Lock()
		r.must(u.closeAccount())
		u.mu.Unlock()
		r.nodes["b1"].release(u)
		c.went(n + 1)
	}
	c.goesOn(r, rec)
}

// keeper knows up to where there are checkpoints, from the log.
type keeper struct {
	slog.Handler // which has none

	mu   sync.Mutex
	upTo map[string]uint64 // bytes consumed, by session
}

// Enabled implements slog.Handler.
func (k *keeper) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (k *keeper) WithAttrs([]slog.Attr) slog.Handler { return k }

// Handle implements slog.Handler.
func (k *keeper) Handle(_ context.Context, r slog.Record) error {
	if r.Message != checkpointMade {
		return nil
	}
	all := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool {
		all[a.Key] = a.Value
		return true
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.upTo[all["session"].String()] = all["consumed"].Uint64()
	return nil
}

// TestSessionsGoOnFromCheckpoints: the connection breaks, which to a proxy is the same as a
// backend that was killed, while the clients are silent.
func TestSessionsGoOnFromCheckpoints(t *testing.T) {
	r := newRig(t)
	k := &keeper{Handler: slog.DiscardHandler, upTo: make(map[string]uint64)}
	r.log = k
	r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", OwnerGrace: time.Hour})
	rec := r.two("b1")
	p := newFakeProxy(r)
	idle, pop, sieve := p.ride("imap", "idle"), p.ride("pop3", "pop"), p.ride("managesieve", "sieve")
	idle.asks("a SELECT INBOX\r\n", "a OK ")
	idle.asks("b IDLE\r\n", "+ ")
	pop.asks("DELE 1\r\n", "+OK message 1 deleted\r\n")
	sieve.asks("NOOP\r\n", "OK \"Done.\"\r\n")
	for _, x := range []*rider{idle, pop, sieve} {
		eventually(t, x.session+" has a checkpoint", func() error {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.upTo[x.session] != x.said {
				return fmt.Errorf("up to %d of %d bytes", k.upTo[x.session], x.said)
			}
			return nil
		})
	}
	p.close()
	for _, x := range []*rider{idle, pop, sieve} {
		x.went(1)
	}
	r.must(r.deliver("b1", rec.Epoch, "late", "Subject: late\r\n\r\nx\r\n"))
	idle.hears("* 3 EXISTS\r\n")
	sieve.asks("NOOP\r\n", "OK \"Done.\"\r\n")
	pop.asks("QUIT\r\n", "+OK bye\r\n")
	idle.hears("* 1 EXPUNGE\r\n")
}

// TestHandOffIsTakenOnce: a second use of a hand-off ends, and one that came too early or to the
// wrong place uses nothing up.
func TestHandOffIsTakenOnce(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	p := newFakeProxy(r)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	link, err := p.link(ctx, "b1")
	r.must(err)
	for _, protocol := range []string{"imap", "pop3", "managesieve"} {
		s, w, err := link.Open(ctx, hello(protocol, protocol, rec))
		r.must(err)
		if w.Status != wire.StatusOK {
			t.Fatalf("%+v", w)
		}
		state := r.handedOff(s)
		s.Close()
		again := func(at director.Record, want wire.Status, text string) {
			t.Helper()
			s, w, err := link.Resume(ctx, hello(protocol, protocol, at), state)
			r.must(err)
			if w.Status != want || text != "" && w.Text != text {
				t.Errorf("%s at %d: %+v, want %s %s", protocol, at.Epoch, w, want, text)
			}
			if s != nil {
				r.must(s.HangUp())
				if _, err := io.Copy(io.Discard, s); err != nil {
					t.Error(err)
				}
				s.Close()
			}
		}
		later, elsewhere, other := rec, rec, protocol
		later.Epoch++
		elsewhere.Home = "b9"
		again(later, wire.StatusStale, "")
		again(elsewhere, wire.StatusStale, "")
		// At rest there is nothing that could be done twice.
		again(rec, wire.StatusOK, "")
		again(rec, wire.StatusOK, "")
		_, body, err := handoff.Open(state, protocol)
		r.must(err)
		state = handoff.Seal(handoff.NewID(), protocol, body)
		again(rec, wire.StatusOK, "")
		again(rec, wire.StatusUnresumable, "twice")
		protocol = map[string]string{"imap": "pop3", "pop3": "managesieve", "managesieve": "imap"}[other]
		again(rec, wire.StatusUnresumable, "version")
		state = handoff.Seal(handoff.NewID(), protocol, []byte{200})
		again(rec, wire.StatusUnresumable, "version")
	}
	m := r.nodes["b1"].metrics.notResumed
	if twice, version := value(m.WithLabelValues("twice")), value(m.WithLabelValues("version")); twice != 3 || version != 6 {
		t.Errorf("counted %v and %v", twice, version)
	}
}

// TestFormerSessionMakesRoom: a proxy that goes on from a checkpoint has lost the connection, which
// the backend may not have noticed.
func TestFormerSessionMakesRoom(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	first, second := newFakeProxy(r), newFakeProxy(r)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	link, err := first.link(ctx, "b1")
	r.must(err)
	s, _, err := link.Open(ctx, hello("pop3", "pop", rec))
	r.must(err)
	state := r.handedOff(s)
	former, w, err := link.Resume(ctx, hello("pop3", "pop", rec), state)
	if err != nil || w.Status != wire.StatusOK {
		t.Fatal(w, err)
	}
	_, body, err := handoff.Open(state, "pop3")
	r.must(err)
	link, err = second.link(ctx, "b1")
	r.must(err)
	s, w, err = link.Resume(ctx, hello("pop3", "pop", rec), handoff.Seal(handoff.NewID(), "pop3", body))
	if err != nil || w.Status != wire.StatusOK {
		t.Fatal(w, err)
	}
	if _, err := io.Copy(io.Discard, former); err != nil {
		t.Errorf("the former one: %v", err)
	}
	r.must(s.HangUp())
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Error(err)
	}
}

// handedOff has b1 hand alice's sessions off, and gives the state of this one.
func (r *rig) handedOff(s *frames.Stream) []byte {
	r.t.Helper()
	u := r.nodes["b1"].use(alice)
	u.mu.Lock()
	u.hangUp(leftClosed)
	u.mu.Unlock()
	r.nodes["b1"].release(u)
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, frames.ErrHandOff) {
		r.t.Fatal(err)
	}
	state, _ := s.HandedOff()
	return state
}

// TestOvertaken: a resume that its proxy has given up, and that comes late, does not end the
// session that the proxy has by now.
func TestOvertaken(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	link, err := newFakeProxy(r).link(ctx, "b1")
	r.must(err)
	h := hello("pop3", "pop", rec)
	h.Try = 1
	s, _, err := link.Open(ctx, h)
	r.must(err)
	state := r.handedOff(s)
	_, body, err := handoff.Open(state, "pop3")
	r.must(err)
	quiet := handoff.Seal(handoff.NewQuietID(), "pop3", body)
	h.Try = 3
	s, w, err := link.Resume(ctx, h, quiet)
	if err != nil || w.Status != wire.StatusOK {
		t.Fatal(w, err)
	}
	h.Try = 2
	late, err := newFakeProxy(r).link(ctx, "b1")
	r.must(err)
	if _, w, err := late.Resume(ctx, h, quiet); err != nil || w.Status != wire.StatusRefused || !strings.Contains(w.Text, carry.ErrOvertaken.Error()) {
		t.Errorf("the late one: %v, %v", w, err)
	}
	if _, err := io.WriteString(s, "NOOP\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(s).ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		t.Errorf("the session that the proxy has: %q, %v", line, err)
	}
	h.Try = 4
	if _, w, err = link.Resume(ctx, h, quiet); err != nil || w.Status != wire.StatusOK {
		t.Errorf("a later one: %v, %v", w, err)
	}
}

// TestMaildropIsKept: nobody gets the maildrop while its session is on its way.
func TestMaildropIsKept(t *testing.T) {
	r := newRig(t, "b1", "b2")
	r.two("b1")
	p := newFakeProxy(r)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	link, err := p.link(ctx, "b1")
	r.must(err)
	s, _, err := link.Open(ctx, hello("pop3", "pop", p.record()))
	r.must(err)
	rec := r.move("b2", "m1")
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, frames.ErrHandOff) {
		t.Fatal(err)
	}
	state, _ := s.HandedOff()
	there, err := p.link(ctx, "b2")
	r.must(err)
	if _, w, err := there.Open(ctx, hello("pop3", "other", rec)); err != nil || w.Status != wire.StatusInUse {
		t.Errorf("another one: %+v, %v", w, err)
	}
	if s, w, err := there.Resume(ctx, hello("pop3", "pop", rec), state); err != nil || w.Status != wire.StatusOK {
		t.Errorf("%+v, %v", w, err)
	} else {
		r.must(s.HangUp())
	}
	eventually(t, "the next one gets it", func() error {
		s, w, err := there.Open(ctx, hello("pop3", "next", rec))
		if err == nil && s == nil {
			err = errors.New(string(w.Status))
		}
		return err
	})
}

// TestKickedIsNotHandedOff: an operator's word ends a session.
func TestKickedIsNotHandedOff(t *testing.T) {
	r := newRig(t, "b1")
	r.two("b1")
	c := newFakeProxy(r).company()
	reply, err := call[control.KickReply](r, r.admin, "b1", control.PathKick, control.KickRequest{User: alice})
	if err != nil || reply.Kicked != 4 {
		t.Errorf("%+v, %v", reply, err)
	}
	for _, x := range c.all() {
		if err := x.end(); errors.Is(err, frames.ErrHandOff) || x.rides != 0 {
			t.Errorf("%s: %v", x.session, err)
		}
	}
	if got := r.count("b1", newFakeProxy(r).record().Epoch); got != 2 {
		t.Errorf("%d messages", got)
	}
}
