package pop3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
)

const (
	m1 = "A: one\n\nfirst\n.dot\n..two\nlast\n" // 6 lines, 36 octets with CRLF
	m2 = "B: two\n\n"
	m3 = "C: three\n\nno end"
)

func TestTranscripts(t *testing.T) {
	tests := []struct {
		name   string
		script string
		end    error
		left   string
	}{
		{"listings", `
			C: STAT
			S: +OK 3 64
			C: LIST
			S: +OK 3 messages (64 octets)
			S: 1 36
			S: 2 10
			S: 3 18
			S: .
			C: list 2
			S: +OK 2 10
			C: UIDL 3
			S: +OK 3 ` + uid(3) + `
			C: UIDL
			S: +OK unique ids follow
			S: 1 ` + uid(1) + `
			S: 2 ` + uid(2) + `
			S: 3 ` + uid(3) + `
			S: .
			C: NOOP
			S: +OK
			C: CAPA
			S: +OK capabilities follow
			S: TOP
			S: UIDL
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: PIPELINING
			S: EXPIRE NEVER
			S: UTF8 USER
			S: LANG
			S: IMPLEMENTATION Waypost
			S: X-WAYPOST-LISTING 1
			S: SASL PLAIN
			S: .
			C: QUIT
			S: +OK bye
			EOF`, nil, "A: one B: two C: three"},
		{"RETR stuffs dots, ends the last line, sets Seen", `
			C: RETR 1
			S: +OK 36 octets
			S: A: one
			S:
			S: first
			S: ..dot
			S: ...two
			S: last
			S: .
			C: RETR 3
			S: +OK 18 octets
			S: C: three
			S:
			S: no end
			S: .
			C: RETR 3
			S: +OK 18 octets
			S: C: three
			S:
			S: no end
			S: .
			C: QUIT
			S: +OK bye
			EOF`, nil, "A: one* B: two C: three*"},
		{"TOP does not set Seen", `
			C: TOP 1 0
			S: +OK top of message follows
			S: A: one
			S:
			S: .
			C: TOP 1 2
			S: +OK top of message follows
			S: A: one
			S:
			S: first
			S: ..dot
			S: .
			C: TOP 3 99999999999
			S: +OK top of message follows
			S: C: three
			S:
			S: no end
			S: .
			C: TOP 2 5
			S: +OK top of message follows
			S: B: two
			S:
			S: .
			C: QUIT
			S: +OK bye`, nil, "A: one B: two C: three"},
		{"DELE, RSET, QUIT", `
			C: DELE 1
			S: +OK message 1 deleted
			C: DELE 1
			S: -ERR message 1 is deleted
			C: RETR 1
			S: -ERR message 1 is deleted
			C: TOP 1 1
			S: -ERR message 1 is deleted
			C: LIST 1
			S: -ERR message 1 is deleted
			C: UIDL 1
			S: -ERR message 1 is deleted
			C: STAT
			S: +OK 2 28
			C: LIST
			S: +OK 2 messages (28 octets)
			S: 2 10
			S: 3 18
			S: .
			C: RSET
			S: +OK 3 messages (64 octets)
			C: DELE 2
			S: +OK message 2 deleted
			C: UIDL
			S: +OK unique ids follow
			S: 1 ` + uid(1) + `
			S: 3 ` + uid(3) + `
			S: .
			C: QUIT
			S: +OK bye
			EOF`, nil, "A: one C: three"},
		{"errors", `
			C: RETR 0
			S: -ERR no such message
			C: RETR 4
			S: -ERR no such message
			C: RETR 99999999999999999999
			S: -ERR no such message
			C: RETR 999999999999999999999
			S: -ERR want a number
			C: RETR -1
			S: -ERR want a number
			C: RETR x
			S: -ERR want a number
			C: RETR
			S: -ERR wrong number of arguments
			C: RETR 1 2
			S: -ERR wrong number of arguments
			C: TOP 1
			S: -ERR wrong number of arguments
			C: STAT 1
			S: -ERR wrong number of arguments
			C: QUIT 1
			S: -ERR wrong number of arguments
			C: USER ann
			S: -ERR unknown command
			C"\r\n"
			S: -ERR not a command
			C"STAT\x00\r\n"
			S: -ERR not a command
			C: ` + strings.Repeat("x", 300) + `
			S: -ERR not a command
			C"STAT\n"
			S: +OK 3 64
			C: QUIT
			S: +OK bye`, nil, "A: one B: two C: three"},
		{"pipelined", `
			C: STAT
			C: DELE 2
			C: RETR 3
			C: NOOP
			C: QUIT
			C: RETR 1
			S: +OK 3 64
			S: +OK message 2 deleted
			S: +OK 18 octets
			S: C: three
			S:
			S: no end
			S: .
			S: +OK
			S: +OK bye`, nil, "A: one C: three*"},
		{"too many bad commands", strings.Repeat("C: HELO\n", maxBadCommands+1) +
			strings.Repeat("S: -ERR unknown command\n", maxBadCommands) + `
			S: -ERR too many bad commands
			EOF`, ErrAbuse, "A: one B: two C: three"},
		{"an endless line", "C: DELE 1\nC: " + strings.Repeat("x", 2*readBuffer) + "\nS: +OK message 1 deleted\nEOF", ErrAbuse,
			"A: one B: two C: three"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			box := open(t, drop(t, m1, m2, m3), 7)
			d := serve(t, Options{Capabilities: []string{"SASL PLAIN"}}, box)
			d.Play(tt.script)
			d.Conn.Close()
			if err := d.end(); !errors.Is(err, tt.end) || tt.end == nil && err != nil {
				t.Errorf("ended in %v, want %v", err, tt.end)
			}
			if got := inbox(t, box); got != tt.left {
				t.Errorf("left %q, want %q", got, tt.left)
			}
		})
	}
}

