package mx

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/lmtp/lmtptest"
	"waypost/internal/wire"
	"waypost/mx/spool"
)

// spooled waits until the spool has n entries.
func (r *rig) spooled(n int) []spool.Entry {
	r.t.Helper()
	r.eventually(fmt.Sprint(n, " entries in the spool"), func() bool { return len(r.srv.spool.List()) == n })
	return r.srv.spool.List()
}

// never is a backoff that no test outlives.
func never(c *Config) { c.SpoolMinBackoff, c.SpoolMaxBackoff = time.Hour, time.Hour }

// one sends a message to u1 and expects the answer.
func (r *rig) one(prefix string, rcpts ...string) string {
	r.t.Helper()
	if len(rcpts) == 0 {
		rcpts = []string{"u1@x.test"}
	}
	p := r.hello()
	p.mail(rcpts...)
	reply := p.data(testBody, prefix)
	p.cmd("QUIT", "221 ")
	return strings.TrimSpace(strings.TrimPrefix(reply, "250 2.0.0 Accepted as "))
}

// TestServer_stale: a home that knows better is believed after one
// linearizable read, and the message goes to the new home in the same session.
func TestServer_stale(t *testing.T) {
	r := newRig(t, nil)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return stale }})
	r.dir.do(func() { r.dir.truth["u1@x.test"] = activeRecord("b2", 9) })
	r.one("250 ")
	m := r.b2.WaitMessages(1)[0]
	if m.Rcpts[0].Params[wire.ParamHome] != "b2" || m.Rcpts[0].Params[wire.ParamEpoch] != "9" {
		t.Errorf("%+v", m.Rcpts)
	}
	if len(r.b1.Messages()) != 0 || r.metric("spool_entries") != 0 || r.metric("stale_twice_total") != 0 {
		t.Error("more than one delivery")
	}
}

// TestServer_staleTwice: refused twice at one home and epoch, the message is
// spooled and an alarm raised; it does not loop (R11).
func TestServer_staleTwice(t *testing.T) {
	r := newRig(t, never)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return stale }})
	r.one("250 ")
	e := r.spooled(1)[0]
	if r.metric("stale_twice_total") != 1 || e.Recipients[0].Error != errStaleTwice.Error() || r.metric("recipients_deferred_total", "stale") != 1 {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(r.logs.String(), "ALARM") {
		t.Error("no alarm in the log")
	}
	// The spool's own try asks twice as well, and then waits.
	r.eventually("the first try", func() bool { return r.metric("stale_twice_total") == 2 })
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full})
	r.srv.spool.Wake("u1@x.test")
	if m := r.b1.WaitMessages(1)[0]; m.Rcpts[0].Params[wire.ParamAccepted] != "1" || m.Params[wire.ParamDelivery] != e.ID {
		t.Errorf("%+v", m)
	}
	r.spooled(0)
}

// TestServer_busyWaits: a move that ends within the wait costs no spooling.
func TestServer_busyWaits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.BusyWait = 20 * time.Second })
	r.dir.set("u1@x.test", busyRecord("b1", "b2", 8))
	p := r.hello()
	p.cmd("MAIL FROM:<s@y.test>", "250 ")
	p.send("RCPT TO:<u1@x.test>\r\n")
	r.dir.set("u1@x.test", activeRecord("b2", 9))
	p.expect("250 ")
	p.data(testBody, "250 ")
	r.b2.WaitMessages(1)
	if r.metric("recipients_deferred_total") != 0 {
		t.Error("it was spooled")
	}
}

