package imap

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/carried"
	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// NOTIFY goes on: what happened meanwhile is told, in the selected folder and in others, and
// nothing else.
func TestHandOffNotify(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		five(t, w)
		b := w.box()
		must(t, b.CreateFolder("Quiet", ""), b.CreateFolder("Old", ""))
		about := "about it"
		must(t, b.SetMetadata("Else", map[string]*string{"/private/comment": &about}))
		must(t, b.SetMetadata("Quiet", map[string]*string{"/private/comment": &about}))
		b.Close()
		tr := travel(t, w, Limits{})
		tr.ok("ENABLE METADATA")
		tr.ok("SELECT INBOX")
		tr.ok("NOTIFY SET (selected-delayed (MessageNew (UID BODY.PEEK[HEADER.FIELDS (To)]) MessageExpunge FlagChange))" +
			" (personal (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange))")
		tr.hop(func(b mailbox.Box) {
			somebody(t, w)(b)
			put(t, w, b, "Else", letter)
			other := "about something else"
			must(t, b.CreateFolder("Made", ""), b.DeleteFolder("Old"), b.Subscribe("Quiet", true), b.SetMetadata("Else", map[string]*string{"/private/comment": &other}))
		})
		want := []string{
			"* 6 EXISTS", `* 2 FETCH (UID 2 FLAGS (\Flagged))`, "* 6 FETCH (UID 6 BODY[HEADER.FIELDS (To)] {24}To: bob@example.test\r\n\r\n)",
			`* LIST (\HasNoChildren) "/" Made`, `* LIST (\NonExistent \Noselect) "/" Old`, `* LIST (\Subscribed \HasNoChildren) "/" Quiet`,
			"* METADATA Else /private/comment",
		}
		for len(want) > 0 {
			l := notRecent(tr.line())
			if strings.HasSuffix(l, "RECENT") {
				continue
			}
			if strings.HasPrefix(l, "* STATUS Else (UIDVALIDITY") && strings.Contains(l, "MESSAGES 2 UNSEEN 2") {
				want = append(want, l)
			}
			i := slices.Index(want, l)
			if i < 0 {
				t.Fatalf("%q, want one of %q", l, want)
			}
			want = slices.Delete(want, i, i+1)
		}
		// Nothing of it is told again.
		tr.hop(nil)
		b = w.box()
		put(t, w, b, "Made", letter)
		b.Close()
		for {
			l := tr.line()
			if strings.HasPrefix(l, "* STATUS Made") && strings.Contains(l, "MESSAGES 1") {
				break
			}
			if !strings.HasPrefix(l, "* STATUS ") { // of folders of which nothing had been told: they may have changed
				t.Fatalf("%q", l)
			}
		}
		tr.told("NOOP", "OK", "* 4 EXPUNGE", "* 1 EXPUNGE")
	})
}

// A message of which the data items were not told yet is told of elsewhere.
func TestHandOffUnfetched(t *testing.T) {
	w := newMemoryWorld(t)
	five(t, w)
	tr := travel(t, w, Limits{})
	tr.ok("SELECT INBOX")
	tr.ok("NOTIFY SET (selected (MessageNew (UID RFC822.SIZE) MessageExpunge FlagChange))")
	w.freeze()
	state := changedState(t, tr.state(), func(s *carried.State) { s.Selected.Unfetched = []mailbox.UIDRange{{First: 4, Last: 5}} })
	w.move()
	tr.arrive(state, nil)
	tr.next(fmt.Sprintf("* 4 FETCH (UID 4 RFC822.SIZE %d)", len(letter)), fmt.Sprintf("* 5 FETCH (UID 5 RFC822.SIZE %d)", len(letter)))
}

// What NOTIFY asked for and is not understood here is over, and the client is told so.
func TestHandOffNotifyUnknown(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	tr.ok("NOTIFY SET (selected (MessageNew (UID) MessageExpunge))")
	w.freeze()
	state := changedState(t, tr.state(), func(s *carried.State) { s.Notify.Fetch = "(BODY[)" })
	w.move()
	tr.arrive(state, nil)
	tr.next("* OK [NOTIFICATIONOVERFLOW] too much to notify of")
	tr.ok("NOOP")
}

