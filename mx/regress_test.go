package mx

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/lmtp/lmtptest"
	"waypost/internal/wire"
	"waypost/mx/spool"
)

// put brings an entry into the spool as an earlier mx may have left it.
func (r *rig) put(e spool.Envelope, body string) {
	r.t.Helper()
	e.Received = time.Now()
	d := r.srv.spool.Draft()
	d.Write([]byte(body))
	if err := r.srv.spool.Add(d, e, 0); err != nil {
		r.t.Fatal(err)
	}
}

// attempted waits until an entry was tried so often.
func (r *rig) attempted(n int) spool.Entry {
	r.t.Helper()
	r.eventually(fmt.Sprint(n, " attempts"), func() bool { l := r.srv.spool.List(); return len(l) == 1 && l[0].Attempts >= n })
	return r.srv.spool.List()[0]
}

// TestUnwritableAddress_refusedInSession: what no home could be told of is
// refused at once, and takes no home and no other recipient along.
func TestUnwritableAddress_refusedInSession(t *testing.T) {
	r := newRig(t, never)
	p := r.hello()
	p.cmd("MAIL FROM:<a@b<c>", "5")
	p.cmd("MAIL FROM:<s@y.test>", "250 ")
	p.cmd("RCPT TO:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<\"u3+\x01\"@x.test>", "553 5.1.3")
	p.cmd("RCPT TO:<u3+"+strings.Repeat("y", 1000)+"@x.test>", "553 5.1.3")
	p.cmd("RCPT TO:<u3@x.test>", "250 ")
	p.data(testBody, "250 ")
	if m := r.b1.WaitMessages(1)[0]; len(m.Rcpts) != 2 || len(r.srv.spool.List()) != 0 {
		t.Errorf("%+v", m.Rcpts)
	}
}

// TestUnwritableAddress_spooled: entries that are in a spool already get out,
// and so do the others of their group.
func TestUnwritableAddress_spooled(t *testing.T) {
	r := newRig(t, never)
	r.dir.set("bad user@x.test", activeRecord("b1", 7))
	r.dir.set("\x01@x.test", activeRecord("b1", 7))
	r.put(spool.Envelope{ID: "id1", Sender: "a@b<c", Recipients: []spool.Recipient{
		{User: "u1@x.test", Folder: "\x01"}, {User: "bad user@x.test", Home: "b1"}, {User: "u3@x.test", Folder: "ok"}}}, testBody)
	r.put(spool.Envelope{ID: "id2", Recipients: []spool.Recipient{{User: "\x01@x.test"}, {User: "u2@x.test"}, {User: "u3@x.test"}}}, testBody)
	r.b2.WaitMessages(1)
	for _, m := range r.b1.WaitMessages(2) {
		want := []string{"u1@x.test", `"bad user"@x.test`, "u3+ok@x.test"}
		if m.Params[wire.ParamDelivery] == "id2" {
			want = []string{"u3@x.test"}
		}
		var have []string
		for _, rc := range m.Rcpts {
			have = append(have, rc.Addr)
		}
		if m.From != "" || !slices.Equal(have, want) {
			t.Errorf("from %q to %q", m.From, have)
		}
	}
	if e := r.attempted(1); e.ID != "id2" || len(e.Recipients) != 1 {
		t.Errorf("%+v", e)
	}
}

// TestServe_endsWhenCancelledAtStart: go-smtp's Shutdown may come before its
// Serve knows the listener.
func TestServe_endsWhenCancelledAtStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		cfg := Config{Listen: []string{"127.0.0.1:0", "127.0.0.1:0"}, Hostname: "mx.test", SpoolDir: t.TempDir()}
		srv, err := New(cfg, Deps{Directory: newFakeDir(), Dialer: fakeDialer{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it hangs")
		}
	}
}

