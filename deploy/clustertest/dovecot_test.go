package clustertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"waypost/director"
	"waypost/director/admin"
)

// TestDovecotBackend: real Dovecots as backends beside those of the cluster,
// as an operator has them who lost Dovecot's director.
func TestDovecotBackend(t *testing.T) {
	beside(t)
	need(t, "dovecot", "swaks", "curl")
	c := &foreign{clients: &clients{testCluster: newCluster(t), dir: t.TempDir(), sent: make(mailbags)}}
	c.withUsers(0)
	// d1x believes us and takes users' own passwords, d2x a master's only.
	c.trusting = startDovecot(t, map[string]string{"own@example.test": password}, true)
	c.plain = startDovecot(t, map[string]string{"master@example.test": "not the user's"}, false)
	c.put(t, "d1x", c.trusting, func(d *director.Dovecot) { d.Trusted = true })
	c.put(t, "d2x", c.plain, func(d *director.Dovecot) {
		d.MasterUser, d.MasterPasswordFile = "boss", put(t, c.dir, "master", "master\n", 0o600)
	})
	c.own = c.user(t, "own@example.test", "d1x")
	c.master = c.user(t, "master@example.test", "d2x")
	c.alice = c.user(t, "alice@example.test", "b1")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"mail in", c.mailIn}, {"own password", c.ownPassword}, {"master user", c.masterUser}, {"not trusted", c.notTrusted},
		{"no moves", c.noMoves}, {"how the operator sees it", c.operator}, {"Dovecot is down", c.down},
	} {
		t.Run(step.name, step.run)
	}
}

type foreign struct {
	*clients
	trusting, plain *dovecot
	own, master     director.User
}

func (c *foreign) put(t *testing.T, id director.BackendID, d *dovecot, alter func(*director.Dovecot)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := d.settings()
	alter(&s)
	if _, err := c.admin.PutBackend(ctx, id, admin.PutBackend{Kind: director.KindDovecot, Dovecot: &s}); err != nil {
		t.Fatal(err)
	}
}

// client is the address that programs connect from, so that it differs from
// that of the proxies.
const client = "127.0.0.77"

func (c *foreign) mailIn(t *testing.T) {
	text := letter("for a Dovecot user")
	c.swaksOK(t, text, c.addr(2525), "--local-interface", client, "--to", string(c.own))
	c.sent.add(text, string(c.own))
	c.trusting.logs(t, "lmtp(", "Disconnect from "+client)

	text = letter("three homes of two kinds")
	r := c.swaks(t, text, c.addr(2526), "--to", strings.Join([]string{string(c.alice), string(c.own), string(c.master)}, ","))
	if r.code != 0 || strings.Count(r.out, "-> RCPT TO") != 3 || !strings.Contains(r.out, "250 2.0.0 Accepted") {
		t.Errorf("swaks ended with %d; it said:\n%s", r.code, r.out)
	}
	c.sent.add(text, string(c.alice), string(c.own), string(c.master))
	c.sent.same(t, "our client", string(c.alice), c.bodies(t, c.alice, "INBOX"))

	text = letter("a folder of a Dovecot user")
	c.swaksOK(t, text, c.addr(2525), "--to", "own+Projects@example.test")
	c.sent.add(text, string(c.own)+"/Projects")

	// A user whom the directory has there and Dovecot does not know.
	ghost := c.user(t, "ghost@example.test", "d1x")
	refused(t, "unknown to Dovecot", c.swaks(t, letter("never"), c.addr(2525), "--to", string(ghost)), "550 5.1.1")
}

// readsAll reads INBOX and the folder with curl, by IMAP and by POP3.
func (c *foreign) readsAll(t *testing.T, u director.User) {
	t.Helper()
	from := []string{"--interface", client}
	n := len(c.sent[string(u)])
	c.sent.same(t, "IMAP", string(u), c.curlAll(t, "imap://"+c.addr(1143)+"/", "INBOX", u, n, from))
	c.sent.same(t, "IMAPS", string(u), c.curlAll(t, fmt.Sprintf("imaps://127.0.0.1:%d/", 1993+c.offset), "INBOX", u, n, append(from, "--cacert", c.ca)))
	c.sent.same(t, "POP3", string(u), c.curlAll(t, "pop3://"+c.addr(1110)+"/", "", u, n, from))
	c.sent.same(t, "POP3S", string(u), c.curlAll(t, fmt.Sprintf("pop3s://127.0.0.1:%d/", 1995+c.offset), "", u, n, append(from, "--cacert", c.ca)))
	box := string(u) + "/Projects"
	if c.sent[box] != nil {
		c.sent.same(t, "IMAP", box, c.curlAll(t, "imap://"+c.addr(1144)+"/", "Projects", u, len(c.sent[box]), from))
	}
}

