package proxy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/login"
	"waypost/internal/wire"
)

func active(home director.BackendID, epoch director.Epoch) director.Record {
	return director.Record{Home: home, Epoch: epoch, State: director.Active}
}

func busy(home, peer director.BackendID, epoch director.Epoch) director.Record {
	return director.Record{Home: home, Epoch: epoch, State: director.Busy, Peer: peer}
}

func TestIMAPSession(t *testing.T) {
	h := newHouse(t)
	b1 := h.add(newFakeBackend(t, "b1"))
	h.dir.set(alice, active("b1", 7))
	h.start()
	c := h.dial("imap")
	c.Run(nil, `
		S: * OK ...
		C- a LOGIN alice@example.test secret\r\nb SELECT INBOX\r\nc NO
		S: a OK [CAPABILITY IMAP4rev1 HOME=b1] Logged in.
		S: b SELECT INBOX
		C- OP\r\n
		S: c NOOP
		C: LOGOUT
		S: * BYE bye
		S: LOGOUT OK done
		END`)
	got := b1.said()
	if len(got) != 1 {
		t.Fatalf("%d hellos", len(got))
	}
	want := wire.Hello{Version: wire.Version, Protocol: "imap", User: string(alice), Home: "b1", Epoch: 7,
		Client: c.Conn.LocalAddr().String(), Session: got[0].Session, Try: 1}
	if got[0] != want || got[0].Session == "" {
		t.Fatalf("hello %+v, want %+v", got[0], want)
	}
	h.until("session ended", func() bool { return h.server.Sessions() == 0 })
	if n := h.metric("logins_total"); n != 1 {
		t.Errorf("%v logins counted", n)
	}
	if n := h.metric("bytes_total"); n < 40 {
		t.Errorf("%v bytes counted", n)
	}
}

func TestPOP3Session(t *testing.T) {
	h := newHouse(t)
	b1 := h.add(newFakeBackend(t, "b1"))
	h.dir.set(alice, active("b1", 1))
	h.start()
	h.dial("pop3").Run(nil, `
		S: +OK Waypost ready.
		C- USER Alice@example.test\r\nPASS secret\r\nSTAT\r\n
		S: +OK Send PASS.
		S: +OK Logged in.
		S: STAT
		C: QUIT
		S: +OK bye
		END`)
	if got := b1.said(); len(got) != 1 || got[0].Protocol != "pop3" || got[0].User != string(alice) {
		t.Fatalf("hellos %+v", got)
	}
}

// A login of a user that is being moved waits, and goes on at the new home.
func TestBusyThenFlip(t *testing.T) {
	h := newHouse(t)
	b1, b2 := h.add(newFakeBackend(t, "b1")), h.add(newFakeBackend(t, "b2"))
	h.dir.set(alice, busy("b1", "b2", 2))
	h.start()
	c := h.dial("imap")
	c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret")
	h.until("login held", func() bool { return h.metric("logins_held") == 1 })
	h.dir.set(alice, active("b2", 3))
	c.Expect("a OK [CAPABILITY IMAP4rev1 HOME=b2] Logged in.")
	if len(b1.said()) != 0 || len(b2.said()) != 1 {
		t.Fatalf("hellos %v and %v", b1.said(), b2.said())
	}
	if h.metric("logins_held") != 0 || h.metric("logins_held_total") != 1 {
		t.Error("held logins are counted wrongly")
	}
}

// The backend knows of the move before the proxy's memory does.
func TestBackendSaysBusy(t *testing.T) {
	h := newHouse(t)
	b1 := h.add(newFakeBackend(t, "b1"))
	h.add(newFakeBackend(t, "b2"))
	b1.answer(wire.StatusBusy)
	h.dir.set(alice, active("b1", 1))
	h.dir.store[alice] = busy("b1", "b2", 2)
	h.start()
	c := h.dial("pop3")
	c.Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret")
	h.until("login held", func() bool { return h.metric("logins_held") == 1 })
	h.dir.set(alice, active("b2", 3))
	c.Expect("+OK Logged in.")
	if n := len(b1.said()); n != 1 {
		t.Errorf("%d hellos at the old home", n)
	}
}

func TestStaleMemory(t *testing.T) {
	h := newHouse(t)
	b1 := h.add(newFakeBackend(t, "b1"))
	h.add(newFakeBackend(t, "b2"))
	b1.answer(wire.StatusStale)
	h.dir.set(alice, active("b1", 1))
	h.dir.store[alice] = active("b2", 3)
	h.start()
	h.imap().Run(nil, "C: x\nS: x")
	if h.metric("refused_twice_total") != 0 || h.metric("backend_refusals_total") != 1 {
		t.Error("refusals are counted wrongly")
	}
}