// TestRetrySoon_onlyAfterDelivery: a home that takes a part of the recipients
// and then refuses the message gets it again by the backoff only.
func TestRetrySoon_onlyAfterDelivery(t *testing.T) {
	r := newRig(t, never)
	var n, sent atomic.Int64
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(rc lmtptest.Rcpt) string {
		if rc.Addr == "u3@x.test" {
			return "452 4.5.3 too many"
		}
		return "250 2.1.5 ok"
	}, End: func(m lmtptest.Message) []string {
		if sent.Add(1); n.Load() == 0 {
			return []string{"451 4.3.0 no"}
		}
		return []string{"250 2.0.0 ok"}
	}})
	r.put(spool.Envelope{ID: "id1", Recipients: []spool.Recipient{{User: "u1@x.test"}, {User: "u3@x.test"}}}, testBody)
	if r.attempted(1); sent.Load() != 1 {
		t.Errorf("%d messages", sent.Load())
	}
	n.Store(1)
	r.srv.spool.Wake("u1@x.test")
	// u1 is delivered to; the very next try, soon, asks for u3 and is counted.
	e := r.attempted(2)
	if len(e.Recipients) != 1 || e.Recipients[0].User != "u3@x.test" {
		t.Errorf("%+v", e)
	}
}

// TestPerson_notFromStaleMemory: location and account are read together before
// mail is buried or delivered (R12).
func TestPerson_notFromStaleMemory(t *testing.T) {
	first := time.Now().Add(-time.Hour)
	later := time.Now().Add(time.Hour)
	for name, tc := range map[string]struct {
		entry         spool.Recipient
		memory, truth director.Account
		epoch         director.Epoch
		dead          bool
	}{
		"next person, memory has the former":     {spool.Recipient{AccountCreated: first, Epoch: 5}, director.Account{Created: first}, director.Account{Created: later}, 7, true},
		"same person, memory has the former one": {spool.Recipient{AccountCreated: first, Epoch: 5}, director.Account{Created: later}, director.Account{Created: first}, 7, false},
		"unknown person, made later":             {spool.Recipient{Epoch: 5}, director.Account{}, director.Account{Created: later}, 7, true},
		"unknown person, made before":            {spool.Recipient{Epoch: 5}, director.Account{}, director.Account{Created: first}, 7, false},
		"same record":                            {spool.Recipient{AccountCreated: first, Epoch: 7}, director.Account{Created: later}, director.Account{Created: first}, 7, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, never)
			r.dir.do(func() { r.dir.accounts["u1@x.test"], r.dir.trueAccounts["u1@x.test"] = tc.memory, tc.truth })
			tc.entry.User = "u1@x.test"
			r.put(spool.Envelope{ID: "id1", Recipients: []spool.Recipient{tc.entry}}, testBody)
			r.eventually("an end", func() bool { return r.srv.spool.Stats().Queued == 0 })
			if got := r.srv.spool.Stats().Dead == 1; got != tc.dead || len(r.b1.Messages()) == 1 == tc.dead {
				t.Errorf("dead: %v, delivered %d", got, len(r.b1.Messages()))
			}
		})
	}
}

// TestAcceptance_keepsTheEpoch: what is spooled tells by which record.
func TestAcceptance_keepsTheEpoch(t *testing.T) {
	r := newRig(t, never)
	r.live.set("b1", false)
	r.one("250 ")
	if e := r.spooled(1)[0]; e.Recipients[0].Epoch != 7 {
		t.Errorf("%+v", e)
	}
}

// TestDisabled_staleMemoryIsTemporary: nothing permanent is said from memory.
func TestDisabled_staleMemoryIsTemporary(t *testing.T) {
	r := newRig(t, never)
	r.live.set("b1", false)
	r.dir.do(func() { r.dir.accounts["u1@x.test"] = director.Account{Disabled: true}; r.dir.down = true })
	p := r.hello()
	p.cmd("MAIL FROM:<s@y.test>", "250 ")
	p.cmd("RCPT TO:<u1@x.test>", "450 4.2.1")
}

// TestDovecotRefusal_staleMemory: a home without a fence refuses whom it has
// no more; the right home is asked then.
func TestDovecotRefusal_staleMemory(t *testing.T) {
	r := newRig(t, never)
	dove := lmtptest.New(t, lmtptest.Script{Rcpt: func(lmtptest.Rcpt) string { return "550 5.1.1 no such user" }})
	r.dir.do(func() {
		r.dir.backends["d1"] = director.Backend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{LMTP: dove.Addr()}}
		r.dir.records["du@x.test"], r.dir.truth["du@x.test"] = activeRecord("d1", 3), activeRecord("b1", 7)
		r.dir.records["no@x.test"] = activeRecord("d1", 3)
	})
	p := r.hello()
	p.mail("du@x.test")
	p.cmd("RCPT TO:<no@x.test>", "550 5.1.1")
	p.data(testBody, "250 ")
	r.b1.WaitMessages(1)
	r.dir.do(func() { r.dir.down = true })
	p.cmd("MAIL FROM:<s@y.test>", "250 ")
	p.cmd("RCPT TO:<no@x.test>", "451 4.3.0")
}