func (c *foreign) ownPassword(t *testing.T) {
	c.readsAll(t, c.own)
	for _, service := range []string{"imap-login", "pop3-login"} {
		c.trusting.logs(t, service+": ", "Login: user=<own@example.test>", "rip="+client)
	}
	for _, url := range []string{"imap://" + c.addr(1143) + "/", "pop3://" + c.addr(1110) + "/"} {
		if r := run(t, c.dir, "curl", "-sS", "-u", string(c.own)+":wrong", url); r.code != 67 {
			t.Errorf("wrong password: curl ended with %d: %s", r.code, r.out)
		}
	}
	// What a client does beyond reading goes through, too.
	text := letter("appended")
	file := put(t, c.dir, "append.eml", text, 0o600)
	must(t, c.dir, "curl", "-sS", "-u", string(c.own)+":"+password, "imap://"+c.addr(1143)+"/INBOX", "-T", file)
	c.sent.add(text, string(c.own))
	c.readsAll(t, c.own)
}

// masterUser: Dovecot has another password for this user, which counts no more.
func (c *foreign) masterUser(t *testing.T) {
	c.readsAll(t, c.master)
	for _, service := range []string{"imap-login", "pop3-login"} {
		c.plain.logs(t, service+": ", "Login: user=<master@example.test>", "method=PLAIN")
	}
	if r := run(t, c.dir, "curl", "-sS", "-u", string(c.master)+":not the user's", "imap://"+c.addr(1143)+"/"); r.code != 67 {
		t.Errorf("a password that only Dovecot knows: curl ended with %d: %s", r.code, r.out)
	}
}

// notTrusted: where we are not to pass addresses on, we do not.
func (c *foreign) notTrusted(t *testing.T) {
	c.plain.logs(t, "imap-login: ", "rip=127.0.0.1")
	if strings.Contains(c.plain.log(), client) {
		t.Errorf("a client's address went to a Dovecot that is not trusted:\n%s", c.plain.log())
	}
}

func (c *foreign) noMoves(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, m := range []struct {
		user director.User
		to   director.BackendID
	}{{c.own, "b1"}, {c.alice, "d1x"}, {c.own, "d2x"}} {
		_, err := c.admin.CreateMove(ctx, string(m.user), m.to)
		if !errors.Is(err, director.ErrIllegal) || !strings.Contains(err.Error(), "kind dovecot") {
			t.Errorf("move of %s to %s: %v, want a refusal that names the kind", m.user, m.to, err)
		}
	}
	if moves, err := c.admin.Moves(ctx, true); err != nil || len(moves) > 0 {
		t.Errorf("refused moves left journals: %+v (%v)", moves, err)
	}
	c.readsAll(t, c.own)
}

func (c *foreign) operator(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u, err := c.admin.User(ctx, c.own)
	if err != nil || u.Home != "d1x" || u.UsageError == "" {
		t.Errorf("user: %+v, %v", u, err)
	}
	bs, err := c.admin.Backends(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bs {
		if b.ID == "d1x" && (b.Kind != director.KindDovecot || b.Users != 2 || b.Dovecot == nil || b.Dovecot.LMTP != c.trusting.lmtp) {
			t.Errorf("backend: %+v", b)
		}
	}
	if err := c.admin.RemoveBackend(ctx, "d1x"); !errors.Is(err, admin.ErrInUse) {
		t.Errorf("remove a backend with users: %v", err)
	}
	// A new user whose home nobody names never lands on a Dovecot.
	for i := range 6 {
		u, err := c.admin.CreateUser(ctx, admin.CreateUser{User: fmt.Sprintf("new%d@example.test", i), PasswordHash: passwordHash})
		if err != nil || strings.HasPrefix(string(u.Home), "d") {
			t.Errorf("new user: %+v, %v", u, err)
		}
	}
}

// down: mail waits in the spool, and a login fails with a temporary code.
func (c *foreign) down(t *testing.T) {
	gone := *c.trusting
	gone.lmtp, gone.imap, gone.pop3 = hostPort("127.0.0.1", freePort(t)), hostPort("127.0.0.1", freePort(t)), hostPort("127.0.0.1", freePort(t))
	c.put(t, "d1x", &gone, func(d *director.Dovecot) { d.Trusted = true })
	text := letter("while Dovecot is down")
	eventually(t, "logins notice", patience, func() error {
		_, err := readIMAP(c.addr(1143), c.own, "INBOX", false)
		if err == nil || !strings.Contains(err.Error(), "[UNAVAILABLE]") {
			return fmt.Errorf("login at a dead Dovecot: %v", err)
		}
		return nil
	})
	c.swaksOK(t, text, c.addr(2525), "--to", string(c.own))
	c.sent.add(text, string(c.own))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s, err := c.admin.Spool(ctx, c.own, ""); err != nil || len(s.Entries) != 1 {
		t.Errorf("spool: %+v, %v", s, err)
	}
	c.put(t, "d1x", c.trusting, func(d *director.Dovecot) { d.Trusted = true })
	eventually(t, "the mail comes", patience, func() error {
		s, err := readIMAP(c.addr(1143), c.own, "INBOX", false)
		if err == nil && len(s.msgs) != len(c.sent[string(c.own)]) {
			err = fmt.Errorf("%d messages, want %d", len(s.msgs), len(c.sent[string(c.own)]))
		}
		return err
	})
	c.readsAll(t, c.own)
}
