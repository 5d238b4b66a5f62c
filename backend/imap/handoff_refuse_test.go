package imap

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/imap/carried"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
	"waypost/internal/handoff"
)

// changedState gives a state with something else in it.
func changedState(t testing.TB, state []byte, change func(*carried.State)) []byte {
	t.Helper()
	id, body, err := handoff.Open(state, protocol)
	must(t, err)
	st, err := carried.Decode(body)
	must(t, err)
	change(st)
	return handoff.Seal(id, protocol, carried.Encode(st))
}

// TestHandOffRefused: for each reason a session that cannot be proven to be what the client saw is
// not resumed, nothing is sent, and the connection stays.
func TestHandOffRefused(t *testing.T) {
	sel := func(change func(*carried.Selected)) func(*carried.State) {
		return func(s *carried.State) { change(s.Selected) }
	}
	for _, x := range []struct {
		name      string
		folder    string
		meanwhile func(t *testing.T, w world, b mailbox.Box)
		change    func(*carried.State)
		want      handoff.Reason
	}{
		{"folder gone", "Else", func(t *testing.T, _ world, b mailbox.Box) { must(t, b.DeleteFolder("Else")) }, nil, handoff.Folder},
		{"folder made anew", "Else", func(t *testing.T, _ world, b mailbox.Box) {
			must(t, b.DeleteFolder("Else"), b.CreateFolder("Else", ""))
		}, nil, handoff.Identity},
		{"numbered anew", "INBOX", nil, sel(func(s *carried.Selected) { s.UIDValidity++ }), handoff.Identity},
		{"another user's", "INBOX", nil, func(s *carried.State) { s.User = "bob@example.test" }, handoff.Identity},
		{"turned up", "INBOX", nil, sel(func(s *carried.Selected) { s.Told = []mailbox.UIDRange{{First: 1, Last: 2}, {First: 4, Last: 5}} }), handoff.Identity},
		{"UIDNEXT fell", "INBOX", nil, sel(func(s *carried.Selected) { s.UIDNext++ }), handoff.Rewound},
		{"HIGHESTMODSEQ fell", "INBOX", nil, sel(func(s *carried.Selected) { s.Highest++ }), handoff.Rewound},
		{"synced fell", "INBOX", nil, sel(func(s *carried.Selected) { s.Synced++ }), handoff.Rewound},
		{"never was", "INBOX", nil, sel(func(s *carried.Selected) { s.Told[0].Last = 9 }), handoff.UnknownMessages},
		{"not known to be gone", "INBOX", func(t *testing.T, _ world, b mailbox.Box) { expunge(t, b, "INBOX", 2) }, sel(func(s *carried.Selected) { s.Highest, s.Synced = s.Highest+1, s.Synced+1 }), handoff.UnknownMessages},
		{"too many are gone", "INBOX", nil, sel(func(s *carried.Selected) { s.Told[0].Last = 1 << 31 }), handoff.TooBig},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newMemoryWorld(t)
			five(t, w)
			tr := travel(t, w, Limits{})
			tr.ok("SELECT %s", x.folder)
			w.freeze()
			state := tr.state()
			w.move()
			b := w.box()
			defer b.Close()
			if x.meanwhile != nil {
				x.meanwhile(t, w, b)
			}
			changed := state
			if x.change != nil {
				changed = changedState(t, state, x.change)
			}
			if got, _ := handoff.ReasonOf(tr.begin(changed)); got != x.want {
				t.Fatalf("%q, want %q", got, x.want)
			}
			if x.change == nil {
				return
			}
			must(t, tr.begin(state)) // the connection is as it was
			tr.ok("NOOP")
		})
	}
}

func TestHandOffUnknownVersion(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	w.freeze()
	state := tr.state()
	w.move()
	for name, bad := range map[string][]byte{
		"empty": {}, "damaged": append(state[:len(state)-1:len(state)-1], state[len(state)-1]^1), "another protocol": handoff.Seal(handoff.NewID(), "pop3", nil),
		"newer": handoff.Seal(handoff.NewID(), protocol, []byte{255}), "short": handoff.Seal(handoff.NewID(), protocol, []byte{1}),
	} {
		if got, _ := handoff.ReasonOf(tr.begin(bad)); got != handoff.Version {
			t.Errorf("%s: %q", name, got)
		}
	}
	must(t, tr.srv.Shutdown(t.Context()))
	if err := tr.begin(state); err == nil || strings.Contains(err.Error(), "not carried") {
		t.Errorf("after Shutdown: %v", err)
	}
	tr.srv = newServer(t, Limits{})
	must(t, tr.begin(state))
	tr.ok("NOOP")
}