// R11: refused twice at the same (home, epoch), a login holds and does not loop.
// Only an answer that contradicts the directory is an alarm, once per login.
func TestRefusedTwice(t *testing.T) {
	for status, alarms := range map[wire.Status]float64{wire.StatusStale: 1, wire.StatusBusy: 1, wire.StatusRefused: 0} {
		t.Run(string(status), func(t *testing.T) {
			h := newHouse(t)
			b1 := h.add(newFakeBackend(t, "b1"))
			h.add(newFakeBackend(t, "b2"))
			b1.answer(status)
			h.dir.set(alice, active("b1", 1))
			h.start()
			c := h.dial("imap")
			c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret")
			h.until("held", func() bool { return h.metric("logins_held") == 1 })
			if n := len(b1.said()); n != 2 {
				t.Errorf("%d hellos, want 2", n)
			}
			h.until("another attempt", func() bool { return h.metric("backend_refusals_total") == 3 })
			if n := h.metric("refused_twice_total"); n != alarms {
				t.Errorf("%v alarms, want %v", n, alarms)
			}
			h.dir.set(alice, active("b2", 3))
			c.Expect("a OK [CAPABILITY IMAP4rev1 HOME=b2] Logged in.")
		})
	}
}

// I5: a home that recovers at the same epoch gets the login it refused, whether
// the store can be asked meanwhile or not.
func TestRefusedThenFine(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("store away %v", away), func(t *testing.T) {
			h := newHouse(t)
			b1 := h.add(newFakeBackend(t, "b1"))
			b1.answer(wire.StatusRefused)
			h.dir.set(alice, active("b1", 1))
			h.dir.away = away
			h.start()
			c := h.dial("imap")
			c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret")
			h.until("login held", func() bool { return h.metric("logins_held") == 1 })
			b1.answer(wire.StatusOK)
			c.Expect("a OK [CAPABILITY IMAP4rev1 HOME=b1] Logged in.")
			if h.metric("refused_twice_total") != 0 || h.metric("logins_held") != 0 {
				t.Error("alarms or held logins are counted wrongly")
			}
		})
	}
}

// A tombstone in a memory that is behind is not the end of a new user.
func TestTombstoneInMemoryOnly(t *testing.T) {
	h, _ := homely(t)
	h.dir.memory[alice] = director.Record{Home: "b2", Epoch: 1, State: director.Deleted}
	h.dir.store[alice] = active("b1", 2)
	h.start()
	h.imap()

	away, _ := homely(t)
	away.dir.memory[alice] = director.Record{Home: "b1", Epoch: 2, State: director.Deleted}
	away.dir.away = true
	away.start()
	away.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
}

func TestWaitIsBounded(t *testing.T) {
	for name, rec := range map[string]director.Record{"busy": busy("b1", "b2", 2), "stale": active("b1", 1)} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			b1 := h.add(newFakeBackend(t, "b1"))
			b1.answer(wire.StatusStale)
			h.cfg.LoginWait = 100 * time.Millisecond
			h.dir.set(alice, rec)
			h.start()
			c := h.dial("imap")
			c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
			// The connection is good for another try.
			b1.answer(wire.StatusOK)
			h.dir.set(alice, active("b1", 9))
			c.Run(nil, "C: b LOGIN alice@example.test secret\nS: b OK ...")
		})
	}
}

// Held work re-reads by itself: a lost watch event strands nobody.
func TestHoldRereads(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b2"))
	h.dir.set(alice, busy("b1", "b2", 2))
	h.dir.store[alice] = active("b2", 3) // and no event
	h.start()
	h.imap()
	if h.dir.fresh == 0 {
		t.Error("nothing was read")
	}
}

func TestDeadBackend(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1"))
	h.cfg.DeadWait = 50 * time.Millisecond
	var dialed atomic.Int64
	h.dials = func(context.Context, director.BackendID, string) (net.Conn, error) {
		dialed.Add(1)
		return nil, errDial
	}
	h.dir.set(alice, active("b1", 1))
	h.start()
	h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
	h.dial("pop3").Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR [SYS/TEMP] ...")
	if n := dialed.Load(); n < 4 {
		t.Errorf("dialed %d times for two logins", n)
	}
	if h.metric("backend_errors_total") != float64(dialed.Load()) {
		t.Error("errors are counted wrongly")
	}
}

func TestBackendComesBack(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1"))
	dial, failures := h.dials, atomic.Int64{}
	h.dials = func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error) {
		if failures.Add(1) <= 2 {
			return nil, errDial
		}
		return dial(ctx, id, addr)
	}
	h.dir.set(alice, active("b1", 1))
	h.start()
	h.imap()
}

// The wait for a dead backend ends when the user's home is another.
func TestDeadThenMoved(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1"))
	h.add(newFakeBackend(t, "b2"))
	dial, tried := h.dials, make(chan struct{}, 100)
	h.dials = func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error) {
		if id == "b1" {
			tried <- struct{}{}
			return nil, errDial
		}
		return dial(ctx, id, addr)
	}
	h.dir.set(alice, active("b1", 1))
	h.start()
	c := h.dial("imap")
	c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret")
	<-tried
	h.dir.set(alice, active("b2", 3))
	c.Expect("a OK [CAPABILITY IMAP4rev1 HOME=b2] Logged in.")
}

