package sharing

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/mount"
	"waypost/director"
)

const patience = 20 * time.Second

// client is an IMAP session of a user, with what others share under "Other Users".
type client struct {
	t    testing.TB
	nc   net.Conn
	br   *bufio.Reader
	n    int
	done chan error
}

func (w *world) dial(srv *imap.Server, u director.User) *client {
	w.t.Helper()
	own, err := w.Open(u, 1)
	w.must(err)
	o := mount.Options{Stage: w.Stage, Log: slog.New(slog.DiscardHandler)}
	box := mount.New(own, o, mount.Mount{Prefix: "Other Users/", Kind: mailbox.OtherUsers, Box: New(u, w, w.shares, o.Log)})
	near, far := net.Pipe()
	c := &client{t: w.t, nc: near, br: bufio.NewReader(near), done: make(chan error, 1)}
	go func() {
		c.done <- srv.Serve(context.Background(), far, imap.Session{Box: box, Store: w.Store, ID: "s"})
	}()
	w.t.Cleanup(func() {
		near.Close()
		<-c.done
		box.Close()
	})
	c.line()
	return c
}

func server(t testing.TB) *imap.Server {
	return imap.New(imap.Options{Log: slog.New(slog.DiscardHandler)})
}

func (c *client) line() string {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	s, err := c.br.ReadString('\n')
	if err != nil {
		return "EOF"
	}
	return strings.TrimSuffix(s, "\r\n")
}

func (c *client) send(text string) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.nc.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// cmd sends a command and gives all lines of its answer, the tagged one without its
// tag last.
func (c *client) cmd(command string) (all []string) {
	c.t.Helper()
	c.n++
	tag := fmt.Sprintf("t%d ", c.n)
	c.send(tag + command + "\r\n")
	for {
		l := c.line()
		if rest, is := strings.CutPrefix(l, tag); is {
			return append(all, rest)
		}
		all = append(all, l)
		if l == "EOF" {
			return all
		}
	}
}

// want is cmd whose answer must begin with status, and have all the parts in its lines.
func (c *client) want(command, status string, parts ...string) {
	c.t.Helper()
	all := c.cmd(command)
	if !strings.HasPrefix(all[len(all)-1], status) {
		c.t.Errorf("%s: %q, want %s", command, all, status)
	}
	for _, p := range parts {
		if !slices.ContainsFunc(all, func(l string) bool { return strings.Contains(l, p) }) {
			c.t.Errorf("%s: no %q in %q", command, p, all)
		}
	}
}

// wantNone is want for an answer without untagged responses.
func (c *client) wantNone(command, status string) {
	c.t.Helper()
	if all := c.cmd(command); len(all) != 1 || !strings.HasPrefix(all[0], status) {
		c.t.Errorf("%s: %q, want just %s", command, all, status)
	}
}

// bye wants that the next thing is a BYE and the end.
func (c *client) bye() {
	c.t.Helper()
	if l := c.line(); !strings.HasPrefix(l, "* BYE ") {
		c.t.Errorf("%q, want a BYE", l)
	}
	if l := c.line(); l != "EOF" {
		c.t.Errorf("%q behind the BYE", l)
	}
}

const annShared = `"Other Users/ann@example.test/Shared"`

