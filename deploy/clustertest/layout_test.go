package clustertest

import (
	"context"
	"fmt"
	"io"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"waypost/director/admin"
)

// TestLayout: Debian's Dovecot and a Waypost backend serve the same tree in
// turns, and see the same in it, whoever has changed it last. Dovecot makes it,
// it is imported, and nothing that a client goes by changes.
func TestLayout(t *testing.T) {
	beside(t)
	need(t, "doveadm")
	d := newTurns(t)
	d.asDovecot(func(imap *talk) {
		makeMail(imap, "INBOX", 1, 6)
		for _, f := range []string{"Entw&APw-rfe", "Work/2024/Q1", "R&-D", "Leer", "Trash"} {
			imap.ok("CREATE %q", f)
		}
		imap.ok("SUBSCRIBE %q", "Work/2024/Q1")
		imap.ok("SUBSCRIBE %q", "Entw&APw-rfe")
		makeMail(imap, "Work/2024/Q1", 10, 3)
		makeMail(imap, "Entw&APw-rfe", 20, 2)
		imap.ok("SELECT INBOX")
		imap.ok(`STORE 2:3 +FLAGS (\Seen \Flagged $Work other)`)
		imap.ok(`STORE 5 +FLAGS (\Answered \Draft)`)
		imap.ok(`STORE 4 +FLAGS (\Deleted)`)
		imap.ok("EXPUNGE")
		imap.ok("COPY 2 Trash")
		imap.ok("MOVE 1 Trash")
	})
	keepIDs(t, filepath.Join(d.home, "Maildir", "dovecot-uidlist"))
	want := d.seenByDovecot()

	c := newCluster(t)
	c.withUsers(0)
	const name = "ann@example.test"
	line := fmt.Sprintf(`{"user":%q,"password_hash":%q,"home":"b1","quota_bytes":104857600,"maildir":{"path":%q,"mode":"copy"}}`, name, passwordHash, d.home)
	before := treeOf(t, d.home)
	for _, result := range []string{admin.ImportCreated, admin.ImportExists} {
		c.imports(t, line, result)
	}
	if after := treeOf(t, d.home); !slices.Equal(before, after) {
		t.Errorf("the import changed the Maildir:\n%q\n%q", before, after)
	}
	w := &wayposts{turns: d, c: c, user: name, live: c.liveTree(t, name)}
	w.sees("after the import", want)
	for i, form := range []string{"%g", "%f", "%v.%u", "%08Xv%08Xu"} {
		d.uidl = form
		pop3 := d.session("pop3")
		want := viewPOP3(pop3)
		pop3.close()
		other := fmt.Sprintf("ann%d@example.test", i)
		c.imports(t, fmt.Sprintf(`{"user":%q,"password_hash":%q,"home":"b2","maildir":{"path":%q,"pop3_uidl":%q}}`, other, passwordHash, d.home, form), admin.ImportCreated)
		pop3 = (&wayposts{turns: d, c: c, user: other}).dial(1110, "USER "+other, "PASS "+password)
		sameView(t, "POP3 ids of the form "+form, viewPOP3(pop3), want)
		pop3.close()
	}
	d.uidl = ""
	for round := 1; round <= 3; round++ {
		w.changes(round)
		ours := w.seen()
		d.home = w.handOver()
		theirs := d.seenByDovecot()
		sameView(t, fmt.Sprintf("round %d: Dovecot sees what Waypost left", round), theirs, ours)
		d.exactQuota()
		d.asDovecot(func(imap *talk) { dovecotChanges(imap, round) })
		want = d.seenByDovecot()
		w.takeBack()
		w.sees(fmt.Sprintf("round %d: Waypost sees what Dovecot left", round), want)
	}
}

// imports sends one line of an import.
func (c *testCluster) imports(t *testing.T, line, result string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	eventually(t, "import", patience, func() error {
		var got admin.ImportResult
		err := c.admin.Import(ctx, strings.NewReader(line+"\n"), func(r admin.ImportResult) error { got = r; return nil })
		if err == nil && got.Result != result {
			err = fmt.Errorf("import: %+v", got)
		}
		return err
	})
}

// liveTree finds a user's tree.
func (c *testCluster) liveTree(t *testing.T, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(c.dir, "*", "users", "*", name))
	if err != nil || len(found) != 1 {
		found, err = filepath.Glob(filepath.Join(c.dir, "*", "*", "users", "*", name))
	}
	if err != nil || len(found) != 1 {
		t.Fatalf("live tree of %s: %q, %v", name, found, err)
	}
	return found[0]
}

func makeMail(imap *talk, folder string, from, n int) {
	for i := from; i < from+n; i++ {
		flags := []string{"", `\Seen`, `\Flagged $Forwarded`}[i%3]
		date := fmt.Sprintf("%02d-Mar-2021 08:09:%02d +0%d00", i%27+1, i%60, i%10)
		imap.add(folder, flags, date, fmt.Sprintf("From: a@example.org\nSubject: message %d\n\n%s\n", i, strings.Repeat("line\n", i)))
	}
}

var uidlistLine = regexp.MustCompile(`(?m)^(\d+) :(.*)$`)