// TestNoQuitNoDeletion: only QUIT deletes, however else a session ends; what
// was retrieved is seen all the same.
func TestNoQuitNoDeletion(t *testing.T) {
	start := func(t *testing.T, opt Options) (*dialogue, mailbox.Box) {
		box := open(t, drop(t, m1, m2), 7)
		d := serve(t, opt, box)
		d.Play("C: DELE 1\nC: RETR 2\nS: +OK message 1 deleted\nS: +OK 10 octets\nS: B: two\nS:\nS: .\n")
		return d, box
	}
	check := func(t *testing.T, d *dialogue, box mailbox.Box, want error) {
		t.Helper()
		if err := d.end(); !errors.Is(err, want) {
			t.Errorf("ended in %v, want %v", err, want)
		}
		if got := inbox(t, box); got != "A: one B: two*" {
			t.Errorf("left %q", got)
		}
	}
	t.Run("hung up", func(t *testing.T) {
		d, box := start(t, Options{})
		d.Conn.Close()
		check(t, d, box, io.EOF)
	})
	t.Run("half a QUIT", func(t *testing.T) {
		d, box := start(t, Options{})
		d.Send("QUIT")
		d.Conn.Close()
		check(t, d, box, io.ErrUnexpectedEOF)
	})
	t.Run("idle", func(t *testing.T) {
		d, box := start(t, Options{Idle: 50 * time.Millisecond})
		d.Play("EOF") // RFC 1939, Section 3: without a response
		check(t, d, box, ErrIdle)
	})
	t.Run("stopped", func(t *testing.T) {
		d, box := start(t, Options{})
		d.cancel()
		d.Play("EOF")
		check(t, d, box, context.Canceled)
	})
}

// faulty lets single operations of a folder fail.
type faulty struct {
	mailbox.Box
	expunge, open, flags error
	body                 mailbox.Body
	before               func() // called in the first of Open and Expunge
	done                 chan struct{}
}

func (b *faulty) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &faultyFolder{f, b}, err
}

func (b *faulty) Done() <-chan struct{} {
	if b.done != nil {
		return b.done
	}
	return b.Box.Done()
}

type faultyFolder struct {
	mailbox.Folder
	b *faulty
}

func (f *faultyFolder) hook() {
	if f.b.before != nil {
		f.b.before()
		f.b.before = nil
	}
}

func (f *faultyFolder) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	f.hook()
	if f.b.expunge != nil {
		return nil, f.b.expunge
	}
	return f.Folder.Expunge(uids)
}

func (f *faultyFolder) Open(uid mailbox.UID) (mailbox.Body, error) {
	defer f.hook()
	if f.b.open != nil {
		return nil, f.b.open
	}
	if f.b.body != nil {
		return f.b.body, nil
	}
	return f.Folder.Open(uid)
}

func (f *faultyFolder) SetFlags(uids []mailbox.UID, c mailbox.FlagChange) (mailbox.FlagResult, error) {
	if f.b.flags != nil {
		return mailbox.FlagResult{}, f.b.flags
	}
	return f.Folder.SetFlags(uids, c)
}