// TestServer_busySpools: a longer move has the message spooled, and the
// directory's change wakes it, long before its time.
func TestServer_busySpools(t *testing.T) {
	r := newRig(t, never)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return busy }})
	id := r.one("250 ", "u1@x.test", "u2@x.test")
	r.b2.WaitMessages(1) // who is not busy does not wait
	if e := r.spooled(1)[0]; e.ID != id || len(e.Recipients) != 1 || e.Recipients[0].User != "u1@x.test" {
		t.Errorf("%+v", e)
	}
	r.dir.set("u1@x.test", busyRecord("b1", "b2", 8))
	r.eventually("a try while busy", func() bool { return r.srv.spool.List()[0].Attempts == 1 })
	r.dir.set("u1@x.test", activeRecord("b2", 9))
	m := r.b2.WaitMessages(2)[1]
	checkBody(t, m, testBody+"\r\n")
	if m.Params[wire.ParamDelivery] != id || m.Rcpts[0].Params[wire.ParamAccepted] != "1" || m.Rcpts[0].Params[wire.ParamEpoch] != "9" {
		t.Errorf("%+v", m)
	}
	r.spooled(0)
}

// TestServer_freezeAtCommit: a home that freezes between DATA and its answer
// is served from our copy later.
func TestServer_freezeAtCommit(t *testing.T) {
	for name, reply := range map[string]string{"busy": busy, "stale": stale, "refused": "451 4.3.0 " + wire.WordRefused, "other": "451 4.3.0 x", "disk": "452 4.3.1 x"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, never)
			r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: ends(reply)})
			id := r.one("250 ")
			r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full})
			r.dir.set("u1@x.test", activeRecord("b2", 9))
			if m := r.b2.WaitMessages(1)[0]; m.Params[wire.ParamDelivery] != id {
				t.Errorf("%+v", m)
			}
			r.spooled(0)
		})
	}
}

// TestServer_commitAnswers: one answer for all recipients.
func TestServer_commitAnswers(t *testing.T) {
	no, yes := "552 5.2.2 b1 is full", "250 2.0.0 ok"
	for _, tc := range []struct{ b1, b2, want string }{
		{yes, yes, "250 2.0.0"}, {no, no, "552 5.2.2 Mailbox full"}, {yes, no, "250 2.0.0"}, {no, busy, "250 2.0.0"},
		{"501 5.5.4 x", no, "250 2.0.0"}, {"554 5.6.0 b1", "554 5.6.0 b2", "554 5.6.0 Message is malformed"},
	} {
		r := newRig(t, never)
		r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: ends(tc.b1)})
		r.b2.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: ends(tc.b2)})
		r.one(tc.want, "u1@x.test", "u2@x.test")
		left := 0
		if tc.want[0] == '2' {
			for _, a := range []string{tc.b1, tc.b2} {
				if a != yes {
					left++
				}
			}
		}
		have := 0
		for _, e := range r.srv.spool.List() {
			have += len(e.Recipients)
		}
		if have != left {
			t.Errorf("%+v: %d in the spool, want %d", tc, have, left)
		}
	}
}

// TestServer_homeStalls: a home that takes nothing is dropped; the others and
// the sender do not wait for it, and it gets the message later.
func TestServer_homeStalls(t *testing.T) {
	r := newRig(t, func(c *Config) { never(c); c.StallTimeout = time.Second })
	release := make(chan bool)
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Body: func(io.Reader) ([]byte, error) {
		<-release
		return nil, io.ErrUnexpectedEOF
	}})
	body := "Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 20_000) + "end"
	p := r.hello()
	p.mail("u1@x.test", "u2@x.test")
	p.data(body, "250 ")
	checkBody(t, r.b2.WaitMessages(1)[0], body+"\r\n")
	e := r.spooled(1)[0]
	if len(e.Recipients) != 1 || e.Recipients[0].User != "u1@x.test" {
		t.Errorf("%+v", e)
	}
	free()
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full})
	r.live.set("b1", true) // says that it is up
	checkBody(t, r.b1.WaitMessages(1)[0], body+"\r\n")
	r.spooled(0)
}