// TestListMember_neverSilent: a full member gets its mail from the spool, one
// that is refused for good leaves a dead letter.
func TestListMember_neverSilent(t *testing.T) {
	r := newRig(t, never)
	r.dir.do(func() {
		r.dir.aliases["all@x.test"] = []string{"u2@x.test", "full@x.test", "off@x.test", "gone@x.test"}
		r.dir.records["full@x.test"], r.dir.records["off@x.test"] = activeRecord("b1", 7), activeRecord("b1", 7)
		r.dir.records["gone@x.test"] = director.Record{Home: "b1", Epoch: 7, State: director.Deleted}
	})
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(rc lmtptest.Rcpt) string {
		switch {
		case rc.Params[wire.ParamAccepted] != "":
			return "250 2.1.5 ok"
		case rc.Addr == "full@x.test":
			return "552 5.2.2 full"
		}
		return "550 5.2.1 disabled"
	}})
	p := r.hello()
	p.mail("all@x.test")
	p.cmd("RCPT TO:<off@x.test>", "550 5.2.1") // said to him who asks
	p.data(testBody, "250 ")
	if m := r.b1.WaitMessages(1)[0]; len(m.Rcpts) != 1 || m.Rcpts[0].Addr != "full@x.test" {
		t.Errorf("%+v", m.Rcpts)
	}
	r.eventually("dead letters", func() bool { return r.srv.spool.Stats() == spool.Stats{Dead: 1} })
	if e := r.srv.spool.List()[0]; len(e.Recipients) != 2 || r.metric("dead_letters_total") != 2 || r.metric("list_members_refused_total") != 2 {
		t.Errorf("%+v", e)
	}
	// The operator may have it delivered all the same.
	if err := r.srv.spool.Retry(r.srv.spool.List()[0].ID); err != nil {
		t.Fatal(err)
	}
	if m := r.b1.WaitMessages(2)[1]; len(m.Rcpts) != 1 || m.Rcpts[0].Addr != "off@x.test" {
		t.Errorf("%+v", m.Rcpts)
	}
}

// TestListMember_notTheOnlyReason: when all others refuse at the end, so do we.
func TestListMember_notTheOnlyReason(t *testing.T) {
	r := newRig(t, never)
	r.dir.do(func() {
		r.dir.aliases["all@x.test"] = []string{"u2@x.test", "off@x.test"}
		r.dir.records["off@x.test"] = activeRecord("b1", 7)
	})
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return "550 5.2.1 disabled" }})
	r.b2.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: ends("554 5.6.0 no")})
	r.one("554 5.6.0", "all@x.test")
	if m, _ := filepath.Glob(filepath.Join(r.srv.cfg.SpoolDir, "queue", "*")); len(m) != 0 || len(r.srv.spool.List()) != 0 {
		t.Errorf("left over: %q", m)
	}
}

// TestSpoolFull_noHomeCommits: 452 for want of space comes before any home has
// the message, or each try of the sender would be another copy.
func TestSpoolFull_noHomeCommits(t *testing.T) {
	for name, fill := range map[string]func(*rig){
		"full": func(r *rig) {
			r.put(spool.Envelope{ID: "id1", Recipients: []spool.Recipient{{User: "u1@x.test"}}}, "x")
		},
		"disk": func(r *rig) {
			if err := os.RemoveAll(filepath.Join(r.srv.cfg.SpoolDir, "queue")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { never(c); c.SpoolMaxEntries = 1 })
			r.live.set("b1", false)
			fill(r)
			r.one("452 4.3.1", "u1@x.test", "u2@x.test")
			r.one("452 4.3.1", "u2@x.test", "u1@x.test")
			r.one("250 ", "u2@x.test")
			if n := len(r.b2.WaitMessages(1)); n != 1 {
				t.Errorf("%d copies", n)
			}
		})
	}
}

