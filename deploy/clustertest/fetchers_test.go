package clustertest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"waypost/director"
)

// moved moves a user to another backend, and checks that it was done.
func (c *clients) moved(t *testing.T, u director.User) {
	t.Helper()
	if m := c.move(t, u, c.elsewhere(t, u)); m.Phase != director.PhaseDone {
		t.Fatalf("move of %s: %+v", u, m)
	}
}

// fetcher is one set-up of fetchmail.
type fetcher struct {
	c             *clients
	u             director.User
	name, rc, out string
}

func (c *clients) newFetcher(t *testing.T, name, protocol string, u director.User, port int, tls string) *fetcher {
	t.Helper()
	f := &fetcher{c: c, u: u, name: name}
	home := filepath.Join(c.dir, "fetchmail-"+name)
	f.out = filepath.Join(home, "mail")
	if err := os.MkdirAll(f.out, 0o700); err != nil {
		t.Fatal(err)
	}
	mda := put(t, home, "mda", fmt.Sprintf("#!/bin/sh\nf=$(mktemp -p '%s') && cat >\"$f\"\n", f.out), 0o700)
	uidl := ""
	if protocol == "pop3" {
		uidl = "uidl"
	}
	f.rc = put(t, home, "rc", fmt.Sprintf(`set no syslog
set no bouncemail
set invisible
set idfile "%s/ids"
set pidfile "%s/pid"
poll localhost protocol %s service %d %s timeout 30 auth password
  user "%s" password "%s" keep no rewrite %s mda "%s"
`, home, home, protocol, port+c.offset, uidl, u, password, tls, mda), 0o600)
	return f
}

// poll runs it once, and gives how many messages it brought in all so far.
func (f *fetcher) poll(t *testing.T) int {
	t.Helper()
	r := run(t, f.c.dir, "fetchmail", "-f", f.rc, "-v")
	if r.code != 0 && r.code != 1 { // 1: there was no mail
		t.Fatalf("fetchmail ended with %d; it said:\n%s", r.code, r.out)
	}
	return len(filesIn(t, f.out))
}

// fetchmail keeps the mail on the server, and must fetch nothing twice, also
// not after a move; then what is new.
func (c *clients) fetchmail(t *testing.T) {
	secure := fmt.Sprintf(`sslproto "TLS1.2+" sslcertck sslcertfile "%s"`, c.ca)
	plaintext := `sslproto ""`
	for _, f := range []*fetcher{
		c.newFetcher(t, "pop3s", "pop3", c.alice, 1995, "ssl "+secure),
		c.newFetcher(t, "pop3", "pop3", c.alice, 1110, plaintext),
		c.newFetcher(t, "imap", "imap", c.bob, 1144, secure), // by STARTTLS
	} {
		box := string(f.u)
		f.poll(t)
		c.sent.same(t, "fetchmail", box, filesIn(t, f.out))
		if n := f.poll(t); n != len(c.sent[box]) {
			t.Errorf("the second run brought %d messages again", n-len(c.sent[box]))
		}
		c.moved(t, f.u)
		if n := f.poll(t); n != len(c.sent[box]) {
			t.Errorf("the run after the move brought %d messages again", n-len(c.sent[box]))
		}
		text := letter("after the move " + f.name)
		c.swaksOK(t, text, c.addr(2525), "--to", box)
		c.sent.add(text, box)
		f.poll(t)
		c.sent.same(t, "fetchmail after the move", box, filesIn(t, f.out))
	}
}

// mbsync keeps a Maildir equal to the mailbox, in both directions.
func (c *clients) mbsync(t *testing.T) {
	m := c.newMbsync(t)
	m.run(t)
	m.compare(t, "mbsync")
	before, server := m.tree(t), c.view(t, c.alice)
	m.run(t)
	m.unchanged(t, "second run", before, server)
	c.moved(t, c.alice)
	m.run(t)
	m.unchanged(t, "run after a move", before, server)

	// Here a flag and a message are set, at the server another flag.
	name := m.flagOne(t)
	text := letter("put into the Maildir")
	put(t, filepath.Join(m.mail, "INBOX", "new"), "1748858400.made.here", lineEnds.Replace(text), 0o600)
	c.sent.add(text, string(c.alice))
	c.answerLast(t, c.alice)
	m.run(t)
	m.compare(t, "mbsync after changes")
	c.allThere(t)
	if got := m.flags(t); !slices.Equal(got, []string{"F", "R"}) {
		t.Errorf("flags in the Maildir: %v, want F and R once each", got)
	}
	if got := flagsSet(c.view(t, c.alice)); !slices.Equal(got, []string{"\\answered", "\\flagged"}) {
		t.Errorf("flags at the server: %v (flagged here: %s)", got, name)
	}
	c.moved(t, c.alice)
	before, server = m.tree(t), c.view(t, c.alice)
	m.run(t)
	m.unchanged(t, "run after changes and a move", before, server)
}