var errDisk = errors.New("input/output error")

func TestStoreErrors(t *testing.T) {
	t.Run("RETR", func(t *testing.T) {
		d := serve(t, Options{}, &faulty{Box: open(t, drop(t, m1), 7), open: errDisk})
		d.Play("C: RETR 1\nC: QUIT\nS: -ERR [SYS/TEMP] internal error, try again later\nS: +OK bye\nEOF")
	})
	t.Run("a message removed by IMAP", func(t *testing.T) {
		box := open(t, drop(t, m1, m2), 7)
		d := serve(t, Options{}, box)
		d.Play("C: NOOP\nS: +OK\n")
		f, err := box.Folder(mailbox.Inbox)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Expunge([]mailbox.UID{1}); err != nil {
			t.Fatal(err)
		}
		d.Play(`
			C: RETR 1
			C: DELE 1
			C: DELE 2
			C: QUIT
			S: -ERR message was removed by another session
			S: +OK message 1 deleted
			S: +OK message 2 deleted
			S: +OK bye
			EOF`)
		if got := inbox(t, box); got != "" {
			t.Error(got)
		}
	})
	t.Run("a message that breaks off ends the connection without the dot", func(t *testing.T) {
		d := serve(t, Options{}, &faulty{Box: open(t, drop(t, m1), 7), body: &brokenBody{text: "A: one\r\n"}})
		d.Play("C: RETR 1\n")
		all, _ := io.ReadAll(d.Reader)
		if err := d.end(); !errors.Is(err, errDisk) || strings.Contains(string(all), "\r\n.\r\n") {
			t.Errorf("%q, %v", all, err)
		}
	})
	t.Run("QUIT", func(t *testing.T) {
		d := serve(t, Options{}, &faulty{Box: open(t, drop(t, m1), 7), expunge: errDisk})
		d.Play(`
			C: DELE 1
			C: QUIT
			S: +OK message 1 deleted
			S: -ERR [SYS/TEMP] some deleted messages not removed
			EOF`)
		if err := d.end(); !errors.Is(err, errDisk) {
			t.Error(err)
		}
	})
	t.Run("Seen is best effort", func(t *testing.T) {
		d := serve(t, Options{}, &faulty{Box: open(t, drop(t, m2), 7), flags: errDisk})
		d.Play("C: RETR 1\nC: QUIT\nS: +OK 10 octets\nS: B: two\nS:\nS: .\nS: +OK bye\nEOF")
	})
	t.Run("at the start", func(t *testing.T) {
		store := drop(t, m1)
		box := open(t, store, 7)
		store.Fail(ann, errDisk)
		d := serve(t, Options{}, box)
		d.Play("EOF")
		if err := d.end(); !errors.Is(err, errDisk) {
			t.Error(err)
		}
	})
}

type brokenBody struct {
	mailbox.Body
	text string
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, errDisk
}
func (b *brokenBody) Close() error    { return nil }
func (b *brokenBody) WireSize() int64 { return 100 }