// A mailbox that cannot be read at the moment is no reason for good.
func TestHandOffTemporary(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	tr.ok("SELECT INBOX")
	w.freeze()
	state := tr.state()
	w.move()
	s := w.(*memoryWorld).s
	s.Fail(ann, fmt.Errorf("disk: %w", mailbox.ErrNoSpace))
	b := memoryBox(t, s)
	ctx := context.Background()
	_, err := tr.srv.Begin(ctx, newLeg(tr.nc), Session{Box: b, Store: s, State: state})
	if _, ok := handoff.ReasonOf(err); err == nil || ok {
		t.Errorf("%v", err)
	}
	s.Fail(ann, nil)
	must(t, tr.begin(state))
	tr.ok("FETCH 1:* UID")
}

// memoryBox opens a box although its store fails.
func memoryBox(t testing.TB, s *memory.Store) mailbox.Box {
	t.Helper()
	s.Fail(ann, nil)
	b, err := s.Open(context.Background(), ann, "b1", director.Epoch(2))
	must(t, err)
	s.Fail(ann, fmt.Errorf("disk: %w", mailbox.ErrNoSpace))
	return b
}

// stayed gives the metric.
func stayed(t testing.TB, s *Server, r handoff.Reason) (n float64) {
	t.Helper()
	families, err := s.opt.Metrics.(prometheus.Gatherer).Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "waypost_imap_sessions_not_handed_off_total" && m.GetLabel()[0].GetValue() == string(r) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// A command of which too much has come for a state ends the session; its end is not that of a client
// that hung up.
func TestHandOffTooBig(t *testing.T) {
	for name, open := range longAppends() {
		t.Run(name, func(t *testing.T) {
			w := newMemoryWorld(t)
			tr := travel(t, w, Limits{})
			open(tr)
			tr.isSending(t, 1)
			w.freeze()
			tr.bye("moving")
			if err := tr.ended(); err != nil {
				t.Error(err)
			}
			if n := stayed(t, tr.srv, handoff.TooBig); n != 1 {
				t.Errorf("counted %v", n)
			}
			if n := tr.srv.recorded.Load(); n != 0 {
				t.Errorf("%d bytes are still recorded", n)
			}
			tr.isSending(t, 0)
		})
	}
}

// rest is what longAppends leaves to be sent.
const rest = 1000

// longAppends begin a command, with more in it than is recorded.
func longAppends() map[string]func(*traveller) {
	part := strings.Repeat("x", maxRecord+1)
	return map[string]func(*traveller){
		"with leave": func(tr *traveller) {
			tr.send("a APPEND INBOX {%d}\r\n", len(part)+rest)
			tr.next("+ OK")
			tr.send("%s", part)
		},
		"without leave": func(tr *traveller) { tr.send("a APPEND INBOX {%d+}\r\n%s", len(part)+rest, part) },
		"by and by": func(tr *traveller) {
			third := part[:maxRecord/3+1]
			tr.send("a APPEND INBOX {%d+}\r\n%s {%d+}\r\n%s {%d}\r\n", len(third), third, len(third), third, len(third)+rest)
			tr.next("+ OK")
			tr.send("%s", third)
		},
	}
}

// isSending waits until so many sessions are known to be in a command that cannot be carried, and
// all that was sent was read.
func (tr *traveller) isSending(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(timeout); ; {
		sessions, bytes := tr.srv.Sending(ann)
		if sessions == n && (n == 0 || bytes == rest) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d sessions, %d bytes", sessions, bytes)
		}
		runtime.Gosched()
	}
}

// Of a long literal so much may come as is recorded: then the session goes on elsewhere in the middle
// of it, and what comes behind is read there only.
func TestHandOffLongLiteral(t *testing.T) {
	const size, first = 8 << 20, 1 << 20
	text := "Subject: long\r\n\r\n" + strings.Repeat("0123456789abcdef", size/16)
	for _, sync := range []string{"", "+"} {
		t.Run("{n"+sync+"}", func(t *testing.T) {
			worlds(t, func(t *testing.T, w world) {
				tr := travel(t, w, Limits{})
				tr.send("a APPEND INBOX {%d%s}\r\n", len(text), sync)
				if sync == "" {
					tr.next("+ OK")
				}
				tr.send("%s", text[:first])
				w.freeze()
				state := tr.state()
				if n := tr.leg.in.Load(); n > first+100 || tr.srv.recorded.Load() != 0 {
					t.Errorf("%d bytes were read, %d recorded", n, tr.srv.recorded.Load())
				}
				w.move()
				tr.arrive(state, nil)
				tr.send("%s\r\n", text[first:])
				if got, st := tr.until("a"); !strings.HasPrefix(st, "OK [APPENDUID ") || len(got) > 0 {
					t.Errorf("%q %s", got, st)
				}
				tr.told("STATUS INBOX (MESSAGES SIZE)", "OK", fmt.Sprintf("* STATUS INBOX (MESSAGES 1 SIZE %d)", len(text)))
			})
		})
	}
}