// keepIDs writes POP3 ids into the uidlist, as a migration from yet another
// server leaves them, for every second message.
func keepIDs(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	text := uidlistLine.ReplaceAllStringFunc(string(b), func(line string) string {
		if n++; n%2 == 0 {
			return line
		}
		return uidlistLine.ReplaceAllString(line, "$1 Pkept-$1 Z$1 :$2")
	})
	put(t, filepath.Dir(path), filepath.Base(path), text, 0o600)
	if err := os.Chown(path, mailUID(), -1); err != nil {
		t.Fatal(err)
	}
}

// changes are what users of Waypost do.
func (w *wayposts) changes(round int) {
	t := w.t
	imap := w.imap()
	defer imap.close()
	n := strconv.Itoa(round)
	makeMail(imap, "INBOX", 100*round, 4)
	imap.ok("CREATE %q", "New "+n+"/&AOQ-"+n)
	makeMail(imap, "New "+n+"/&AOQ-"+n, 100*round+50, 2)
	imap.ok("SUBSCRIBE %q", "New "+n+"/&AOQ-"+n)
	imap.ok("SELECT INBOX")
	imap.ok(`STORE 1:2 +FLAGS (\Answered $Round%d)`, round)
	imap.ok(`STORE 3 FLAGS (\Draft)`)
	imap.ok(`STORE 4 +FLAGS (\Deleted)`)
	imap.ok("EXPUNGE")
	imap.ok("COPY 1:2 Trash")
	imap.ok("MOVE 3 Trash")
	imap.ok("UNSELECT")
	imap.ok("CREATE %q", "Brief "+n)
	makeMail(imap, "Brief "+n, 1, 1)
	imap.ok("DELETE %q", "Brief "+n)
	imap.ok("CREATE %q", "Old "+n+"/Child")
	makeMail(imap, "Old "+n+"/Child", 7, 1)
	imap.ok("RENAME %q %q", "Old "+n, "Renamed "+n)
	if round == 1 {
		imap.ok("UNSUBSCRIBE %q", "Entw&APw-rfe")
	}
	before := imap.count("INBOX")
	w.deliver(letter("delivered in round " + n))
	eventually(t, "the delivery", patience, func() error {
		if now := imap.count("INBOX"); now != before+1 {
			return fmt.Errorf("%d messages, %d before", now, before)
		}
		return nil
	})
	imap.ok("SELECT INBOX") // it gets its UID
}

// deliver sends a message through the mx, in clear.
func (w *wayposts) deliver(text string) {
	w.t.Helper()
	c, err := smtp.Dial(w.c.addr(2525))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	for _, err := range []error{c.Mail("sender@example.org"), c.Rcpt(w.user)} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	data, err := c.Data()
	if err == nil {
		_, err = io.WriteString(data, text)
	}
	if err == nil {
		err = data.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// dovecotChanges are what users of Dovecot do.
func dovecotChanges(imap *talk, round int) {
	n := strconv.Itoa(round)
	makeMail(imap, "INBOX", 1000*round, 3)
	imap.ok("CREATE %q", "Von Dovecot "+n+"/A &- B")
	makeMail(imap, "Von Dovecot "+n+"/A &- B", 1000*round+5, 2)
	imap.ok("SUBSCRIBE %q", "Von Dovecot "+n+"/A &- B")
	imap.ok("SELECT INBOX")
	imap.ok(`STORE 1 -FLAGS (\Answered)`)
	imap.ok(`STORE 2 +FLAGS ($Dovecot%d \Flagged)`, round)
	imap.ok(`STORE 3 +FLAGS (\Deleted)`)
	imap.ok("EXPUNGE")
	imap.ok("MOVE 2 %q", "R&-D")
	imap.ok("UNSELECT")
	imap.ok("RENAME %q %q", "Renamed "+n, "Again "+n)
	imap.ok("DELETE %q", "New "+n+"/&AOQ-"+n)
}

// wayposts is the side of Waypost: one user, whose home is b1.
type wayposts struct {
	*turns
	c    *testCluster
	user string
	live string
}

// handOver stops the home and gives the tree to Dovecot.
func (w *wayposts) handOver() string {
	w.t.Helper()
	w.c.procs["b1"].signal(syscall.SIGTERM)
	w.c.procs["b1"].waitEnd(patience)
	home := filepath.Join(w.dir, "mail", "handed")
	w.rename(w.live, home, mailUID())
	return home
}

// takeBack gives it back, and starts the home.
func (w *wayposts) takeBack() {
	w.t.Helper()
	w.rename(w.home, w.live, os.Getuid())
	w.c.procs["b1"].start(w.t)
	w.c.procs["b1"].waitReady(w.t)
}

func (w *wayposts) sees(when string, want []string) {
	w.t.Helper()
	sameView(w.t, when, w.seen(), want)
}

func (w *wayposts) imap() *talk {
	w.t.Helper()
	return w.dial(1143, "LOGIN "+w.user+" "+password)
}

// seen is the view of Waypost's IMAP and POP3.
func (w *wayposts) seen() []string {
	w.t.Helper()
	imap := w.imap()
	defer imap.close()
	pop3 := w.dial(1110, "USER "+w.user, "PASS "+password)
	defer pop3.close()
	return append(viewIMAP(imap), viewPOP3(pop3)...)
}