// TestMoved: a move shows no error, removes nothing, and closes cleanly.
func TestMoved(t *testing.T) {
	t.Run("while waiting", func(t *testing.T) {
		store := drop(t, m1, m2)
		d := serve(t, Options{}, open(t, store, 7))
		d.Play("C: DELE 1\nS: +OK message 1 deleted\n")
		store.Freeze(ann)
		d.Play("EOF")
		moved(t, d)
		store.Serve(ann, "b1", 9)
		if got := inbox(t, open(t, store, 9)); got != "A: one B: two" {
			t.Error(got)
		}
	})
	t.Run("before the start", func(t *testing.T) {
		store := drop(t, m1)
		box := open(t, store, 7)
		store.Freeze(ann)
		d := serve(t, Options{}, box)
		d.Play("EOF")
		moved(t, d)
	})
	// The fence is checked at each operation, and may be seen there before
	// Done is.
	for _, fence := range []error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused} {
		t.Run("in QUIT: "+fence.Error(), func(t *testing.T) {
			box := open(t, drop(t, m1), 7)
			d := serve(t, Options{}, &faulty{Box: box, expunge: fence})
			d.Play("C: DELE 1\nC: QUIT\nS: +OK message 1 deleted\nEOF")
			moved(t, d)
		})
		t.Run("in RETR: "+fence.Error(), func(t *testing.T) {
			box := open(t, drop(t, m1), 7)
			d := serve(t, Options{}, &faulty{Box: box, open: fence})
			d.Play("C: STAT\nC: RETR 1\nC: NOOP\nC: QUIT\nS: +OK 1 36\nEOF")
			moved(t, d)
		})
	}
	t.Run("whatever fails after the fence has left is no error", func(t *testing.T) {
		box := open(t, drop(t, m1), 7)
		done := make(chan struct{})
		d := serve(t, Options{}, &faulty{Box: box, expunge: errDisk, done: done, before: func() { close(done) }})
		d.Play("C: DELE 1\nC: QUIT\nS: +OK message 1 deleted\nEOF")
		moved(t, d)
	})
	t.Run("a message that is being sent is sent whole, pipelined commands are not begun", func(t *testing.T) {
		store := drop(t, strings.Repeat(strings.Repeat("x", 98)+"\n", 20_000))
		d := serve(t, Options{}, &faulty{Box: open(t, store, 7), before: func() { store.Freeze(ann) }})
		d.Play("C: RETR 1\nC: DELE 1\nC: QUIT\nS: +OK 2000000 octets\n")
		rest, err := io.ReadAll(d.Reader)
		if err != nil || len(rest) != 2_000_003 || !bytes.HasSuffix(rest, []byte("x\r\n.\r\n")) {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
		moved(t, d)
	})
	t.Run("a client that does not read is not waited for longer than Linger", func(t *testing.T) {
		store := drop(t, m1)
		frozen := make(chan struct{})
		d := serve(t, Options{Linger: 50 * time.Millisecond}, &faulty{Box: open(t, store, 7), body: &endless{size: 1 << 40},
			before: func() { store.Freeze(ann); close(frozen) }})
		d.Send("RETR 1\r\n")
		<-frozen
		if err := d.end(); !errors.Is(err, ErrMoved) {
			t.Errorf("ended in %v", err)
		}
	})
}

func moved(t *testing.T, d *dialogue) {
	t.Helper()
	d.Conn.Close() // after which Serve waits for us no more
	if err := d.end(); !errors.Is(err, ErrMoved) {
		t.Errorf("ended in %v", err)
	}
}

// TestSlowClient: a client that does not read, or is dead without a word, does
// not hold the maildrop.
func TestSlowClient(t *testing.T) {
	var locks Locks
	release, ok := locks.TryLock(ann, "s1")
	if !ok {
		t.Fatal("locked")
	}
	box := open(t, drop(t, m1), 7)
	d := serve(t, Options{Write: 50 * time.Millisecond}, &faulty{Box: box, body: &endless{size: 1 << 40}})
	d.Send("DELE 1\r\nRETR 1\r\nRSET\r\nRETR 1\r\n")
	err := d.end()
	release()
	if ending(err) != "slow" {
		t.Error(err)
	}
	if _, ok := locks.TryLock(ann, "s1"); !ok {
		t.Error("still locked")
	}
}

func TestLocks(t *testing.T) {
	var locks Locks
	release, ok := locks.TryLock(ann, "s1")
	if !ok {
		t.Fatal("locked at first")
	}
	if _, ok := locks.TryLock(ann, "s1"); ok {
		t.Error("locked twice")
	}
	if _, ok := locks.TryLock("bob@example.test", "s1"); !ok {
		t.Error("another user is locked")
	}
	release()
	again, ok := locks.TryLock(ann, "s1")
	if !ok {
		t.Error("not released")
	}
	release() // of a lock that is another's by now
	if _, ok := locks.TryLock(ann, "s1"); ok {
		t.Error("an old release freed a new lock")
	}
	again()
}

func TestMetricsAndLog(t *testing.T) {
	reg := prometheus.NewRegistry()
	var log bytes.Buffer
	opt := Options{Metrics: reg, Log: slog.New(slog.NewTextHandler(&log, nil))}
	d := serve(t, opt, open(t, drop(t, m1, m2), 7))
	d.Play("C: RETR 2\nC: DELE 1\nC: QUIT\nS: +OK 10 octets\nS: B: two\nS:\nS: .\nS: +OK message 1 deleted\nS: +OK bye\nEOF")
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"waypost_pop3_sessions": 0, "waypost_pop3_sessions_ended_total": 1, "waypost_pop3_retrieved_messages_total": 1,
		"waypost_pop3_expunged_messages_total": 1, "waypost_pop3_sent_bytes_total": 60,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	for _, want := range []string{"reason=quit", "user=" + ann, "session=s1", "client=192.0.2.1:99", "retrieved=1", "deleted=1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, log.String())
		}
	}
}