// TestServer_silentCommit: a home that does not answer at the end.
func TestServer_silentCommit(t *testing.T) {
	r := newRig(t, func(c *Config) { never(c); c.CommitTimeout = 50 * time.Millisecond })
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: func(lmtptest.Message) []string { return nil }})
	id := r.one("250 ")
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full})
	r.srv.spool.Wake("u1@x.test")
	// The same id: the home, which may have it already, delivers it once.
	for _, m := range r.b1.WaitMessages(2) {
		if m.Params[wire.ParamDelivery] != id {
			t.Errorf("%+v", m)
		}
	}
	r.spooled(0)
}

// TestServer_deadHome: known to be dead, gone, or refusing at the door.
func TestServer_deadHome(t *testing.T) {
	for name, kill := range map[string]func(r *rig){
		"liveness": func(r *rig) { r.live.set("b1", false) },
		"gone":     func(r *rig) { r.b1.Close() },
		"offline": func(r *rig) {
			b := r.dir.backends["b1"]
			b.State = director.BackendOffline
			r.dir.backends["b1"] = b
		},
		"unknown":      func(r *rig) { delete(r.dir.backends, "b1") },
		"no extension": func(r *rig) { r.b1.SetScript(lmtptest.Script{Ext: []string{"PIPELINING"}}) },
		"421": func(r *rig) {
			r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return "421 4.3.2 bye" }})
		},
		"refused": func(r *rig) {
			r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return "451 4.3.0 [REFUSED] x" }})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, never)
			r.dir.do(func() { r.dir.accounts["u3@x.test"] = director.Account{Disabled: true} })
			kill(r)
			p := r.hello()
			p.mail("u1@x.test")
			if name != "refused" {
				p.cmd("RCPT TO:<u3@x.test>", "550 5.2.1") // the directory alone knows
			}
			p.cmd("RCPT TO:<no@x.test>", "550 5.1.1")
			p.data(testBody, "250 ")
			r.spooled(1)
			r.dir.set("u1@x.test", activeRecord("b2", 9))
			r.b2.WaitMessages(1)
			r.spooled(0)
		})
	}
}

// TestServer_directoryAway: who is known gets mail, who is not is tried again.
func TestServer_directoryAway(t *testing.T) {
	r := newRig(t, never)
	r.dir.do(func() { r.dir.down = true })
	p := r.hello()
	p.mail("u1@x.test")
	p.cmd("RCPT TO:<no@x.test>", "451 4.3.0")
	p.data(testBody, "250 ")
	r.b1.WaitMessages(1)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return stale }})
	r.one("250 ")
	r.spooled(1)
}

// TestServer_lostAfterRcpt: a home that goes between RCPT and DATA.
func TestServer_lostAfterRcpt(t *testing.T) {
	r := newRig(t, never)
	p := r.hello()
	p.mail("u1@x.test", "u2@x.test")
	r.b1.Close()
	p.data(testBody, "250 ")
	r.b2.WaitMessages(1)
	if e := r.spooled(1)[0]; len(e.Recipients) != 1 {
		t.Errorf("%+v", e)
	}
	// And before a further RCPT.
	p.mail("u3@x.test", "u2@x.test")
	p.data(testBody, "250 ")
	r.spooled(2)
}

// TestServer_lists: one copy per home and user; a member that refuses is not
// the list's matter, one that cannot now is tried again.
func TestServer_lists(t *testing.T) {
	r := newRig(t, never)
	r.dir.do(func() {
		r.dir.aliases["all@x.test"] = []string{"u1@x.test", "u2@x.test", "u3@x.test", "full@x.test", "disk@x.test"}
		r.dir.records["full@x.test"], r.dir.records["disk@x.test"] = activeRecord("b1", 7), activeRecord("b1", 7)
	})
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: answers(map[string]string{"full@x.test": "552 5.2.2 full", "disk@x.test": "452 4.3.1 disk"})})
	r.one("250 ", "all@x.test", "u1@x.test", "u1+f@x.test")
	if m := r.b1.WaitMessages(1); len(m[0].Rcpts) != 2 {
		t.Errorf("%+v", m)
	}
	if m := r.b2.WaitMessages(1); len(m[0].Rcpts) != 1 {
		t.Errorf("%+v", m)
	}
	if e := r.spooled(1)[0]; len(e.Recipients) != 2 || e.Recipients[0].User != "full@x.test" || e.Recipients[1].User != "disk@x.test" {
		t.Errorf("%+v", e)
	}
	if r.metric("list_members_refused_total") != 0 {
		t.Error("not counted")
	}
}

