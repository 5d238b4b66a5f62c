package mx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/lmtp/lmtptest"
	"waypost/internal/relayapi"
	"waypost/internal/spoolapi"
	"waypost/internal/wire"
	"waypost/mx/relay"
)

// smart is a smarthost: one answer after the message, however many recipients.
func smart(t *testing.T) *lmtptest.Server {
	return lmtptest.New(t, lmtptest.Script{Ext: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "SIZE 0"},
		End: func(lmtptest.Message) []string { return []string{"250 2.0.0 queued"} }})
}

func toSmart(s *lmtptest.Server, more ...func(*relay.Config)) func(*Config) {
	return func(c *Config) {
		c.Relay = relay.Config{Smarthost: s.Addr(), TLS: relay.TLSNone}
		for _, f := range more {
			f(&c.Relay)
		}
	}
}

func addrs(m lmtptest.Message) (out []string) {
	for _, r := range m.Rcpts {
		out = append(out, r.Addr)
	}
	slices.Sort(out)
	return out
}

// TestSubmission_mixed: local and outside recipients have one answer, and one
// message.
func TestSubmission_mixed(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s))
	p := r.login()
	p.cmd("MAIL FROM:<u1@x.test> BODY=8BITMIME RET=HDRS ENVID=e1", "250 ")
	for _, to := range []string{"a@out.test", "u2@x.test", "b@out.test", "a@out.test"} {
		p.cmd("RCPT TO:<"+to+"> NOTIFY=FAILURE", "250 ")
	}
	reply := p.data(testBody, "250 2.0.0 Accepted as ")
	id := strings.TrimSpace(strings.TrimPrefix(reply, "250 2.0.0 Accepted as "))
	m := s.WaitMessages(1)[0]
	checkBody(t, m, testBody+"\r\n")
	if m.From != "u1@x.test" || !slices.Equal(addrs(m), []string{"a@out.test", "b@out.test"}) || m.Params["BODY"] != "8BITMIME" || !strings.Contains(string(m.Body), " with ESMTPSA id "+id) {
		t.Errorf("%+v", m)
	}
	if l := r.b2.WaitMessages(1)[0]; string(l.Body) != string(m.Body) || l.Params[wire.ParamDelivery] != id {
		t.Errorf("%+v", l)
	}
	r.eventually("ended", func() bool { return len(r.srv.relay.List()) == 0 })
	if l := r.srv.spool.List(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	var left []string
	fs.WalkDir(os.DirFS(r.srv.cfg.SpoolDir), ".", func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() && filepath.Base(p) != "waypost.lock" {
			left = append(left, p)
		}
		return nil
	})
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestSubmission_outsideAlone(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s))
	p := r.login()
	p.cmd("MAIL FROM:<>", "250 ") // a read receipt, say
	p.cmd("RCPT TO:<A+b@Out.test>", "250 ")
	p.data(testBody, "250 ")
	if m := s.WaitMessages(1)[0]; m.From != "" || m.Rcpts[0].Addr != "A+b@Out.test" {
		t.Errorf("%+v", m)
	}
	r.eventually("ended", func() bool { return len(r.srv.relay.List()) == 0 })
	// What is malformed leaves nothing behind.
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<a@out.test>", "250 ")
	p.data("Subject: t\r\n\r\nbare\nLF", "554 ")
	if l := r.srv.relay.List(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
}

// TestSubmission_sender: nobody sends by an address of another.
func TestSubmission_sender(t *testing.T) {
	r := newRig(t, toSmart(smart(t)))
	r.dir.do(func() {
		r.dir.aliases["info@x.test"] = []string{"u2@x.test", "u1@x.test"}
		r.dir.aliases["other@x.test"] = []string{"u2@x.test"}
	})
	p := r.login()
	for _, from := range []string{"u2@x.test", "other@x.test", "no@x.test", "u1@out.test", "u1@x.test.out.test"} {
		p.cmd("MAIL FROM:<"+from+">", "550 5.7.1 Sender is not")
	}
	for _, from := range []string{"u1@x.test", "U1+folder@X.test", "info@x.test", ""} {
		p.cmd("MAIL FROM:<"+from+">", "250 ")
		p.cmd("RSET", "250 ")
	}
	r.dir.do(func() { r.dir.down = true })
	p.cmd("MAIL FROM:<unknown@x.test>", "451 ")
}