// A message that is under way is sent to its end from where it was opened; the rest of the FETCH is
// done elsewhere, once.
func TestHandOffInLiteral(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		b := w.box()
		texts := []string{strings.Repeat("The first one.\r\n", 300_000), letter, strings.Repeat("The last one.\r\n", 20_000)}
		put(t, w, b, "INBOX", texts...)
		b.Close()
		tr := travel(t, w, Limits{})
		tr.ok("SELECT INBOX")
		on := tr.follow(t)
		tr.send("a FETCH 1:* BODY[]\r\nb NOOP\r\n")
		if _, err := tr.br.Peek(1); err != nil {
			t.Fatal(err)
		}
		w.freeze()
		got, st := tr.until("a")
		if !strings.HasPrefix(st, "OK") {
			t.Error(st)
		}
		if !<-on {
			t.Fatal("not handed off")
		}
		got = slices.DeleteFunc(withoutRecent(got), func(l string) bool { return !strings.Contains(l, "BODY") })
		for i, l := range got {
			want := fmt.Sprintf(`* %d FETCH (BODY[] {%d}%s FLAGS (\Seen))`, i+1, len(texts[i]), texts[i])
			if l != want {
				t.Errorf("message %d: %.60q…%q", i+1, l, l[max(len(l)-60, 0):])
			}
		}
		if len(got) != len(texts) {
			t.Errorf("%d answers", len(got))
		}
		tr.until("b")
		tr.told("FETCH 1:* FLAGS", "OK", `* 1 FETCH (FLAGS (\Seen))`, `* 2 FETCH (FLAGS (\Seen))`, `* 3 FETCH (FLAGS (\Seen))`)
	})
}

// A stopping server hands off, too: idle sessions and those in a command.
func TestHandOffShutdown(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		five(t, w)
		tr := travel(t, w, Limits{})
		tr.ok("SELECT INBOX")
		tr.send("i IDLE\r\n")
		tr.next("+ idling")
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		must(t, tr.srv.Shutdown(ctx))
		state := tr.state()
		tr.srv = newServer(t, Limits{})
		tr.arrive(state, somebody(t, w))
		tr.heard(somebodysNews()...)
		tr.send("DONE\r\n")
		tr.heard("i OK IDLE completed")
	})
}

// A session that has begun may be given up before it runs.
func TestHandOffAbandon(t *testing.T) {
	w := newMemoryWorld(t)
	five(t, w)
	tr := travel(t, w, Limits{})
	tr.ok("SELECT INBOX")
	tr.send("a NOOP")
	w.freeze()
	state := tr.state()
	w.move()
	b := w.box()
	defer b.Close()
	l := newLeg(tr.nc)
	r, err := tr.srv.Begin(context.Background(), l, Session{Box: b, Store: w.store(), State: state})
	must(t, err)
	r.Abandon()
	if l.out.Load() != 0 || l.in.Load() != 0 {
		t.Error("something was said")
	}
	tr.arrive(state, nil)
	tr.send("\r\n")
	if got, st := tr.until("a"); !strings.HasPrefix(st, "OK") || len(got) > 0 {
		t.Errorf("%q %s", got, st)
	}
}

// The compression is the connection's; that it is on goes along.
func TestHandOffCompressed(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	w.freeze()
	state := changedState(t, tr.state(), func(s *carried.State) { s.Deflate = true })
	w.move()
	tr.arrive(state, nil)
	if _, st := tr.cmd("COMPRESS DEFLATE"); !strings.HasPrefix(st, "NO [COMPRESSIONACTIVE]") {
		t.Error(st)
	}
	if got := tr.ok("CAPABILITY"); strings.Contains(got[0], "COMPRESS") {
		t.Error(got)
	}
}