func TestTranscript(t *testing.T) {
	w := newWorld(t, ann, bob)
	own := w.own(ann)
	w.must(own.CreateFolder("Shared", ""))
	w.must(own.CreateFolder("Secret", ""))
	w.put(own, "Shared", mailbox.Flags{})
	srv := server(t)
	a, b := w.dial(srv, ann), w.dial(srv, bob)
	b.want("NAMESPACE", "OK", `* NAMESPACE (("" "/")) (("Other Users/" "/")) NIL`)
	b.wantNone(`LIST "" "Other Users/*"`, "OK")
	b.wantNone("SELECT "+annShared, "NO [NONEXISTENT]")
	b.wantNone("MYRIGHTS "+annShared, "NO [NONEXISTENT]")
	b.wantNone("STATUS "+annShared+" (MESSAGES)", "NO [NONEXISTENT]")

	a.want("SETACL Shared bob@example.test lr", "OK")
	b.want(`LIST "" "Other Users/*"`, "OK",
		`* LIST (\Noselect \HasChildren) "/" "Other Users/ann@example.test"`, `* LIST (\HasNoChildren) "/" "Other Users/ann@example.test/Shared"`)
	b.want(`LIST "" "%"`, "OK", `* LIST (\Noselect \HasChildren) "/" "Other Users"`)
	b.want("MYRIGHTS "+annShared, "OK", "* MYRIGHTS "+annShared+" lr")
	b.wantNone("GETACL "+annShared, "NO [NOPERM]")
	b.wantNone("SETACL "+annShared+" bob@example.test lra", "NO [NOPERM]")
	b.want("STATUS "+annShared+" (MESSAGES)", "OK", "(MESSAGES 1)")
	b.want("SELECT "+annShared, "OK [READ-ONLY]", "* 1 EXISTS", "[PERMANENTFLAGS ()]")
	b.want("FETCH 1 (FLAGS BODY[])", "OK", "Subject: x")
	b.wantNone(`STORE 1 +FLAGS (\Seen)`, "NO [NOPERM]")
	b.want("COPY 1 INBOX", "OK [COPYUID")
	b.wantNone("APPEND "+annShared+" {3+}\r\na:b", "NO [NOPERM]")

	a.want("SETACL Shared bob@example.test +swti", "OK")
	b.want("SELECT "+annShared, "OK [READ-WRITE]")
	b.want(`STORE 1 +FLAGS (\Seen \Deleted $x)`, "OK", `\Deleted \Seen $x`)
	b.wantNone("EXPUNGE", "NO [NOPERM]")
	b.want("APPEND "+annShared+" {3+}\r\na:b", "OK [APPENDUID", "* 2 EXISTS")
	a.want("SELECT Shared", "OK", "* 2 EXISTS")
	a.want("FETCH 1 (FLAGS)", "OK", `\Deleted \Seen $x`)
	a.want("SETACL Shared anyone e", "OK")
	b.want("EXPUNGE", "OK", "* 1 EXPUNGE")
	b.wantNone("DELETE "+annShared, "NO [NOPERM]")
	b.wantNone("CREATE "+strings.TrimSuffix(annShared, `"`)+`/x"`, "NO [NOPERM]")
	a.want("SETACL Shared bob@example.test +kx", "OK")
	b.want("CREATE "+strings.TrimSuffix(annShared, `"`)+`/x"`, "OK")
	b.want(`LIST "" "Other Users/*/x"`, "OK", "Shared/x")
	a.want("LIST \"\" *", "OK", "Shared/x", "Secret")
	b.want("SUBSCRIBE "+annShared, "OK")
	b.want(`LSUB "" *`, "OK", "ann@example.test/Shared")
	b.wantNone("RENAME "+annShared+" Mine", "NO [CANNOT]")
	b.want(`GETQUOTAROOT `+annShared, "OK", "* QUOTAROOT "+annShared)

	// Quota is the owner's: bob's own does not count, ann's does.
	w.SetLimit(bob, mailbox.Limit{Messages: 1})
	b.want("APPEND "+annShared+" {3+}\r\na:b", "OK [APPENDUID")
	w.SetLimit(ann, mailbox.Limit{Messages: 1})
	b.want("APPEND "+annShared+" {3+}\r\na:b", "NO [OVERQUOTA]")
}