// TestNoRelay: from the internet nothing goes to the smarthost, by no trick.
func TestNoRelay(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s))
	for _, from := range []string{"s@y.test", "u1@x.test", ""} {
		for _, to := range []string{"u@elsewhere.test", "u1%y.test@elsewhere.test", "@x.test:u@elsewhere.test", `"u1@x.test"@elsewhere.test`, "u@[127.0.0.1]", "x.test!u@elsewhere.test"} {
			p := r.hello()
			p.cmd("MAIL FROM:<"+from+">", "250 ")
			p.cmd("RCPT TO:<"+to+">", "550 5.7.1 Relaying denied")
			p.cmd("RCPT TO:<"+to+"> NOTIFY=NEVER", "504 ")
			p.cmd("QUIT", "221 ")
		}
	}
	// Submission before the login, and after it what no smarthost can be given.
	p := dialPeer(t, r.srv.SubmissionAddrs()[0])
	p.expect("220 ")
	p.cmd("EHLO c", "250 ")
	p.tls()
	p.cmd("EHLO c", "250 ")
	p.cmd("MAIL FROM:<u1@x.test>", "530 ")
	p = r.login()
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	for _, to := range []string{"u@[127.0.0.1]", "u@localhost", "u@[IPv6:::1]"} {
		p.cmd("RCPT TO:<"+to+">", "553 5.1.3")
	}
	if c := s.Commands(); len(c) != 0 || len(r.srv.relay.List()) != 0 {
		t.Errorf("the smarthost was told %q", c)
	}
}

func TestSubmission_limits(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s, func(c *relay.Config) { c.UserPerHour = 2 }))
	p := r.login()
	send := func(want ...string) {
		t.Helper()
		p.cmd("MAIL FROM:<u1@x.test>", "250 ")
		for i, w := range want {
			p.cmd(fmt.Sprintf("RCPT TO:<a%d@out.test>", i), w)
		}
		p.cmd("RCPT TO:<u2@x.test>", "250 ")
		p.data(testBody, "250 ")
	}
	send("250 ", "250 ", "450 4.7.1 You may send to 2 recipients outside within a hour")
	send("450 4.7.1 ")
	if m := s.WaitMessages(1)[0]; len(m.Rcpts) != 2 {
		t.Errorf("%+v", m)
	}
	r.b2.WaitMessages(2)
}

// TestSubmission_noSpace: when the way out cannot keep it, nobody gets it.
func TestSubmission_noSpace(t *testing.T) {
	r := newRig(t, toSmart(smart(t)))
	if err := os.RemoveAll(filepath.Join(r.srv.cfg.SpoolDir, "relay", "queue")); err != nil {
		t.Fatal(err)
	}
	p := r.login()
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<a@out.test>", "250 ")
	p.cmd("RCPT TO:<u2@x.test>", "250 ")
	p.data(testBody, "452 4.3.1")
	if m := r.b2.Messages(); len(m) != 0 {
		t.Errorf("%+v", m)
	}
}

// TestSubmission_homeRefuses: who is outside is a yes, so the refusal of a home
// is for later; with nobody outside it is the answer.
func TestSubmission_homeRefuses(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s))
	r.b2.SetScript(lmtptest.Script{Ext: lmtptest.Full, End: ends("554 5.6.0 no")})
	p := r.login()
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<u2@x.test> NOTIFY=SUCCESS", "250 ")
	p.data(testBody, "554 5.6.0")
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<u2@x.test>", "250 ")
	p.cmd("RCPT TO:<a@out.test>", "250 ")
	p.data(testBody, "250 ")
	s.WaitMessages(1)
	if l := r.srv.spool.List(); len(l) != 1 || l[0].Recipients[0].User != "u2@x.test" {
		t.Errorf("%+v", l)
	}
}

