package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/wire"
	"waypost/proxy/proxytest"
)

// What the session of a parked client can still meet.
func TestEndsWhileParked(t *testing.T) {
	for name, c := range map[string]struct {
		end          func(h *house, k *proxytest.Client)
		want, reason string
	}{
		"kicked": {func(h *house, _ *proxytest.Client) {
			r, err := h.server.registry.kick(context.Background(), control.KickRequest{User: alice})
			if r.Kicked != 1 || err != nil {
				h.t.Errorf("kick: %v, %v", r, err)
			}
		}, "S: * BYE Session ended by the administrator.\nEND", ""},
		"disabled": {func(h *house, _ *proxytest.Client) {
			h.dir.setAccount(alice, director.Account{Hash: "secret", Disabled: true}, false)
		}, "S: * BYE Account changed, log in again.\nEND", "account"},
		"password changed": {func(h *house, _ *proxytest.Client) {
			h.dir.setAccount(alice, director.Account{Hash: "other"}, false)
		}, "S: * BYE Account changed, log in again.\nEND", "account"},
		"deleted": {func(h *house, _ *proxytest.Client) {
			h.dir.set(alice, director.Record{State: director.Deleted, Epoch: 3})
		}, "S: * BYE [UNAVAILABLE] ...\nEND", "account"},
		"shutdown": {func(h *house, _ *proxytest.Client) {
			over, stop := context.WithCancel(context.Background())
			stop()
			if err := h.server.Shutdown(over); err != nil {
				h.t.Error(err)
			}
		}, "S: * BYE [UNAVAILABLE] Server is shutting down.\nEND", ""},
		"moved to dovecot": {func(h *house, _ *proxytest.Client) {
			h.dir.mu.Lock()
			h.dir.backends["b3"] = director.Backend{Kind: director.KindDovecot}
			h.dir.mu.Unlock()
			h.dir.set(alice, active("b3", 3))
		}, "S: * BYE [UNAVAILABLE] ...\nEND", "foreign"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			b1, b2 := carriers(h)
			h.start()
			k := parkedSession(h, b1, b2)
			c.end(h, k)
			k.Run(nil, c.want)
			h.until("no session is left", func() bool { return h.server.Sessions() == 0 })
			if c.reason != "" && h.notCarried(c.reason) != 1 || c.reason == "" && h.metric("sessions_not_carried_total") != 0 {
				t.Error("it is counted wrongly")
			}
			if h.metric("sessions_parked") != 0 || h.server.parked.Load() != 0 || len(b2.goneOn()) != 0 {
				t.Error("something is left of it")
			}
		})
	}
}

// A client whose connection broke is not waited for.
func TestClientVanishesWhileParked(t *testing.T) {
	h := newHouse(t)
	b1, b2 := carriers(h)
	h.start()
	k := parkedSession(h, b1, b2)
	if err := k.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	k.Conn.Close()
	h.until("no session is left", func() bool { return h.server.Sessions() == 0 })
	if h.metric("sessions_not_carried_total") != 0 {
		t.Error("the client's end is counted as ours")
	}
}

func TestWaitedTooLong(t *testing.T) {
	h := newHouse(t)
	h.cfg.ResumeWait = 50 * time.Millisecond
	b1, b2 := carriers(h)
	h.start()
	k := h.imap()
	k.Run(nil, "C: where\nS: b1")
	h.dir.set(alice, busy("b1", "b2", 2))
	b1.letGo()
	k.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
	if h.notCarried("waited") != 1 || len(b2.goneOn()) != 0 {
		t.Error("it is counted wrongly")
	}
}

