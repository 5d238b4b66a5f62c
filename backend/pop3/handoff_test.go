package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/link/linktest"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

// journey is a session that goes from server to server with its mailbox: whenever the
// store fences it, it is handed off, and taken on at the next epoch.
type journey struct {
	t     rapid.TB
	store *memory.Store
	// between is called while nobody has the session, with the store served again.
	between func(box mailbox.Box)
	wrap    func(box mailbox.Box) mailbox.Box
	opt     func(stop int) Options
	session Session // of the first stop

	mu    sync.Mutex
	epoch director.Epoch
	stops int
}

// travel serves until the session's end, and returns that.
func (j *journey) travel(server net.Conn) error {
	ses := j.session
	ses.Client, ses.ID = "192.0.2.1:99", "s1"
	for {
		j.mu.Lock()
		box, err := j.store.Open(context.Background(), ann, "b1", j.epoch)
		j.mu.Unlock()
		if errors.Is(err, mailbox.ErrFrozen) {
			j.serveAgain() // fenced again before it was opened, which its proxy waits for
			continue
		}
		if err != nil {
			return err
		}
		if ses.State != nil {
			if j.between != nil {
				j.between(box)
			}
			j.mu.Lock()
			j.stops++ // only now, so that a test that waits for it does not fence within between
			j.mu.Unlock()
		}
		ses.Box = box
		if j.wrap != nil {
			ses.Box = j.wrap(box)
		}
		var opt Options
		if j.opt != nil {
			opt = j.opt(j.stops)
		}
		r, err := New(opt).Begin(ses)
		if err == nil {
			c := linktest.New(server)
			err = r.Run(context.Background(), c)
			ses.State = c.State()
		}
		box.Close()
		if errors.Is(err, ErrMoved) && !errors.Is(err, ErrHandedOff) && errors.Is(err, mailbox.ErrFrozen) && ses.State != nil {
			continue // fenced again before it had begun, which its proxy waits for
		}
		if !errors.Is(err, ErrHandedOff) {
			server.Close()
			return err
		}
		j.serveAgain()
	}
}

// fence freezes the mailbox, unless it is already.
func (j *journey) fence() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.store.Freeze(ann)
}

func (j *journey) serveAgain() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.epoch += 2
	j.store.Serve(ann, "b1", j.epoch)
}

// begin gives the client's end of a session that travels.
func (j *journey) begin(t testing.TB) *dialogue {
	t.Helper()
	j.t, j.epoch = t, 7
	client, server := linktest.Pair(t)
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	ended := make(chan error, 1)
	go func() { ended <- j.travel(server) }()
	d.end = sync.OnceValue(func() error { return <-ended })
	t.Cleanup(func() { client.Close(); d.end() })
	return d
}

// arrived waits until the session has gone on n times.
func (j *journey) arrived(n int) {
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		j.mu.Lock()
		stops := j.stops
		j.mu.Unlock()
		if stops >= n {
			return
		}
		if time.Now().After(deadline) {
			j.t.Fatalf("%d stops, want %d", stops, n)
		}
		<-tick.C
	}
}