// TestSubmission_reports: a failure and a success are told to the user, by the
// way inward.
func TestSubmission_reports(t *testing.T) {
	s := smart(t)
	s.SetScript(lmtptest.Script{Ext: []string{"PIPELINING"}, Rcpt: answers(map[string]string{"no@out.test": "550 5.1.1 nobody"})})
	r := newRig(t, toSmart(s))
	p := r.login()
	p.cmd("MAIL FROM:<u1@x.test> ENVID=e1", "250 ")
	p.cmd("RCPT TO:<no@out.test>", "250 ")
	p.data(testBody, "250 ")
	m := r.b1.WaitMessages(1)[0]
	if body := string(m.Body); m.From != "" || m.Rcpts[0].Addr != "u1@x.test" || m.Rcpts[0].Params[wire.ParamAccepted] != "1" ||
		!strings.Contains(body, "Final-Recipient: rfc822; no@out.test\r\nAction: failed\r\nStatus: 5.1.1\r\n") || !strings.Contains(body, "Original-Envelope-Id: e1\r\n") {
		t.Errorf("%+v: %s", m, body)
	}
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<u2@x.test> NOTIFY=SUCCESS", "250 ")
	p.data(testBody, "250 ")
	if body := string(r.b1.WaitMessages(2)[1].Body); !strings.Contains(body, "Final-Recipient: rfc822; u2@x.test\r\nAction: relayed\r\n") {
		t.Error(body)
	}
}

// TestForward: members of addresses who are outside get the mail by the
// smarthost, from the original sender, who is never told of a failure.
func TestForward(t *testing.T) {
	s := smart(t)
	s.SetScript(lmtptest.Script{Ext: []string{"PIPELINING"}, Rcpt: answers(map[string]string{"no@out.test": "550 5.1.1 nobody"}),
		End: func(lmtptest.Message) []string { return []string{"250 2.0.0 queued"} }})
	r := newRig(t, toSmart(s))
	r.dir.do(func() {
		r.dir.aliases["both@x.test"] = []string{"u1@x.test", "a@out.test"}
		r.dir.aliases["away@x.test"] = []string{"b@out.test", "no@out.test"}
		r.dir.aliases["gone@x.test"] = []string{"u@[127.0.0.1]"}
	})
	p := r.hello()
	p.mail("both@x.test", "away@x.test")
	p.cmd("RCPT TO:<gone@x.test>", "550 5.1.1")
	p.data(testBody, "250 ")
	checkBody(t, r.b1.WaitMessages(1)[0], testBody+"\r\n")
	m := s.WaitMessages(1)[0]
	if m.From != "s@y.test" || !slices.Equal(addrs(m), []string{"a@out.test", "b@out.test"}) {
		t.Errorf("%+v", m)
	}
	r.eventually("dead", func() bool { l := r.srv.relay.List(); return len(l) == 1 && l[0].State == relay.Dead })
	if e := r.srv.relay.List()[0]; e.Kind != relay.Forward || e.Recipients[0].To != "no@out.test" {
		t.Errorf("%+v", e)
	}
	if l := r.srv.spool.List(); len(l) != 0 || len(s.Messages()) != 1 {
		t.Errorf("somebody was told: %+v", l)
	}
}

// mesh is a real cluster's control between nodes.
type mesh struct {
	t    *testing.T
	dir  string
	ca   *cluster.Authority
	base string
}