// What was revoked is gone at once for a session that has the folder open, in IDLE too.
func TestRevoked(t *testing.T) {
	w := newWorld(t, ann, bob)
	own := w.own(ann)
	w.must(own.CreateFolder("Shared", ""))
	w.must(own.SetACL("Shared", string(bob), "lrs"))
	w.put(own, "Shared", mailbox.Flags{})
	srv := server(t)
	a, b, idle := w.dial(srv, ann), w.dial(srv, bob), w.dial(srv, bob)
	b.want("SELECT "+annShared, "OK [READ-WRITE]")
	idle.want("SELECT "+annShared, "OK")
	idle.send("i IDLE\r\n")
	if l := idle.line(); l != "+ idling" {
		t.Fatal(l)
	}
	b.want(`STORE 1 +FLAGS (\Seen)`, "OK")
	if l := idle.line(); !strings.Contains(l, `\Seen`) {
		t.Errorf("idle: %q", l)
	}
	a.want("SETACL Shared bob@example.test -s", "OK")
	b.wantNone(`STORE 1 -FLAGS (\Seen)`, "NO [NOPERM]")
	b.want("FETCH 1 FLAGS", "OK", `\Seen`)
	w.put(own, "Shared", mailbox.Flags{})
	if l := idle.line(); l != "* 2 EXISTS" {
		t.Errorf("idle: %q", l)
	}
	if l := idle.line(); l != "* 2 RECENT" && l != "* 1 RECENT" && l != "* 0 RECENT" {
		t.Errorf("idle: %q", l)
	}
	a.want("DELETEACL Shared bob@example.test", "OK")
	idle.bye()
	all := b.cmd("NOOP")
	if !slices.ContainsFunc(all, func(l string) bool { return strings.HasPrefix(l, "* BYE") }) && b.line()[:5] != "* BYE" {
		t.Errorf("%q", all)
	}
}

// The owner's move ends the sessions that have the folder selected, and nobody else's.
func TestOwnerMoves(t *testing.T) {
	for name, command := range map[string]string{
		"idle": "", "noop": "NOOP", "store": `STORE 1 +FLAGS (\Flagged)`, "fetch": "FETCH 1 BODY[]", "search": "SEARCH BODY x", "copy": "COPY 1 INBOX",
	} {
		w := newWorld(t, ann, bob)
		own := w.own(ann)
		w.must(own.CreateFolder("Shared", ""))
		w.must(own.SetACL("Shared", "anyone", mailbox.AllRights))
		w.put(own, "Shared", mailbox.Flags{})
		srv := server(t)
		b, other := w.dial(srv, bob), w.dial(srv, bob)
		b.want("SELECT "+annShared, "OK")
		other.want("STATUS "+annShared+" (MESSAGES)", "OK")
		other.want("SELECT INBOX", "OK")
		if command == "" {
			b.send("i IDLE\r\n")
			b.line()
		}
		w.serve(ann, 0)
		if command != "" {
			b.send("x " + command + "\r\n")
		}
		l := b.line()
		if strings.HasPrefix(l, "x OK") && command == "NOOP" {
			l = b.line()
		}
		if !strings.HasPrefix(l, "* BYE [UNAVAILABLE]") {
			t.Errorf("%s: %q, want a BYE", name, l)
		}
		other.want("NOOP", "OK")
		other.wantNone(`LIST "" "Other Users/*"`, "OK")
		other.wantNone("STATUS "+annShared+" (MESSAGES)", "NO [UNAVAILABLE]")
		other.want("APPEND "+annShared+" {3+}\r\na:b", "NO")
		other.want("APPEND INBOX {3+}\r\na:b", "OK")
		w.expect(ann, true)
		came := make(chan struct{})
		go func() {
			defer close(came)
			w.asksFor(3) // STATUS waits
			w.serve(ann, 3)
		}()
		other.want("STATUS "+annShared+" (MESSAGES)", "OK", "(MESSAGES 1)")
		<-came
	}
}

// until reads up to a line that begins so and has a part.
func (c *client) until(begin, part string) {
	c.t.Helper()
	for l := ""; !strings.HasPrefix(l, begin) || !strings.Contains(l, part); {
		if l = c.line(); l == "EOF" {
			c.t.Fatalf("no %q with %q", begin, part)
		}
	}
}

// NOTIFY tells of others' folders.
func TestNotify(t *testing.T) {
	w := newWorld(t, ann, bob)
	own := w.own(ann)
	w.must(own.CreateFolder("Shared", ""))
	w.must(own.SetACL("Shared", string(bob), "lr"))
	b := w.dial(server(t), bob)
	b.want(`NOTIFY SET (subtree "Other Users" (MessageNew MessageExpunge MailboxName))`, "OK")
	w.put(own, "Shared", mailbox.Flags{})
	b.until("* STATUS "+annShared+" ", "MESSAGES 1")
	w.must(own.CreateFolder("More", ""))
	w.must(own.SetACL("More", string(bob), "lr"))
	b.until("* LIST ", "ann@example.test/More")
}