// A backend that accepts and says nothing, or nonsense, is dead too.
func TestBackendTalksNonsense(t *testing.T) {
	for name, play := range map[string]func(wire.Hello, net.Conn, *bufio.Reader){
		"closes":       func(wire.Hello, net.Conn, *bufio.Reader) {},
		"no PREAUTH":   func(_ wire.Hello, c net.Conn, _ *bufio.Reader) { fmt.Fprint(c, "* OK hello\r\n") },
		"BYE":          func(_ wire.Hello, c net.Conn, _ *bufio.Reader) { fmt.Fprint(c, "* BYE no\r\n") },
		"endless":      func(_ wire.Hello, c net.Conn, _ *bufio.Reader) { fmt.Fprint(c, strings.Repeat("x", 20000)) },
		"says nothing": func(_ wire.Hello, _ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.add(newFakeBackend(t, "b1")).play = play
			h.cfg.DeadWait, h.cfg.OpenTimeout = 20*time.Millisecond, 50*time.Millisecond
			h.dir.set(alice, active("b1", 1))
			h.start()
			h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
		})
	}
}

func TestInUse(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1")).answer(wire.StatusInUse)
	h.dir.set(alice, active("b1", 1))
	h.start()
	h.dial("pop3").Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR [IN-USE] ...")
}

// Nobody is ever sent to a home that no record names.
func TestNoHome(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(d *fakeDirectory)
		want string
	}{
		{"no record", func(*fakeDirectory) {}, "[AUTHENTICATIONFAILED]"},
		{"deleted", func(d *fakeDirectory) {
			d.set(alice, director.Record{Home: "b1", Epoch: 2, State: director.Deleted})
		}, "[AUTHENTICATIONFAILED]"},
		{"directory away", func(d *fakeDirectory) { d.away = true }, "[UNAVAILABLE]"},
		{"unknown backend", func(d *fakeDirectory) { d.set(alice, active("b9", 1)) }, "[UNAVAILABLE]"},
		{"unknown kind", func(d *fakeDirectory) {
			d.backends["b9"] = director.Backend{Kind: "cyrus"}
			d.set(alice, active("b9", 1))
		}, "[UNAVAILABLE]"},
		{"dovecot without settings", func(d *fakeDirectory) {
			d.backends["b9"] = director.Backend{Kind: director.KindDovecot}
			d.set(alice, active("b9", 1))
		}, "[UNAVAILABLE]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			b1 := h.add(newFakeBackend(t, "b1"))
			h.cfg.DeadWait = 10 * time.Millisecond
			c.set(h.dir)
			h.start()
			h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO "+c.want+" ...")
			if len(b1.said()) != 0 {
				t.Error("a backend was asked")
			}
		})
	}
}

func TestGuardRefuses(t *testing.T) {
	for _, c := range []struct {
		err        error
		imap, pop3 string
	}{
		{login.ErrBadCredentials, "[AUTHENTICATIONFAILED]", "[AUTH]"},
		{login.ErrDisabled, "[CONTACTADMIN]", "[SYS/PERM]"},
		{login.ErrServiceDenied, "[CONTACTADMIN]", "[SYS/PERM]"},
		{login.ErrThrottled, "[LIMIT]", "[SYS/TEMP]"},
		{login.ErrUnavailable, "[UNAVAILABLE]", "[SYS/TEMP]"},
		{login.ErrOverloaded, "[UNAVAILABLE]", "[SYS/TEMP]"},
	} {
		h := newHouse(t)
		h.guard.err = fmt.Errorf("guard: %w", c.err)
		h.dir.set(alice, active("b1", 1))
		h.start()
		h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO "+c.imap+" ...")
		h.dial("pop3").Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR "+c.pop3+" ...")
	}
}

func TestActingAsAnother(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1"))
	h.dir.set(alice, active("b1", 1))
	h.start()
	// "bob\0alice@example.test\0secret"
	h.dial("imap").Run(nil, "S: * OK ...\nC: a AUTHENTICATE PLAIN Ym9iAGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=\nS: a NO [AUTHENTICATIONFAILED] ...")
}

func TestConnectionLimits(t *testing.T) {
	h := newHouse(t)
	h.add(newFakeBackend(t, "b1"))
	h.guard.limit = 1
	h.cfg.MaxUnauthenticatedPerAddress = 2
	h.dir.set(alice, active("b1", 1))
	h.start()
	in := h.imap() // a session is no stranger any more
	one := h.dial("imap")
	one.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [LIMIT] Too many connections.")
	two := h.dial("pop3")
	two.Expect("+OK Waypost ready.")
	h.dial("imap").Run(nil, "S: * BYE [UNAVAILABLE] Too many connections.\nEND")
	h.dial("pop3").Run(nil, "S: -ERR [SYS/TEMP] Too many connections.\nEND")
	if n := h.metric("connections_refused_total"); n != 2 {
		t.Errorf("%v turned away", n)
	}
	in.Conn.Close()
	h.until("the session is released", func() bool { h.guard.mu.Lock(); defer h.guard.mu.Unlock(); return h.guard.open == 0 })
	one.Run(nil, "C: b LOGIN alice@example.test secret\nS: b OK ...")
}