// TestServer_onlyRefusals: a home whose every recipient was refused gets no
// message, and its connection stays of use.
func TestServer_onlyRefusals(t *testing.T) {
	r := newRig(t, nil)
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: answers(map[string]string{"u1@x.test": "550 5.2.1 no"})})
	p := r.hello()
	p.cmd("MAIL FROM:<s@y.test>", "250 ")
	p.cmd("RCPT TO:<u1@x.test>", "550 5.2.1")
	p.cmd("RCPT TO:<u2@x.test>", "250 ")
	p.data(testBody, "250 ")
	r.b2.WaitMessages(1)
	r.one("250 ", "u3@x.test")
	if m := r.b1.WaitMessages(1); len(m) != 1 || r.b1.Conns() != 1 {
		t.Errorf("%d messages, %d connections", len(m), r.b1.Conns())
	}
}

// TestServer_deadLetter: a user that is gone after the 250, or is another
// person by now.
func TestServer_deadLetter(t *testing.T) {
	r := newRig(t, never)
	first := time.Now()
	r.dir.do(func() {
		r.dir.accounts["u1@x.test"] = director.Account{Created: first}
		r.dir.accounts["u3@x.test"] = director.Account{Created: first}
	})
	r.live.set("b1", false)
	id := r.one("250 ", "u1@x.test", "u3@x.test")
	r.spooled(1)
	r.live.set("b1", true)
	r.dir.do(func() {
		r.dir.accounts["u3@x.test"] = director.Account{Created: first.Add(time.Hour)}
		r.dir.records["u3@x.test"] = activeRecord("b1", 9)
	})
	r.dir.set("u1@x.test", director.Record{Home: "b1", Epoch: 8, State: director.Deleted})
	r.eventually("dead letters", func() bool { return r.metric("dead_letters_total") == 2 })
	r.eventually("no queue", func() bool { return r.metric("spool_entries") == 0 })
	e := r.spooled(1)[0]
	if e.State != spool.Dead || len(e.Recipients) != 2 || e.ID != id {
		t.Errorf("%+v", e)
	}
	if _, err := os.Stat(filepath.Join(r.srv.cfg.SpoolDir, "dead", id+".msg")); err != nil {
		t.Error(err)
	}
	if len(r.b1.Messages()) != 0 || !strings.Contains(r.logs.String(), "ALARM: dead letter") {
		t.Error("no alarm")
	}
}

// TestServer_restart: what was spooled outlives the process.
func TestServer_restart(t *testing.T) {
	r := newRig(t, never)
	r.live.set("b1", false)
	id := r.one("250 ")
	cfg := r.srv.cfg
	r.stop()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	r.live.set("b1", true)
	cfg.SpoolMinBackoff = time.Millisecond
	r.reg = newRig(t, nil).reg // another registry; the old one has the first server's metrics
	cfg.SpoolDir = r.srv.cfg.SpoolDir
	deps := Deps{Directory: r.dir, Dialer: fakeDialer{}, Authenticator: fakeAuth{}, Log: r.srv.log}
	srv, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background()) }()
	if m := r.b1.WaitMessages(1)[0]; m.Params[wire.ParamDelivery] != id {
		t.Errorf("%+v", m)
	}
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestServer_noSpace: without a spool there is no 250 for what needs it, and
// mail that does not need it goes on.
func TestServer_noSpace(t *testing.T) {
	r := newRig(t, func(c *Config) { never(c); c.MemoryBytes = 100 })
	for _, d := range []string{"tmp", "queue"} {
		if err := os.RemoveAll(filepath.Join(r.srv.cfg.SpoolDir, d)); err != nil {
			t.Fatal(err)
		}
	}
	r.one("250 ")
	r.live.set("b1", false)
	r.one("452 4.3.1")
	r.one("452 4.3.1", "u1@x.test", "u2@x.test")
	if r.metric("messages_total", "no_space") != 2 {
		t.Error("not counted")
	}
}