type mbsyncer struct {
	c              *clients
	rc, mail, home string
}

func (c *clients) newMbsync(t *testing.T) *mbsyncer {
	t.Helper()
	m := &mbsyncer{c: c, home: filepath.Join(c.dir, "mbsync")}
	m.mail = filepath.Join(m.home, "mail")
	if err := os.MkdirAll(m.mail, 0o700); err != nil {
		t.Fatal(err)
	}
	m.rc = put(t, m.home, "mbsyncrc", fmt.Sprintf(`IMAPAccount waypost
Host localhost
Port %d
User %s
Pass %s
AuthMechs PLAIN LOGIN
SSLType IMAPS
CertificateFile %s
SystemCertificates no

IMAPStore far
Account waypost

MaildirStore near
Path %[5]s/
Inbox %[5]s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
Sync All
SyncState *
`, 1993+c.offset, c.alice, password, c.ca, m.mail), 0o600)
	return m
}

func (m *mbsyncer) run(t *testing.T) {
	t.Helper()
	out := must(t, m.home, "mbsync", "-V", "-c", m.rc, "all")
	if strings.Contains(strings.ToLower(out), "warning") || strings.Contains(strings.ToLower(out), "error") {
		t.Errorf("mbsync said:\n%s", out)
	}
}

// compare compares all folders of the Maildir with what was sent.
func (m *mbsyncer) compare(t *testing.T, how string) {
	t.Helper()
	for box := range m.c.sent {
		user, folder, has := strings.Cut(box, "/")
		if user != string(m.c.alice) {
			continue
		}
		if !has {
			folder = "INBOX"
		}
		got := append(filesIn(t, filepath.Join(m.mail, folder, "cur")), filesIn(t, filepath.Join(m.mail, folder, "new"))...)
		m.c.sent.same(t, how, box, got)
	}
}

// tree is every message file's name, with a digest.
func (m *mbsyncer) tree(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(m.mail, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err // .mbsyncstate and .uidvalidity are mbsync's own
		}
		b, err := os.ReadFile(path)
		out[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (m *mbsyncer) unchanged(t *testing.T, what string, tree map[string]string, server []seen) {
	t.Helper()
	if now := m.tree(t); !maps.Equal(now, tree) {
		t.Errorf("%s: the Maildir has %d files, had %d, or other ones", what, len(now), len(tree))
	}
	if now := m.c.view(t, m.c.alice); fmt.Sprint(now) != fmt.Sprint(server) {
		t.Errorf("%s: the server shows\n%v\nand showed\n%v", what, now, server)
	}
}

// flagOne sets the flag F on one message of INBOX, as a mail program does: by
// renaming its file.
func (m *mbsyncer) flagOne(t *testing.T) string {
	t.Helper()
	for _, sub := range []string{"cur", "new"} {
		dir := filepath.Join(m.mail, "INBOX", sub)
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			base, flags, _ := strings.Cut(e.Name(), ":2,")
			if strings.Contains(flags, "F") {
				continue
			}
			to := filepath.Join(m.mail, "INBOX", "cur", base+":2,F"+flags)
			if err := os.Rename(filepath.Join(dir, e.Name()), to); err != nil {
				t.Fatal(err)
			}
			return e.Name()
		}
	}
	t.Fatal("no message to flag")
	return ""
}

// flags are those set in the Maildir's INBOX, S excepted.
func (m *mbsyncer) flags(t *testing.T) []string {
	t.Helper()
	var out []string
	for path := range m.tree(t) {
		_, flags, _ := strings.Cut(path, ":2,")
		if flags = strings.ReplaceAll(flags, "S", ""); flags != "" && strings.Contains(path, "INBOX/") {
			out = append(out, flags)
		}
	}
	slices.Sort(out)
	return out
}

// view is all that IMAP shows of a user's mailbox but the bodies.
func (c *clients) view(t *testing.T, u director.User) []seen {
	t.Helper()
	var out []seen
	for _, f := range []string{"INBOX", "Projects"} {
		s, err := readIMAP(c.addr(1143), u, f, false)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// flagsSet are the flags of INBOX, \Seen excepted.
func flagsSet(view []seen) []string {
	var out []string
	for _, m := range view[0].msgs {
		if f := strings.TrimSpace(strings.ReplaceAll(m.flags, "\\seen", "")); f != "" {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

// answerLast sets \Answered on the last message of INBOX.
func (c *clients) answerLast(t *testing.T, u director.User) {
	t.Helper()
	cl, err := dialIMAP(c.addr(1144), u)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	sel, err := cl.Select("INBOX", nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	set := imap.SeqSetNum(sel.NumMessages)
	if err := cl.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagAnswered}}, nil).Close(); err != nil {
		t.Fatal(err)
	}
}