// TestSpoolTurn_costsNoRead: what waits for its turn at a slow home asks
// nobody and is no event.
func TestSpoolTurn_costsNoRead(t *testing.T) {
	r := newRig(t, never)
	for range r.srv.slots.limit {
		r.srv.slots.take("b1")
	}
	a := spool.Attempt{Attempts: 3, Envelope: spool.Envelope{ID: "id1", Recipients: []spool.Recipient{{User: "u1@x.test"}, {User: "u3@x.test"}}}}
	res := r.srv.retry(t.Context(), a)
	if len(res.Later) != 2 || res.Soon == 0 || r.dir.fresh != 0 {
		t.Errorf("%+v, %d reads", res, r.dir.fresh)
	}
	if strings.Contains(r.logs.String(), "spool entry tried") {
		t.Error("it was logged")
	}
}

// login opens a submission session of u1.
func (r *rig) login() *peer {
	r.t.Helper()
	p := dialPeer(r.t, r.srv.SubmissionAddrs()[0])
	p.expect("220 ")
	p.cmd("EHLO c", "250 ")
	p.tls()
	p.cmd("EHLO c", "250 ")
	p.cmd("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00u1@x.test\x00secret")), "235 ")
	return p
}

// TestSubmission_doesNotOutliveTheAccount: each message looks at it again.
func TestSubmission_doesNotOutliveTheAccount(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fakeDir)
		want   string
	}{
		"disabled": {func(d *fakeDir) { d.accounts["u1@x.test"] = director.Account{Disabled: true} }, "535 5.7.8"},
		"service":  {func(d *fakeDir) { d.accounts["u1@x.test"] = director.Account{Services: []string{"imap"}} }, "535 5.7.8"},
		"password": {func(d *fakeDir) { d.version = 2 }, "421 4.7.0"},
		"deleted":  {func(d *fakeDir) { delete(d.accounts, "u1@x.test") }, "421 4.7.0"},
		"new": {func(d *fakeDir) {
			delete(d.accounts, "u1@x.test")
			d.trueAccounts["u1@x.test"] = director.Account{}
		}, "250 "},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			p := r.login()
			p.cmd("MAIL FROM:<u1@x.test>", "250 ")
			p.cmd("RSET", "250 ")
			r.dir.do(func() { tc.change(r.dir) })
			p.cmd("MAIL FROM:<u1@x.test>", tc.want)
			if tc.want[0] != '2' {
				p.closed()
			}
		})
	}
}

// TestConnections_byService: mail from anywhere leaves submission its share.
func TestConnections_byService(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConnections, c.MaxSubmissions = 1, 1 })
	r.hello()
	p := r.dial()
	p.expect("421 ")
	r.login()
	dialPeer(t, r.srv.SubmissionAddrs()[0]).expect("421 ")
}

// TestIdle_isCut: a connection is for sending messages.
func TestIdle_isCut(t *testing.T) {
	t.Run("commands", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.IdleCommands = 5 })
		p := r.hello()
		for range 3 {
			p.mail("u1@x.test")
			p.data(testBody, "250 ")
			p.cmd("NOOP", "250 ")
		}
		for range 3 {
			p.cmd("MAIL FROM:<>", "250 ")
			p.cmd("RSET", "250 ")
		}
		p.cmd("NOOP", "250 ")
		p.cmd("NOOP", "421 4.7.0")
		p.closed()
	})
	t.Run("time", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.IdleTimeout = 50 * time.Millisecond })
		p := r.dial()
		p.expect("220 ")
		p.expect("421 ")
		p.closed()
	})
}

// TestPostmaster_secondMessage: the address without a domain is known in every
// message of a connection, chunks of former ones untouched.
func TestPostmaster_secondMessage(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	for range 3 {
		p.mail("postmaster")
		p.data(testBody, "250 ")
		p.mail("postmaster")
		body := "STARTTLS\r\nRCPT TO:<postmaster>\r\n"
		p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
		p.expect("250 ")
	}
	ms := r.b1.WaitMessages(6)
	checkBody(t, ms[4], testBody+"\r\n")
	checkBody(t, ms[5], "STARTTLS\r\nRCPT TO:<postmaster>\r\n")
}