// TestHandOff plays what a client says before and after, with what happens to the
// mailbox in between.
func TestHandOff(t *testing.T) {
	expunge := func(uids ...mailbox.UID) func(mailbox.Box) {
		return func(box mailbox.Box) {
			f, err := box.Folder(mailbox.Inbox)
			if err == nil {
				_, err = f.Expunge(uids)
			}
			if err != nil {
				panic(err)
			}
		}
	}
	for _, tt := range []struct {
		name          string
		before, after string
		between       func(mailbox.Box)
		left          string
	}{
		{"nothing said", "", "C: STAT\nS: +OK 3 64\nC: QUIT\nS: +OK bye\nEOF", nil, "A: one B: two C: three"},
		{"marks", "C: DELE 1\nC: RETR 2\nS: +OK message 1 deleted\nS: +OK 10 octets\nS: B: two\nS:\nS: .",
			"C: STAT\nS: +OK 2 28\nC: DELE 1\nS: -ERR message 1 is deleted\nC: LIST\nS: +OK 2 messages (28 octets)\nS: 2 10\nS: 3 18\nS: .\nC: QUIT\nS: +OK bye\nEOF",
			nil, "B: two* C: three"},
		{"RSET afterwards", "C: DELE 1\nC: DELE 3\nS: +OK message 1 deleted\nS: +OK message 3 deleted", "C: RSET\nS: +OK 3 messages (64 octets)\nC: QUIT\nS: +OK bye\nEOF",
			nil, "A: one B: two C: three"},
		{"half a line", "C: STAT\nC\"DE\"\nS: +OK 3 64", "C\"LE 2\\r\\n\"\nS: +OK message 2 deleted\nC: QUIT\nS: +OK bye\nEOF", nil, "A: one C: three"},
		{"a message is gone, another has come", "C: STAT\nS: +OK 3 64", `
			C: STAT
			S: +OK 3 64
			C: UIDL
			S: +OK unique ids follow
			S: 1 ` + uid(1) + `
			S: 2 ` + uid(2) + `
			S: 3 ` + uid(3) + `
			S: .
			C: RETR 2
			S: -ERR message was removed by another session
			C: RETR 4
			S: -ERR no such message
			C: DELE 2
			S: +OK message 2 deleted
			C: DELE 3
			S: +OK message 3 deleted
			C: QUIT
			S: +OK bye
			EOF`, func(box mailbox.Box) { expunge(2)(box); deliver(box, "D: four\n\n") }, "A: one D: four"},
		{"hung up", "C: DELE 1\nS: +OK message 1 deleted", "HANGUP", nil, "A: one B: two C: three"},
		{"bad commands are counted on", strings.Repeat("C: HELO\n", maxBadCommands) + strings.Repeat("S: -ERR unknown command\n", maxBadCommands),
			"C: HELO\nS: -ERR too many bad commands\nEOF", nil, "A: one B: two C: three"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &journey{store: drop(t, m1, m2, m3), between: func(box mailbox.Box) {
				if tt.between != nil {
					tt.between(box)
					tt.between = nil
				}
			}}
			d := j.begin(t)
			d.Play("C: NOOP\nS: +OK\n" + tt.before)
			for n := range 3 {
				j.fence()
				j.arrived(n + 1)
			}
			if tt.after == "HANGUP" {
				d.Conn.Close()
				if err := d.end(); !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			} else {
				d.Play(tt.after)
				if err := d.end(); err != nil && !errors.Is(err, ErrAbuse) {
					t.Error(err)
				}
			}
			if got := inboxAt(t, j); got != tt.left {
				t.Errorf("left %q, want %q", got, tt.left)
			}
		})
	}
}

func deliver(box mailbox.Box, text string) {
	m, err := memory.New().Stage(context.Background(), "", strings.NewReader(text), 0)
	if err == nil {
		err = box.Deliver(context.Background(), mailbox.Delivery{ID: text, Message: m, Places: []mailbox.Place{{}}})
	}
	if err != nil {
		panic(err)
	}
}

