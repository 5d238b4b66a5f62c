package clustertest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/emersion/go-imap/v2"

	"waypost/director"
)

// taker is a program that fetches INBOX.
type taker struct {
	name string
	// poll fetches once; keep leaves the mail at the server.
	poll func(t *testing.T, keep bool)
	// got is all that it has fetched so far.
	got func(t *testing.T) [][]byte
}

// takes: each message is fetched once, in however many runs and at whichever
// backend; then all is fetched and removed.
func (c *clients) takes(t *testing.T, f *far, k taker) {
	box := string(f.u)
	add := func(subject string, flags ...imap.Flag) {
		f.append("INBOX", letter(subject), flags...)
		c.sent.add(letter(subject), box)
	}
	poll := func(how string, keep bool) {
		t.Helper()
		k.poll(t, keep)
		c.sent.same(t, k.name+" "+how, box, k.got(t))
	}
	for i := range 5 {
		add(fmt.Sprint(k.name, " ", i))
	}
	add(k.name+" flagged", imap.FlagFlagged)
	poll("at first", true)
	before := f.folders()
	if n := len(before["INBOX"].msgs); n != 6 {
		t.Errorf("%d messages left at the server, want 6", n)
	}
	poll("again", true)
	f.move()
	poll("after a move", true)
	if now := f.folders(); !reflect.DeepEqual(now, before) {
		t.Errorf("%s that was to keep has changed the mailbox:\n%v\nwas\n%v", k.name, now, before)
	}
	add(k.name + " is new")
	text := note("sender@example.org", box, k.name+" by SMTP", "")
	if err := send(c.addr(2525), "sender@example.org", []string{box}, text); err != nil {
		t.Fatal(err)
	}
	c.sent.add(string(text), box)
	poll("what is new", true)
	f.move()
	f.remove("INBOX", k.name+" 0")
	add(k.name + " is last")
	poll("what is last, and removes", false)
	f.move()
	poll("from what is empty", false)
	// What has been fetched before, fetchmail and getmail leave at the server unless
	// told otherwise; here they are told.
	if left := f.folders()["INBOX"].msgs; len(left) != 0 {
		t.Errorf("%d messages left at the server, want none", len(left))
	}
}

// maildir makes one in a program's home and gives the path and what reads it.
func (c *clients) maildir(t *testing.T, name string) (home, dir string, got func(*testing.T) [][]byte) {
	t.Helper()
	home = filepath.Join(c.dir, name)
	dir = filepath.Join(home, "mail")
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return home, dir, func(t *testing.T) [][]byte {
		t.Helper()
		return append(filesIn(t, filepath.Join(dir, "new")), filesIn(t, filepath.Join(dir, "cur"))...)
	}
}

func (c *clients) fetchmailTaker(t *testing.T, u director.User) taker {
	f := c.newFetcher(t, "taker", "pop3", u, 1995, fmt.Sprintf(`ssl sslproto "TLS1.2+" sslcertck sslcertfile "%s"`, c.ca))
	return taker{name: "fetchmail", got: func(t *testing.T) [][]byte { return filesIn(t, f.out) }, poll: func(t *testing.T, keep bool) {
		t.Helper()
		args := []string{"-f", f.rc}
		if !keep {
			args = append(args, "--nokeep", "--flush")
		}
		if r := run(t, c.dir, "fetchmail", args...); r.code != 0 && r.code != 1 { // 1: there was no mail
			t.Fatalf("fetchmail ended with %d; it said:\n%s", r.code, r.out)
		}
	}}
}

func (c *clients) getmailTaker(t *testing.T, u director.User, kind string, port int) taker {
	home, dir, got := c.maildir(t, kind)
	// Into a Maildir of its own it does not deliver as root.
	mda := put(t, home, "mda", fmt.Sprintf("#!/bin/sh\nf=$(mktemp -p '%s/new') && cat >\"$f\"\n", dir), 0o700)
	mailbox := []byte("X-getmail-retrieved-from-mailbox: INBOX\n") // it says by IMAP
	read := func(t *testing.T) (all [][]byte) {
		t.Helper()
		for _, b := range got(t) {
			all = append(all, bytes.Replace(b, mailbox, nil, 1))
		}
		return all
	}
	return taker{name: "getmail", got: read, poll: func(t *testing.T, keep bool) {
		t.Helper()
		remove := "true"
		if keep {
			remove = "false"
		}
		rc := put(t, home, "getmailrc", fmt.Sprintf(`[retriever]
type = %s
server = localhost
port = %d
username = %s
password = %s
ca_certs = %s
timeout = 30
[destination]
type = MDA_external
path = %s
unixfrom = false
allow_root_commands = true
[options]
read_all = false
delete = %s
delivered_to = false
received = false
`, kind, port+c.offset, u, password, c.ca, mda, remove), 0o600)
		must(t, home, "getmail", "--getmaildir", home, "--rcfile", rc, "--quiet")
	}}
}

func (c *clients) mpopTaker(t *testing.T, u director.User) taker {
	home, dir, got := c.maildir(t, "mpop")
	return taker{name: "mpop", got: got, poll: func(t *testing.T, keep bool) {
		t.Helper()
		how := "off"
		if keep {
			how = "on"
		}
		rc := put(t, home, "mpoprc", fmt.Sprintf(`account default
host localhost
port %d
user %s
password %s
auth user
tls on
tls_starttls off
tls_trust_file %s
uidls_file %s/uidls
delivery maildir %s
keep %s
received_header off
`, 1995+c.offset, u, password, c.ca, home, dir, how), 0o600)
		must(t, home, "mpop", "-C", rc, "-q")
	}}
}