// A place that stops reads such a command to its end, and hands off the session behind it; one that is
// not at its end in time, ends.
func TestHandOffStopping(t *testing.T) {
	for name, open := range longAppends() {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t, Limits{})
			var stops atomic.Bool
			srv.opt.Stops = stops.Load
			w := newMemoryWorld(t)
			tr := travelOn(t, w, srv, t.Cleanup)
			done := make(chan struct{})
			tr.beginStopping(t, done)
			open(tr)
			tr.isSending(t, 1)
			stops.Store(true)
			close(done)
			tr.endIs(t, endStopping)
			tr.send("%s\r\n", strings.Repeat("y", rest))
			if got, st := tr.until("a"); !strings.HasPrefix(st, "OK [APPENDUID ") || len(got) > 0 {
				t.Errorf("%q %s", got, st)
			}
			state := tr.state()
			tr.wrap = nil
			stops.Store(false)
			tr.arrive(state, nil)
			want := 1
			if name == "by and by" {
				want = 3
			}
			tr.told("STATUS INBOX (MESSAGES)", "OK", fmt.Sprintf("* STATUS INBOX (MESSAGES %d)", want))
			if n := stayed(t, srv, handoff.TooBig); n != 0 {
				t.Errorf("counted %v", n)
			}
		})
	}
	for name, end := range map[string]func(*traveller){
		"in time": func(*traveller) {}, "kicked": func(tr *traveller) { tr.cancel(handoff.ErrKicked) },
	} {
		t.Run("not at its end, "+name, func(t *testing.T) {
			limits := Limits{}
			if name == "in time" {
				limits.Grace = 300 * time.Millisecond
			}
			srv := newServer(t, limits)
			srv.opt.Stops = func() bool { return true }
			tr := travelOn(t, newMemoryWorld(t), srv, t.Cleanup)
			done := make(chan struct{})
			tr.beginStopping(t, done)
			longAppends()["without leave"](tr)
			tr.isSending(t, 1)
			close(done)
			tr.endIs(t, endStopping)
			end(tr)
			tr.bye("shutting down")
			if n := stayed(t, srv, handoff.TooBig); n != 1 {
				t.Errorf("counted %v", n)
			}
		})
	}
}

// doneBox is Done by itself, as that of a place that stops.
type doneBox struct {
	mailbox.Box
	done <-chan struct{}
}

func (b doneBox) Done() <-chan struct{} { return b.done }

// beginStopping has the session go on where its box is Done by a channel.
func (tr *traveller) beginStopping(t *testing.T, done <-chan struct{}) {
	t.Helper()
	tr.cancel(nil)
	state := tr.state()
	tr.wrap = func(b mailbox.Box) mailbox.Box { return doneBox{b, done} }
	tr.arrive(state, nil)
}

// endIs waits until the session knows why it is to end.
func (tr *traveller) endIs(t *testing.T, why ending) {
	t.Helper()
	for end := time.Now().Add(timeout); tr.running.session.c.ending() != why; {
		if time.Now().After(end) {
			t.Fatalf("the end is %v", tr.running.session.c.ending())
		}
		runtime.Gosched()
	}
}

// A client that does not read is not carried.
func TestHandOffSlowClient(t *testing.T) {
	w := newMemoryWorld(t)
	b := w.box()
	put(t, w, b, "INBOX", strings.Repeat("A line of a large message.\r\n", 400_000))
	b.Close()
	tr := travel(t, w, Limits{Write: 300 * time.Millisecond})
	must(t, tr.counted.Conn.(*net.TCPConn).SetReadBuffer(4096))
	tr.ok("SELECT INBOX")
	tr.send("a FETCH 1 BODY.PEEK[]\r\n")
	if _, err := tr.br.Peek(1); err != nil {
		t.Fatal(err)
	}
	w.freeze()
	if err := tr.ended(); err != nil {
		t.Error(err)
	}
	if n := stayed(t, tr.srv, handoff.SlowClient); n != 1 || len(tr.leg.handed) != 0 {
		t.Errorf("counted %v, handed off %d", n, len(tr.leg.handed))
	}
}

// An operator's kick ends the session, and so does a fence over a connection whose other end
// takes no hand-offs.
func TestNotHandedOff(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	tr.cancel(handoff.ErrKicked)
	tr.bye("was ended")

	tr = travel(t, w, Limits{})
	tr.cancel(nil)
	if tr.state() == nil {
		t.Error("not handed off")
	}

	c, s := loopback(t)
	l := newLeg(s)
	l.refuses = true
	b := w.box()
	defer b.Close()
	old := newRaw(t, c, nil)
	done := make(chan error, 1)
	old.done = done
	srv := newServer(t, Limits{})
	go func() { done <- srv.Serve(context.Background(), l, Session{Box: b, Store: w.store()}) }()
	old.line()
	w.freeze()
	old.bye("moving")
	if err := old.ended(); err != nil {
		t.Error(err)
	}
}