func (r *rig) mesh() *mesh {
	r.t.Helper()
	m := &mesh{t: r.t, dir: r.t.TempDir()}
	var err error
	if m.ca, err = cluster.CreateAuthority(m.dir, "test"); err != nil {
		r.t.Fatal(err)
	}
	mux, err := m.id(cluster.RoleMX, "mx1").Listen("127.0.0.1:0", r.srv.log)
	if err != nil {
		r.t.Fatal(err)
	}
	mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleAdmin, cluster.RoleDirector, cluster.RoleBackend, cluster.RoleProxy}, r.srv.Control())
	ctx := r.t.Context()
	go mux.Serve(ctx)
	r.t.Cleanup(func() { mux.Shutdown(ctx) })
	m.base = "https://" + mux.Addr().String()
	return m
}

func (m *mesh) id(role cluster.Role, name string) *cluster.Identity {
	m.t.Helper()
	p := cluster.Peer{Role: role, ID: name}
	if err := m.ca.IssueTo(m.dir, p, []string{"127.0.0.1"}); err != nil {
		m.t.Fatal(err)
	}
	id, err := cluster.LoadIdentity(filepath.Join(m.dir, cluster.AuthorityCert), cluster.CertPath(m.dir, p), cluster.KeyPath(m.dir, p))
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

func (m *mesh) relay(role cluster.Role) *relayapi.Client {
	return &relayapi.Client{HTTP: m.id(role, "n1").HTTPClient(cluster.Peer{Role: cluster.RoleMX, ID: "mx1"}, cluster.ProtoControl), Base: m.base}
}

func (m *mesh) spool(role cluster.Role) *spoolapi.Client {
	return &spoolapi.Client{HTTP: m.id(role, "n1").HTTPClient(cluster.Peer{Role: cluster.RoleMX, ID: "mx1"}, cluster.ProtoControl), Base: m.base}
}

func redirect(id string, to ...string) relayapi.Message {
	return relayapi.Message{ID: id, Kind: relayapi.KindRedirect, User: "u1@x.test", From: "stranger@far.test", To: to}
}

// TestHandover: what a backend hands over goes where it is to go, once.
func TestHandover(t *testing.T) {
	s := smart(t)
	r := newRig(t, toSmart(s))
	m := r.mesh()
	c, ctx := m.relay(cluster.RoleBackend), t.Context()
	msg := "Subject: t\n\nä\n" + strings.Repeat("line\n", 100_000)
	out := redirect("d/1:redirect", "a@out.test", "u2@x.test")
	first, err := c.Send(ctx, out, strings.NewReader(msg))
	if err != nil || first.Known || first.ID != relay.EntryID(out.ID) {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := c.Send(ctx, out, strings.NewReader(msg))
	if err != nil || !again.Known || again.ID != first.ID {
		t.Errorf("%+v, %v", again, err)
	}
	want := "X-Waypost-Loop: u1@x.test\r\n" + strings.ReplaceAll(msg, "\n", "\r\n")
	outside, inside := s.WaitMessages(1)[0], r.b2.WaitMessages(1)[0]
	for _, got := range []lmtptest.Message{outside, inside} {
		checkBody(t, got, want)
		if got.From != "stranger@far.test" || len(got.Rcpts) != 1 {
			t.Errorf("%+v", got.Rcpts)
		}
	}
	// It comes back to the same user, whose script redirects it again.
	_, err = c.Send(ctx, redirect("d2", "a@out.test"), strings.NewReader(string(inside.Body)))
	if !relayapi.IsCode(err, relayapi.CodeLoop) || !relayapi.Permanent(err) {
		t.Errorf("a loop: %v", err)
	}
	other := redirect("d3", "a@out.test")
	other.User = "u2@x.test"
	if _, err := c.Send(ctx, other, strings.NewReader(string(inside.Body))); err != nil {
		t.Errorf("of another user: %v", err)
	}
	reply := redirect("d4", "a@out.test")
	reply.Kind, reply.From = relayapi.KindVacation, "u1@x.test"
	if _, err := c.Send(ctx, reply, strings.NewReader("Subject: away\n\nb\n")); err != nil {
		t.Error(err)
	}
	got := s.WaitMessages(3)
	if i := slices.IndexFunc(got, func(m lmtptest.Message) bool { return m.From == "" }); i < 0 || !strings.Contains(string(got[i].Body), "\r\nAuto-Submitted: auto-replied\r\n") {
		t.Errorf("the reply: %+v", got)
	}
	for name, bad := range map[string]relayapi.Message{
		"user": {ID: "x", Kind: relayapi.KindNotify, User: "nobody", To: []string{"a@out.test"}},
		"from": {ID: "x", Kind: relayapi.KindNotify, User: "u1@x.test", From: "a\r\nb@c", To: []string{"a@out.test"}},
		"to":   {ID: "x", Kind: relayapi.KindNotify, User: "u1@x.test", To: []string{"a@out.test", ""}},
	} {
		if _, err := c.Send(ctx, bad, strings.NewReader(msg)); !relayapi.IsCode(err, relayapi.CodeBad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHandover_limits: what is too much, and what a cluster without a smarthost
// says.
func TestHandover_limits(t *testing.T) {
	r := newRig(t, func(c *Config) {
		toSmart(smart(t), func(c *relay.Config) { c.UserPerDay = 1 })(c)
		c.MaxMessageBytes = 1000
	})
	c, ctx := r.mesh().relay(cluster.RoleBackend), t.Context()
	if _, err := c.Send(ctx, redirect("a", "a@out.test"), strings.NewReader("A: b\n\n"+strings.Repeat("x", 2000))); !relayapi.IsCode(err, relayapi.CodeTooLarge) {
		t.Error(err)
	}
	if _, err := c.Send(ctx, redirect("b", "a@out.test"), strings.NewReader("A: b\n\n")); err != nil {
		t.Error(err)
	}
	if _, err := c.Send(ctx, redirect("c", "a@out.test"), strings.NewReader("A: b\n\n")); !relayapi.IsCode(err, relayapi.CodeLimited) || relayapi.Permanent(err) {
		t.Error(err)
	}
	r = newRig(t, nil)
	c = r.mesh().relay(cluster.RoleBackend)
	if _, err := c.Send(ctx, redirect("a", "a@out.test"), strings.NewReader("A: b\n\n")); !relayapi.IsCode(err, relayapi.CodeNoRoute) || !relayapi.Permanent(err) {
		t.Error(err)
	}
	if _, err := c.Send(ctx, redirect("b", "u2@x.test"), strings.NewReader("A: b\n\n")); err != nil {
		t.Error(err)
	}
	r.b2.WaitMessages(1)
	r.stop()
	<-r.srv.ended
	if _, err := c.Send(ctx, redirect("c", "u2@x.test"), strings.NewReader("A: b\n\n")); !relayapi.IsCode(err, relayapi.CodeFull) {
		t.Errorf("while shutting down: %v", err)
	}
}

// TestControl_roles: backends hand over and operators steer, and nobody does
// the other's.
func TestControl_roles(t *testing.T) {
	s := smart(t)
	s.SetScript(lmtptest.Script{Rcpt: answers(map[string]string{"a@out.test": "451 4.3.0 later"})})
	r := newRig(t, toSmart(s))
	m, ctx := r.mesh(), t.Context()
	for _, role := range []cluster.Role{cluster.RoleAdmin, cluster.RoleDirector, cluster.RoleProxy} {
		if _, err := m.relay(role).Send(ctx, redirect("a", "a@out.test"), strings.NewReader("A: b\n\n")); !relayapi.IsCode(err, relayapi.CodeForbidden) {
			t.Errorf("%s: %v", role, err)
		}
	}
	for _, role := range []cluster.Role{cluster.RoleBackend, cluster.RoleProxy} {
		if _, err := m.spool(role).List(ctx); !spoolapi.IsCode(err, spoolapi.CodeForbidden) {
			t.Errorf("%s: %v", role, err)
		}
	}
	if _, err := m.relay(cluster.RoleBackend).Send(ctx, redirect("d1", "a@out.test"), strings.NewReader("A: b\n\n")); err != nil {
		t.Fatal(err)
	}
	op := m.spool(cluster.RoleAdmin)
	var e spoolapi.Entry
	r.eventually("tried", func() bool {
		l, err := op.List(ctx)
		if err != nil || len(l.Entries) != 1 {
			t.Fatal(l, err)
		}
		e = l.Entries[0]
		return e.Attempts == 1
	})
	if e.ID != "d1" || e.Queue != spoolapi.QueueOut || e.Kind != "redirect" || e.User != "u1@x.test" || e.Recipients[0].Address != "a@out.test" || e.NextTry.IsZero() || e.LastError == "" {
		t.Errorf("%+v", e)
	}
	if got, err := op.Retry(ctx, spoolapi.RetryRequest{User: "u1@x.test"}); err != nil || got.Retried != 1 {
		t.Error(got, err)
	}
	r.eventually("dropped", func() bool {
		got, err := op.Drop(ctx, spoolapi.DropRequest{ID: "d1"})
		return err == nil && got.Dropped == 1
	})
	if _, err := op.Drop(ctx, spoolapi.DropRequest{ID: "d1"}); !spoolapi.IsCode(err, spoolapi.CodeNotFound) {
		t.Error(err)
	}
	if again, err := m.relay(cluster.RoleBackend).Send(ctx, redirect("d1", "a@out.test"), strings.NewReader("A: b\n\n")); err != nil || !again.Known {
		t.Errorf("a dropped one again: %+v, %v", again, err)
	}
}

// TestRelay_restart: what has been answered for leaves after the next start.
func TestRelay_restart(t *testing.T) {
	s := smart(t)
	s.SetScript(lmtptest.Script{Rcpt: answers(map[string]string{"a@out.test": "451 4.3.0 later"})})
	r := newRig(t, toSmart(s))
	p := r.login()
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<a@out.test>", "250 ")
	p.data(testBody, "250 ")
	r.stop()
	<-r.done
	s.SetScript(lmtptest.Script{End: func(lmtptest.Message) []string { return []string{"250 2.0.0 queued"} }})
	r.reg = prometheus.NewRegistry()
	r.start(r.srv.cfg)
	for _, e := range r.srv.relay.List() {
		if err := r.srv.relay.Retry(e.ID); err != nil && !errors.Is(err, relay.ErrNotFound) {
			t.Error(err)
		}
	}
	checkBody(t, s.WaitMessages(1)[0], testBody+"\r\n")
}

// TestMeaning: a directory that is away is no answer.
func TestMeaning(t *testing.T) {
	r := newRig(t, nil)
	r.dir.do(func() {
		r.dir.aliases["l@x.test"] = []string{"u1@x.test", "a@out.test", "u@[::1]"}
		r.dir.accounts["u1@x.test"] = director.Account{Created: time.Unix(1, 0)}
	})
	m, err := r.srv.meaning(t.Context(), "l@x.test")
	if err != nil || len(m.Users) != 1 || m.Users[0].Home != "b1" || m.Users[0].Epoch != 7 || !m.Users[0].AccountCreated.Equal(time.Unix(1, 0)) || !slices.Equal(m.Outside, []string{"a@out.test"}) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := r.srv.meaning(t.Context(), "no@x.test"); !errors.Is(err, relay.ErrUnknown) {
		t.Error(err)
	}
	r.dir.do(func() { r.dir.down = true })
	if _, err := r.srv.meaning(t.Context(), "no@x.test"); err == nil || errors.Is(err, relay.ErrUnknown) {
		t.Error(err)
	}
}