func inboxAt(t testing.TB, j *journey) string {
	t.Helper()
	j.mu.Lock()
	j.epoch += 2
	epoch := j.epoch
	j.store.Serve(ann, "b1", epoch)
	j.mu.Unlock()
	box, err := j.store.Open(context.Background(), ann, "b1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	return inbox(t, box)
}

// TestCutCommands fences the mailbox within a command: it is executed at the new place, or
// ends at the old one.
func TestCutCommands(t *testing.T) {
	t.Run("QUIT", func(t *testing.T) {
		for _, fence := range []error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrClosed, mailbox.ErrRefused} {
			j := &journey{store: drop(t, m1, m2)}
			first := true
			j.wrap = func(box mailbox.Box) mailbox.Box {
				if first {
					first = false
					return &faulty{Box: box, expunge: fence}
				}
				return box
			}
			d := j.begin(t)
			d.Play("C: DELE 1\nC: QUIT\nS: +OK message 1 deleted\nS: +OK bye\nEOF")
			if err := d.end(); err != nil {
				t.Error(fence, err)
			}
			if got := inboxAt(t, j); got != "B: two" || j.stops != 1 {
				t.Errorf("%v: %q, %d stops", fence, got, j.stops)
			}
		}
	})
	t.Run("RETR before its answer", func(t *testing.T) {
		j := &journey{store: drop(t, m1, m2)}
		first := true
		j.wrap = func(box mailbox.Box) mailbox.Box {
			if first {
				first = false
				return &faulty{Box: box, open: mailbox.ErrFrozen}
			}
			return box
		}
		d := j.begin(t)
		d.Play("C: RETR 2\nC: DELE 2\nC: QUIT\nS: +OK 10 octets\nS: B: two\nS:\nS: .\nS: +OK message 2 deleted\nS: +OK bye\nEOF")
		if err := d.end(); err != nil || j.stops != 1 {
			t.Error(err, j.stops)
		}
	})
	t.Run("RETR that has begun is sent whole", func(t *testing.T) {
		j := &journey{store: drop(t, strings.Repeat(strings.Repeat("x", 98)+"\n", 20_000))}
		first := true
		j.wrap = func(box mailbox.Box) mailbox.Box {
			if first {
				first = false
				return &faulty{Box: box, before: j.fence}
			}
			return box
		}
		d := j.begin(t)
		d.Play("C: RETR 1\nC: NOOP\nC: DELE 1\nS: +OK 2000000 octets\n")
		if n, err := io.CopyN(io.Discard, d.Reader, 2_000_000); err != nil {
			t.Fatal(n, err)
		}
		d.Play("S: .\nS: +OK\nS: +OK message 1 deleted\nC: QUIT\nS: +OK bye\nEOF")
		if err := d.end(); err != nil || j.stops == 0 {
			t.Error(err, j.stops)
		}
	})
	t.Run("RETR that breaks off is not gone on with", func(t *testing.T) {
		store := drop(t, m1)
		c, server := linktest.Pair(t)
		c.SetDeadline(time.Now().Add(30 * time.Second))
		carry := linktest.New(server)
		box := &faulty{Box: open(t, store, 7), body: &brokenBody{text: "A: one\r\n"}, before: func() { store.Freeze(ann) }}
		io.WriteString(c, "RETR 1\r\n")
		err := New(Options{}).Serve(t.Context(), carry, Session{Box: box, ID: "s1"})
		if !errors.Is(err, ErrMoved) || carry.State() != nil {
			t.Errorf("%v, handed off: %t", err, carry.State() != nil)
		}
	})
	t.Run("XLST goes on where it was", func(t *testing.T) {
		for cut := range 4 {
			j := &journey{store: drop(t, m1, m2, m3)}
			first := true
			j.wrap = func(box mailbox.Box) mailbox.Box {
				if first {
					first = false
					return &cutListing{Box: box, left: cut}
				}
				return box
			}
			d := j.begin(t)
			d.Play("C: XLST\nC: NOOP\nS: +OK listing follows\n")
			for n := range 3 {
				if line := d.Line(); !strings.HasPrefix(line, fmt.Sprint(n+1, "\t")) {
					t.Errorf("cut at %d: line %d is %q", cut, n, line)
				}
			}
			d.Play("S: .\nS: +OK\nC: QUIT\nS: +OK bye\nEOF")
		}
	})
}

// cutListing refuses to tell of messages after so many.
type cutListing struct {
	mailbox.Box
	left int
}

func (b *cutListing) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &cutFolder{f, b}, err
}

type cutFolder struct {
	mailbox.Folder
	b *cutListing
}

func (f *cutFolder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	if f.b.left--; f.b.left < 0 {
		return nil, mailbox.ErrFrozen
	}
	return f.Folder.Meta(uid)
}