// Answers to a RESUME after which it is not tried again.
func TestNotCarried(t *testing.T) {
	answer := func(text string) func(*fakeBackend, wire.Hello, *frames.Stream) {
		return func(_ *fakeBackend, _ wire.Hello, s *frames.Stream) {
			_ = s.Welcome(wire.Welcome{Status: wire.StatusUnresumable, Text: text})
		}
	}
	for name, c := range map[string]struct {
		resume func(*fakeBackend, wire.Hello, *frames.Stream)
		reason string
	}{
		"folder gone":      {answer("folder"), "folder"},
		"accepted before":  {answer("twice"), "twice"},
		"a word of others": {answer("full moon\nwaypost_up 1"), "other"},
		"connection lost":  {func(b *fakeBackend, _ wire.Hello, _ *frames.Stream) { b.reset() }, "lost"},
		"closed unsaid":    {func(*fakeBackend, wire.Hello, *frames.Stream) {}, "lost"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			b1, b2 := carriers(h)
			b2.onResume(func(hello wire.Hello, s *frames.Stream) { c.resume(b2, hello, s) })
			h.start()
			k, p := h.imap(), h.pop3()
			k.Run(nil, "C: where\nS: b1")
			p.Run(nil, "C: where\nS: b1")
			h.move(b1, b2)
			k.Run(nil, "S: * BYE [UNAVAILABLE] Mailbox is away for a moment, connect again.\nEND")
			p.ExpectEnd()
			if n := h.notCarried(c.reason); n != 2 || h.metric("sessions_not_carried_total") != n {
				t.Errorf("counted %v times", n)
			}
			if n := len(b2.goneOn()); n > 2 || c.reason != "lost" && n != 2 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// No words come into the middle of a literal.
func TestNotCarriedInALiteral(t *testing.T) {
	h := newHouse(t)
	_, b2 := carriers(h)
	b2.onResume(func(_ wire.Hello, s *frames.Stream) {
		_ = s.Welcome(wire.Welcome{Status: wire.StatusUnresumable, Text: "folder"})
	})
	h.start()
	k := h.imap()
	h.dir.set(alice, busy("b1", "b2", 2))
	k.Send("literal and let go\r\n")
	h.parkedNow(1)
	h.dir.set(alice, active("b2", 3))
	k.Run(nil, "S: * 1 FETCH (BODY[] {20}\nS: Subject: x\nEND")
}

// Where hand-offs are not known, sessions end as before.
func TestForeign(t *testing.T) {
	for name, c := range map[string]struct{ old, rigid bool }{"no frames": {old: true}, "no hand-offs": {rigid: true}} {
		t.Run(name+", old home", func(t *testing.T) {
			h := newHouse(t)
			b1, _ := carriers(h)
			b1.set(func() { b1.old, b1.rigid, b1.play = c.old, c.rigid, echo })
			h.start()
			k := h.imap()
			k.Run(nil, "C: x\nS: x")
			h.dir.set(alice, active("b2", 3))
			b1.reset()
			k.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
			h.until("it is counted", func() bool { return h.notCarried("foreign") == 1 })
		})
		t.Run(name+", new home", func(t *testing.T) {
			h := newHouse(t)
			b1, b2 := carriers(h)
			b2.set(func() { b2.old, b2.rigid = c.old, c.rigid })
			h.start()
			k := h.imap()
			k.Run(nil, "C: where\nS: b1")
			h.move(b1, b2)
			k.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
			if h.notCarried("foreign") != 1 || len(b2.goneOn()) != 0 {
				t.Error("it is counted wrongly")
			}
		})
	}
	// A session that ends by itself is nobody's loss.
	h, b := homely(t)
	b.set(func() { b.rigid = true })
	h.start()
	h.imap().Run(nil, "C: LOGOUT\nS: * BYE bye\nS: LOGOUT OK done\nEND")
	if h.metric("sessions_not_carried_total") != 0 {
		t.Error("a LOGOUT is counted")
	}
}

// A backend that restarts is asked until it answers, at the same epoch.
func TestBackendRestarts(t *testing.T) {
	h := newHouse(t)
	b1, _ := carriers(h)
	h.start()
	k, p := h.imap(), h.pop3()
	k.Run(nil, "C: where\nS: b1")
	p.Run(nil, "C: where\nS: b1")
	b1.ln.Close()
	close(b1.draining)
	b1.letGo()
	h.parkedNow(2)
	h.until("it was asked in vain", func() bool { return h.metric("backend_errors_total") > 1 })
	b1.restart(h)
	k.Run(nil, "C: x\nS: x")
	p.Run(nil, "C: x\nS: x")
	if n := h.metric("sessions_resumed_total"); n != 2 {
		t.Errorf("%v resumed", n)
	}
	for _, hello := range b1.goneOn() {
		if hello.Epoch != 1 {
			t.Errorf("resumed at %+v", hello)
		}
	}
}

// The old session of a maildrop is noticed to be gone a little later.
func TestMaildropInUse(t *testing.T) {
	h := newHouse(t)
	b1, b2 := carriers(h)
	b2.onResume(func(_ wire.Hello, s *frames.Stream) {
		if len(b2.goneOn()) < 2 {
			_ = s.Welcome(wire.Welcome{Status: wire.StatusInUse})
			return
		}
		state := s.State()
		if s.Welcome(wire.Welcome{Status: wire.StatusOK}) == nil {
			b2.engine(s, state)
		}
	})
	h.start()
	p := h.pop3()
	p.Run(nil, "C: where\nS: b1")
	h.move(b1, b2)
	p.Run(nil, "C: where\nS: b2")
}

// The new home does not know yet that it is one.
func TestResumeRefused(t *testing.T) {
	for _, status := range []wire.Status{wire.StatusStale, wire.StatusBusy, wire.StatusRefused} {
		t.Run(string(status), func(t *testing.T) {
			h := newHouse(t)
			b1, b2 := carriers(h)
			b2.answer(status)
			h.start()
			k := h.imap()
			k.Run(nil, "C: where\nS: b1")
			h.move(b1, b2)
			h.until("it was asked twice", func() bool { return len(b2.goneOn()) == 2 })
			b2.answer(wire.StatusOK)
			k.Run(nil, "C: where\nS: b2")
		})
	}
}

// After a crash a session goes on from its checkpoint, if that is where the client is.
func TestCrash(t *testing.T) {
	for name, c := range map[string]struct {
		before func(h *house, k *proxytest.Client, s *frames.Stream) // the crash
		goesOn bool
	}{
		"at rest": {func(*house, *proxytest.Client, *frames.Stream) {}, true},
		"told more since": {func(h *house, k *proxytest.Client, s *frames.Stream) {
			_, _ = io.WriteString(s, "* 1 EXISTS\r\n")
			k.Expect("* 1 EXISTS")
		}, false},
		"asked more since": {func(h *house, k *proxytest.Client, s *frames.Stream) {
			k.Send("where\r\n")
			k.Expect("b1")
		}, false},
		"asked a little": {func(h *house, k *proxytest.Client, s *frames.Stream) {
			k.Send("b")
			h.until("it has come", func() bool {
				for _, x := range h.server.registry.list(alice) {
					if x.BytesIn == 8 {
						return true
					}
				}
				return false
			})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			b1, _ := carriers(h)
			h.start()
			k := h.imap()
			k.Run(nil, "C: where\nS: b1")
			b1.mu.Lock()
			var stream *frames.Stream
			for stream = range b1.streams {
			}
			b1.mu.Unlock()
			greeting := uint64(len("* PREAUTH [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE] ready\r\n"))
			h.until("the answer is written, which was read already", func() bool { return stream.Checkpoint(7, greeting+4, nil) == nil })
			second := h.imap() // behind the checkpoint on the same connection
			second.Run(nil, "C: x\nS: x")
			c.before(h, k, stream)
			b1.reset()
			if !c.goesOn {
				k.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
			} else {
				// What is said before the loss is noticed is not known to be executed.
				h.until("it goes on", func() bool { return h.metric("sessions_resumed_total") == 1 })
				k.Run(nil, "C: where\nS: b1")
				if h.metric("sessions_handed_off_total") != 0 || h.metric("sessions_resumed_total") != 1 {
					t.Error("it is counted wrongly")
				}
			}
			second.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
			want := 2.0
			if c.goesOn {
				want = 1
			}
			h.until("it is counted", func() bool { return h.notCarried("unproven") == want })
		})
	}
}

// After a restart all sessions come; so many at a time.
func TestHerd(t *testing.T) {
	h := newHouse(t)
	b1, b2 := carriers(h)
	h.cfg.ResumeConcurrency, h.cfg.MaxUnauthenticatedPerAddress = 4, 1000
	var at underWay
	b2.onResume(func(_ wire.Hello, s *frames.Stream) {
		leave := at.enter()
		state := s.State()
		_ = s.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		_ = s.WaitRead()
		_ = s.SetReadDeadline(time.Now().Add(proxytest.Patience))
		leave()
		if s.Welcome(wire.Welcome{Status: wire.StatusOK}) == nil {
			b2.engine(s, state)
		}
	})
	h.start()
	var all []*proxytest.Client
	for range 60 {
		k := h.pop3()
		k.Run(nil, "C: where\nS: b1")
		all = append(all, k)
	}
	h.dir.set(alice, busy("b1", "b2", 2))
	b1.letGo()
	h.parkedNow(len(all))
	h.dir.set(alice, active("b2", 3))
	for _, k := range all {
		k.Run(nil, "C: where\nS: b2")
	}
	if n := at.most.Load(); n > 4 || n < 2 {
		t.Errorf("%d resumes at the same time", n)
	}
}

// A connection from before a crash may be dead as well, and is not resumed on.
func TestConnectionFromBefore(t *testing.T) {
	h, b := homely(t)
	h.start()
	h.imap()
	get := func(after time.Time) *frames.Client {
		t.Helper()
		c, err := h.server.links.get(t.Context(), "b1", b.ln.Addr().String(), after)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old, crash := get(time.Time{}), time.Now()
	fresh := get(crash)
	if fresh == old || get(crash) != fresh || get(crash.Add(-time.Hour)) == nil {
		t.Error("a connection from before was given, or more than one made")
	}
}

func TestPacing(t *testing.T) {
	p := newPacing(2)
	first, err := p.enter(t.Context(), "b1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.enter(t.Context(), "b1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.enter(ctx, "b1"); !errors.Is(err, context.Canceled) {
		t.Errorf("a third: %v", err)
	}
	if leave, err := p.enter(t.Context(), "b2"); err != nil {
		t.Error(err)
	} else {
		leave(true)
	}
	var waits sync.WaitGroup
	waits.Go(func() {
		if _, err := p.enter(t.Context(), "b1"); !errors.Is(err, errSilent) {
			t.Errorf("behind one that was not answered: %v", err)
		}
	})
	first(false)
	waits.Wait()
	second(true)
	if leave, err := p.enter(t.Context(), "b1"); err != nil {
		t.Errorf("behind one that was answered: %v", err)
	} else {
		leave(true)
	}
}

// Every reason that a backend can give has its series from the beginning.
func TestReasons(t *testing.T) {
	h, _ := homely(t)
	h.start()
	families, err := h.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if f.GetName() == "waypost_proxy_sessions_not_carried_total" {
			n = len(f.GetMetric())
		}
	}
	if n != len(carryReasons) || carryReason(handoff.Lost) != handoff.Lost || carryReason("x") != reasonOther {
		t.Errorf("%d series", n)
	}
}