// The idle timer runs on.
func TestHandOffIdleTimer(t *testing.T) {
	w := newMemoryWorld(t)
	for _, idle := range []bool{false, true} {
		tr := travel(t, w, Limits{Idle: time.Hour})
		if idle {
			tr.send("i IDLE\r\n")
			tr.next("+ idling")
		}
		w.freeze()
		state := changedState(t, tr.state(), func(s *carried.State) { s.Waited = time.Hour - time.Minute })
		w.move()
		tr.arrive(state, nil)
		w.freeze()
		again := tr.state()
		w.move()
		changedState(t, again, func(s *carried.State) {
			if s.Waited < time.Hour-time.Minute || s.Waited > time.Hour {
				t.Errorf("idle %v: waited %v", idle, s.Waited)
			}
		})
		tr.arrive(again, nil)
		if idle {
			tr.send("DONE\r\n")
			tr.until("i")
		}
		tr.ok("NOOP")
		tr.hopTo(func(s *carried.State) {
			if s.Waited > time.Minute {
				t.Errorf("idle %v: waited %v behind a command", idle, s.Waited)
			}
		})
	}
}

// hopTo is hop with a look at the state.
func (tr *traveller) hopTo(look func(*carried.State)) {
	tr.t.Helper()
	tr.w.freeze()
	state := tr.state()
	tr.w.move()
	_, body, err := handoff.Open(state, protocol)
	if err == nil {
		var st *carried.State
		if st, err = carried.Decode(body); err == nil {
			look(st)
		}
	}
	if err != nil {
		tr.t.Fatalf("%v", err)
	}
	tr.arrive(state, nil)
}

// A folder that another session has renamed is found by its MAILBOXID.
func TestHandOffRenamed(t *testing.T) {
	w := newMemoryWorld(t)
	five(t, w)
	tr := travel(t, w, Limits{})
	tr.ok("SELECT Else")
	tr.hop(func(b mailbox.Box) {
		must(t, b.RenameFolder("Else", "Elsewhere"), b.CreateFolder("Else", ""))
		put(t, w, b, "Elsewhere", letter)
	})
	tr.told("NOOP", "OK", "* 2 EXISTS")
}

// crash ends the session's place without a word.
func (tr *traveller) crash() {
	tr.t.Helper()
	tr.leg.dead.Store(true)
	tr.cancel(handoff.ErrKicked)
	if err := tr.ended(); err != nil {
		tr.t.Fatalf("%v", err)
	}
}

// A session at rest has a checkpoint from which it goes on, at the bytes that it stands for, and no
// other as long as nothing changes.
func TestCheckpoint(t *testing.T) {
	for _, idle := range []bool{false, true} {
		w := newMemoryWorld(t)
		five(t, w)
		tr := travel(t, w, Limits{})
		tr.ok("SELECT INBOX")
		tr.ok("STORE 3 +FLAGS (\\Seen)")
		if idle {
			tr.send("i IDLE\r\n")
			tr.next("+ idling")
		}
		p := tr.checkpoint(t)
		if idle {
			// News are told, and are in the next one.
			b := w.box()
			setFlags(t, b, "INBOX", 5, mailbox.Flagged)
			b.Close()
			tr.heard(`* 5 FETCH (UID 5 FLAGS (\Flagged))`)
			was := p
			if p = tr.checkpoint(t); p.written <= was.written || p.read != was.read {
				t.Errorf("%d %d behind %d %d", p.read, p.written, was.read, was.written)
			}
		}
		if in, out := tr.leg.in.Load(), tr.leg.out.Load(); p.read != uint64(in) || p.written != uint64(out) {
			t.Errorf("checkpoint at %d, %d; the connection is at %d, %d", p.read, p.written, in, out)
		}
		tr.crash()
		w.move()
		tr.arrive(p.state, func(b mailbox.Box) { expunge(t, b, "INBOX", 1) })
		if idle {
			tr.heard("* 1 EXPUNGE")
			tr.send("DONE\r\n")
			tr.heard("i OK IDLE completed")
		} else {
			tr.told("NOOP", "OK", "* 1 EXPUNGE")
		}
		tr.told("FETCH 2 FLAGS", "OK", `* 2 FETCH (FLAGS (\Seen))`)
	}
}