// TestUIDLStays: whatever form the next backend has, the session's ids do not change.
func TestUIDLStays(t *testing.T) {
	other, err := ParseUIDL("x%u-%v")
	if err != nil {
		t.Fatal(err)
	}
	j := &journey{store: drop(t, m1, m2), opt: func(stop int) Options {
		if stop%2 == 1 {
			return Options{UIDL: other}
		}
		return Options{}
	}}
	d := j.begin(t)
	for stop := range 3 {
		d.Play("C: UIDL\nC: UIDL 2\nS: +OK unique ids follow\nS: 1 " + uid(1) + "\nS: 2 " + uid(2) + "\nS: .\nS: +OK 2 " + uid(2) + "\n")
		j.fence()
		j.arrived(stop + 1)
	}
}

// TestLoginIsKept: what was settled before the login goes along.
func TestLoginIsKept(t *testing.T) {
	j := &journey{store: drop(t, "Subject: \xc3\xa4\n\nx\n"), session: Session{UTF8: true, Capabilities: []string{"SASL ODD"}}}
	d := j.begin(t)
	d.Play("C: NOOP\nS: +OK\n")
	j.fence()
	j.arrived(1)
	d.Play("C: RETR 1\nS: +OK 18 octets\nS: Subject: \xc3\xa4\nS:\nS: x\nS: .\nC: CAPA\nS: +OK capabilities follow\n")
	for {
		line := d.Line()
		if line == "SASL ODD\r\n" {
			break
		}
		if line == ".\r\n" {
			t.Fatal("the capability is gone")
		}
	}
}

// TestCheckpoint: a client that is silent for a while has its session kept, once, and it can
// go on from there.
func TestCheckpoint(t *testing.T) {
	store := drop(t, m1, m2)
	client, server := linktest.Pair(t)
	carry := linktest.New(server)
	srv := New(Options{})
	srv.checkpoints.After = 10 * time.Millisecond
	box := open(t, store, 7)
	ctx, kill := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, carry, Session{Box: box, ID: "s1"}) }()
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	d.Play("C: DELE 2\nS: +OK message 2 deleted\n")
	var last linktest.Checkpoint
	for last.Consumed == 0 { // there may be one of the time before the command
		last = <-carry.Made
	}
	kill()
	if err := <-ended; !errors.Is(err, context.Canceled) || carry.State() != nil {
		t.Error(err)
	}
	if last.Consumed != 8 || last.Sent != 23 || len(carry.Made) != 0 {
		t.Fatalf("%d, %d bytes, and %d more", last.Consumed, last.Sent, len(carry.Made))
	}
	client, server = linktest.Pair(t)
	go func() {
		ended <- New(Options{}).Serve(context.Background(), linktest.New(server), Session{Box: box, ID: "s1", State: last.State})
	}()
	d = &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	d.Play("C: STAT\nS: +OK 1 36\nC: QUIT\nS: +OK bye\n")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := inbox(t, box); got != "A: one" {
		t.Error(got)
	}
}