// TestServer_huge: a large message streams through, with its copy in a file,
// and is spooled for the home that is away, in little memory.
func TestServer_huge(t *testing.T) {
	r := newRig(t, never)
	const size = 96 << 20
	var count atomic.Int64
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Body: func(rd io.Reader) ([]byte, error) {
		n, err := io.Copy(io.Discard, rd)
		count.Store(n)
		return nil, err
	}})
	r.live.set("b2", false)
	p := r.hello()
	p.mail("u1@x.test", "u2@x.test")
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	chunk := []byte(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<14)) // 1 MiB
	spilled := false
	for sent := 0; sent < size; sent += len(chunk) {
		last := ""
		if sent+len(chunk) >= size {
			last = " LAST"
		}
		p.send(fmt.Sprintf("BDAT %d%s\r\n", len(chunk), last))
		if _, err := p.c.Write(chunk); err != nil {
			t.Fatal(err)
		}
		p.expect("250 ")
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapInuse)
		if m, _ := filepath.Glob(filepath.Join(r.srv.cfg.SpoolDir, "tmp", "*")); len(m) == 1 {
			spilled = true
		}
	}
	if grown := int64(peak) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if !spilled {
		t.Error("the copy was never in a file")
	}
	e := r.spooled(1)[0]
	if count.Load() != e.Size || e.Size < size || e.Size > size+1000 {
		t.Errorf("b1 got %d bytes, the spool %d", count.Load(), e.Size)
	}
	if m, _ := filepath.Glob(filepath.Join(r.srv.cfg.SpoolDir, "tmp", "*")); len(m) != 0 {
		t.Errorf("left over: %q", m)
	}
}

// TestServer_dovecot: a foreign home gets plain LMTP, the client's address
// where it trusts us, and its refusals count.
func TestServer_dovecot(t *testing.T) {
	r := newRig(t, nil)
	xclient := make(chan string, 10)
	dove := lmtptest.New(t, lmtptest.Script{
		Ext: []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "XCLIENT ADDR PORT HELO"}, XClient: func(a string) { xclient <- a },
		Rcpt: answers(map[string]string{"gone@x.test": "550 5.1.1 <gone@x.test> User doesn't exist"}),
	})
	r.dir.do(func() {
		r.dir.backends["d1"] = director.Backend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{LMTP: dove.Addr(), Trusted: true}}
		r.dir.records["du@x.test"], r.dir.records["gone@x.test"] = activeRecord("d1", 3), activeRecord("d1", 3)
	})
	p := r.hello()
	p.mail("du+Sub@x.test", "u1@x.test")
	p.cmd("RCPT TO:<gone@x.test>", "550 5.1.1")
	p.data(".dot\r\nx", "250 ")
	m := dove.WaitMessages(1)[0]
	checkBody(t, m, "dot\r\nx\r\n")
	if m.Chunked || len(m.Params) != 1 || len(m.Rcpts) != 1 || len(m.Rcpts[0].Params) != 0 || m.Rcpts[0].Addr != "du+Sub@x.test" {
		t.Errorf("%+v", m)
	}
	if a := <-xclient; !strings.HasPrefix(a, "ADDR=127.0.0.1 PORT=") || !strings.HasSuffix(a, " HELO=client.test") {
		t.Error(a)
	}
	r.b1.WaitMessages(1)
	dove.SetScript(lmtptest.Script{End: ends("451 4.2.0 later")})
	r.one("250 ", "du@x.test")
	dove.SetScript(lmtptest.Script{})
	dove.WaitMessages(3)
	r.spooled(0)
}