// checkpoint waits for one.
func (tr *traveller) checkpoint(t *testing.T) point {
	t.Helper()
	for end := time.Now().Add(timeout); ; {
		p, n := tr.leg.known()
		if n > 0 && p.read == uint64(tr.leg.in.Load()) && p.written == uint64(tr.leg.out.Load()) {
			return p
		}
		if time.Now().After(end) {
			t.Fatal("no checkpoint")
		}
		runtime.Gosched()
	}
}

// Sessions that have not changed are not looked at, and nobody waits for one that has ended.
func TestCheckpointsCostNothing(t *testing.T) {
	w := newMemoryWorld(t)
	tr := travel(t, w, Limits{})
	tr.ok("NOOP")
	c := &tr.srv.checkpoints
	tr.checkpoint(t)
	idle := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.waiting) == 0 && c.timer == nil
	}
	for end := time.Now().Add(timeout); !idle(); {
		if time.Now().After(end) {
			t.Fatal("the timer still runs")
		}
	}
	tr.cmd("LOGOUT")
	must(t, tr.ended())
	if !idle() {
		t.Error("the timer runs for nobody")
	}
}

// A session that waits keeps nothing of its last command.
func TestIdleKeepsNoCommand(t *testing.T) {
	w := newMemoryWorld(t)
	five(t, w)
	tr := travel(t, w, Limits{})
	long := strings.Repeat("x", 30_000)
	tr.cmd("SEARCH SUBJECT {%d+}\r\n%s SUBJECT \"%s\"", len(long), long, long)
	tr.send("a APPEND INBOX {%d+}\r\n%s", 2*len(long), long)
	tr.send("%s\r\n", long)
	tr.until("a")
	tr.checkpoint(t) // so it rests
	s := tr.running.session
	s.c.rmu.Lock()
	defer s.c.rmu.Unlock()
	if !s.c.resting || len(s.c.in) > 0 || cap(s.c.begun) > len(s.c.first) || s.c.earlier != nil || s.c.store != nil || s.data.State != nil {
		t.Errorf("resting %v: %d %d %d bytes", s.c.resting, len(s.c.in), cap(s.c.begun), len(s.c.earlier))
	}
	if n := tr.srv.recorded.Load(); n != 0 {
		t.Errorf("%d bytes are recorded", n)
	}
}

// FuzzResume takes anything for a state: the session is refused, or it answers and ends.
func FuzzResume(f *testing.F) {
	w := newMemoryWorld(f)
	five(f, w)
	tr := travel(f, w, Limits{})
	tr.ok("ENABLE QRESYNC")
	for _, command := range []string{
		"NOOP", "SELECT INBOX", "SEARCH RETURN (SAVE) ALL", "NOTIFY SET (selected (MessageNew (UID) MessageExpunge)) (subtree Else (MessageNew MessageExpunge MailboxName))",
	} {
		tr.ok("%s", command)
		w.freeze()
		state := tr.state()
		w.move()
		_, body, err := handoff.Open(state, protocol)
		must(f, err)
		f.Add(body)
		must(f, tr.begin(state))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ends := cleanups{}
		defer ends.run()
		w := newMemoryWorld(t)
		five(t, w)
		tr := travelOn(t, w, newServer(t, Limits{}), ends.add)
		w.freeze()
		tr.state()
		w.move()
		if err := tr.begin(handoff.Seal(handoff.NewID(), protocol, body)); err != nil {
			if _, ok := handoff.ReasonOf(err); !ok {
				t.Errorf("%v", err)
			}
			return
		}
		_, _ = fmt.Fprint(tr.client.nc, "\r\nx NOOP\r\ny FETCH 1:* (UID FLAGS BODY.PEEK[HEADER])\r\nz LOGOUT\r\n")
		_ = tr.client.nc.(interface{ CloseWrite() error }).CloseWrite()
		must(t, tr.ended())
	})
}