// TestPoints: a client that was just answered has its session kept, and it can go on from there.
func TestPoints(t *testing.T) {
	store := drop(t, m1, m2, m3)
	client, server := linktest.Pair(t)
	box := open(t, store, 7)
	ended := make(chan error, 1)
	carry := linktest.New(server)
	carry.Points = true
	ctx, kill := context.WithCancel(context.Background())
	go func() { ended <- New(Options{}).Serve(ctx, carry, Session{Box: box, ID: "s1"}) }()
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	for n, deletes := range []string{"C: DELE 2\nS: +OK message 2 deleted\n", "C: DELE 1\nS: +OK message 1 deleted\n", "C: NOOP\nS: +OK\n"} {
		d.Play(deletes)
		kept := <-carry.Made
		kill()
		<-ended
		d.Conn.Close()
		client, server = linktest.Pair(t)
		carry = linktest.New(server)
		carry.Points = true
		ctx, kill = context.WithCancel(context.Background())
		go func() { ended <- New(Options{}).Serve(ctx, carry, Session{Box: box, ID: "s1", State: kept.State}) }()
		d = &dialogue{Dialogue: linktest.NewDialogue(t, client)}
		d.Play("C: STAT\nS: +OK " + []string{"2 54", "1 18", "1 18"}[n] + "\n")
		<-carry.Made
	}
	d.Play("C: QUIT\nS: +OK bye\n")
	if got := inbox(t, box); strings.Contains(got, "A: one") {
		t.Error(got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	kill()
}

// TestNothingIsNoticed: what a client hears and what becomes of its mail is the same,
// wherever the fence falls.
func TestNothingIsNoticed(t *testing.T) {
	texts := []string{m1, m2, m3, "E: five\n\n" + strings.Repeat("long line\n", 2000)}
	commands := []string{"STAT", "LIST", "UIDL", "NOOP", "RETR 1", "RETR 4", "TOP 1 1", "DELE 1", "DELE 2", "DELE 3", "RSET", "LIST 2", "XLST",
		"RETR 9", "what", "CAPA"}
	talk := func(t rapid.TB, server func(net.Conn) error, script string, at func(heard int)) string {
		client, conn := net.Pipe()
		client.SetDeadline(time.Now().Add(30 * time.Second))
		ended := make(chan error, 1)
		go func() { ended <- server(conn) }()
		go io.WriteString(client, script)
		var heard strings.Builder
		buf := make([]byte, 512)
		for {
			n, err := client.Read(buf)
			heard.Write(buf[:n])
			at(heard.Len())
			if err != nil {
				break
			}
		}
		client.Close()
		if err := <-ended; err != nil {
			t.Errorf("%v", err)
		}
		return heard.String()
	}
	rapid.Check(t, func(rt *rapid.T) {
		script := strings.Join(append(rapid.SliceOfN(rapid.SampledFrom(commands), 0, 19).Draw(rt, "script"), "QUIT", ""), "\r\n")
		fences := rapid.SliceOfN(rapid.IntRange(0, 30_000), 0, 6).Draw(rt, "fences")
		plain := drop(t, texts...)
		box := open(t, plain, 7)
		want := talk(rt, func(c net.Conn) error { return New(Options{}).Serve(context.Background(), c, Session{Box: box}) }, script, func(int) {})
		j := &journey{t: rt, store: drop(t, texts...), epoch: 7}
		got := talk(rt, j.travel, script, func(heard int) {
			for i := range fences {
				if fences[i] >= 0 && heard >= fences[i] {
					fences[i] = -1
					j.fence()
				}
			}
		})
		if got != want {
			rt.Fatalf("after %d stops heard\n%q\nwant\n%q", j.stops, got, want)
		}
		if got, want := inboxAt(t, j), inbox(t, box); got != want {
			rt.Fatalf("left %q, want %q", got, want)
		}
	})
}

func TestReservations(t *testing.T) {
	var locks Locks
	locked := func(session string) func() {
		t.Helper()
		release, ok := locks.TryLock(ann, session)
		if !ok {
			t.Fatal("not free for " + session)
		}
		return release
	}
	release := locked("s1")
	locks.Reserve(ann, "s2")
	if locks.Holder(ann) != "s1" {
		t.Error("a lock was taken away")
	}
	locks.Reserve(ann, "s1")
	release()
	if _, ok := locks.TryLock(ann, "s2"); ok || locks.Holder(ann) != "s1" {
		t.Error("the reservation does not hold")
	}
	waits := make(chan bool)
	go func() {
		_, ok := locks.Lock(t.Context(), ann, "s3")
		waits <- ok
	}()
	locked("s1")()
	if !<-waits {
		t.Error("who waited did not get it")
	}
	var others Locks
	others.Reserve(ann, "s1")
	others.Reserve(ann, "")
	if others.Holder(ann) != "" {
		t.Error("the reservation was not ended")
	}
	others.Reserve(ann, "s1")
	others.held[ann].until = time.Now()
	if others.Holder(ann) != "" {
		t.Error("it does not end by itself")
	}
	if _, ok := others.TryLock(ann, "s2"); !ok {
		t.Error("not free after its time")
	}
	others.Reserve("bob@example.test", "s1")
	others.held["bob@example.test"].until = time.Now()
	others.Reserve("carol@example.test", "s1")
	if len(others.held) != 2 {
		t.Errorf("%d kept", len(others.held))
	}
}
