package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/director/admin"
)

// odd is a file or folder that a hand, a clock or another program has left; a
// name that ends in "/" is a folder, a text that begins with "->" a link.
type odd struct {
	path, text string
	age        time.Duration // negative: from the future
}

const oddText = "From: a@example.org\nSubject: odd\n\nbody\n"

// oddities are handled by both servers alike.
func oddities(n int) []odd {
	base := func(i int) string { return fmt.Sprintf("%d.M%dP1.h", 1_600_000_000+1000*n+i, i) }
	return []odd{
		{"cur/" + base(1) + ":2,S", oddText, time.Hour},
		{fmt.Sprintf("cur/%s,S=%d:2,FS", base(2), len(oddText)), oddText, time.Hour},
		{"cur/" + base(3) + ":2,SRF", oddText, time.Hour},
		{"cur/" + base(4) + ":2,FFSS", oddText, time.Hour},
		{"cur/" + base(5) + ":2,PXYS", oddText, time.Hour},
		{"cur/" + base(6) + ":2,az", oddText, time.Hour},
		{"cur/" + base(7), oddText, time.Hour},
		{"cur/" + base(8) + ":2,S,extra", oddText, time.Hour},
		{"cur/" + base(9) + ":1,experimental", oddText, time.Hour},
		{"cur/" + base(10) + ":2,", strings.ReplaceAll(oddText, "\n", "\r\n"), time.Hour},
		{"cur/" + base(11) + ":2,", oddText, -24 * time.Hour},
		{"cur/" + base(12) + ":2,", "", time.Hour},
		{"cur/" + base(13) + ":2,", "no header at all", time.Hour},
		{fmt.Sprintf("cur/odd-name-%d", n), oddText, time.Hour},
		{fmt.Sprintf("cur/%d", 77+n), oddText, time.Hour},
		{fmt.Sprintf("new/%d.no.sizes", 1_600_000_000+1000*n), oddText, time.Hour},
		{"new/" + base(14) + ":2,S", oddText, time.Hour},
		{"new/" + base(15), oddText, -time.Hour},
		{fmt.Sprintf("cur/.hidden%d", n), oddText, time.Hour},
		{fmt.Sprintf("tmp/litter%d", n), oddText, time.Hour},
		{fmt.Sprintf("README%d", n), "not a message", time.Hour},
		{fmt.Sprintf(".NoMark%d/cur/", n), "", 0}, {fmt.Sprintf(".NoMark%d/new/x%d", n, n), oddText, time.Hour}, {fmt.Sprintf(".NoMark%d/tmp/", n), "", 0},
		{fmt.Sprintf(".Deep%d.er.est/cur/", n), "", 0}, {fmt.Sprintf(".Deep%d.er.est/new/", n), "", 0}, {fmt.Sprintf(".Deep%d.er.est/tmp/", n), "", 0},
		{fmt.Sprintf(".INBOX.Child%d/cur/", n), "", 0}, {fmt.Sprintf(".INBOX.Child%d/new/", n), "", 0}, {fmt.Sprintf(".INBOX.Child%d/tmp/", n), "", 0},
		{fmt.Sprintf("plain folder%d/cur/", n), "", 0},
	}
}

func (w *turns) plantOdd(root string, odds []odd) {
	w.t.Helper()
	for _, o := range odds {
		path := filepath.Join(root, "Maildir", o.path)
		var err error
		if strings.HasSuffix(o.path, "/") {
			err = os.MkdirAll(path, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			if to, link := strings.CutPrefix(o.text, "->"); link {
				err = os.Symlink(to, path)
			} else if err = os.WriteFile(path, []byte(o.text), 0o600); err == nil {
				at := time.Now().Add(-o.age).Truncate(time.Second)
				err = os.Chtimes(path, at, at)
			}
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestLayoutOddities: the same of what no server has written.
func TestLayoutOddities(t *testing.T) {
	beside(t)
	need(t, "doveadm")
	d := newTurns(t)
	d.asDovecot(func(imap *talk) { makeMail(imap, "INBOX", 1, 4) })
	c := newCluster(t)
	c.withUsers(0)
	const name = "ann@example.test"
	c.imports(t, fmt.Sprintf(`{"user":%q,"password_hash":%q,"home":"b1","maildir":{"path":%q}}`, name, passwordHash, d.home), admin.ImportCreated)
	w := &wayposts{turns: d, c: c, user: name, live: c.liveTree(t, name)}

	// Waypost finds them first, then Dovecot; then the other way round.
	w.stop()
	d.plantOdd(w.live, oddities(1))
	w.begin()
	ours := w.seen()
	d.home = w.handOver()
	sameView(t, "Dovecot sees what Waypost has found", d.seenByDovecot(), ours)
	d.plantOdd(d.home, oddities(2))
	d.own(d.home, mailUID())
	vanish(t, d.home, ".M3P1.h")
	theirs := d.seenByDovecot()
	w.takeBack()
	w.sees("Waypost sees what Dovecot has found", theirs)

	// While it serves: files come and go, and a clock jumps.
	d.plantOdd(w.live, oddities(3))
	vanish(t, w.live, ".M1P1.h")
	eventually(t, "what was done by hand shows", patience, func() error {
		if n := w.messages(); n != len(d.messageFiles(w.live)) {
			return fmt.Errorf("%d messages, %d files", n, len(d.messageFiles(w.live)))
		}
		return nil
	})
	ours = w.seen()
	d.home = w.handOver()
	sameView(t, "Dovecot sees what came while Waypost served", d.seenByDovecot(), ours)
	w.takeBack()
	w.besideStrange()
}

// vanish removes the files of INBOX whose names hold part.
func vanish(t *testing.T, root, part string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "Maildir", "cur", "*"+part+"*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", part, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// messageFiles are the messages of INBOX by their names.
func (w *turns) messageFiles(root string) (names []string) {
	w.t.Helper()
	for _, sub := range []string{"cur", "new"} {
		es, err := os.ReadDir(filepath.Join(root, "Maildir", sub))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range es {
			if !strings.HasPrefix(e.Name(), ".") && e.Type().IsRegular() {
				base, _, _ := strings.Cut(e.Name(), ":")
				names = append(names, base)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (w *wayposts) messages() int {
	w.t.Helper()
	imap := w.imap()
	defer imap.close()
	return imap.count("INBOX")
}

// strange is what Dovecot ends sessions or refuses folders over.
func strange() []odd {
	return []odd{
		{fmt.Sprintf("cur/1600000100.M1P1.h,S=%d,W=9:2,", len(oddText)-3), oddText, time.Hour},
		{"cur/1600000101.M1P1.h,S=x,W=-1:2,", oddText, time.Hour},
		{"cur/folder/", "", 0}, {"cur/1600000102.dir:2,/", "", 0},
		{"cur/1600000103.dangling:2,", "->nowhere", 0}, {"new/1600000104.loop", "->1600000104.loop", 0},
		{"cur/with space and \xff:2,", oddText, time.Hour}, {"cur/tab\there:2,", oddText, time.Hour},
		{".Invalid&Name/cur/", "", 0}, {".Invalid&Name/new/1600000001.a", oddText, time.Hour}, {".Gr\xfcn/cur/", "", 0}, {".Grün/cur/", "", 0},
		{".Empty/", "", 0}, {".a..b/cur/", "", 0}, {".trailing./cur/", "", 0}, {"../cur/", "", 0},
		{".Linked", "->.Empty", 0}, {".file", "no folder", time.Hour}, {".INBOX/cur/", "", 0}, {".inbox.low/cur/", "", 0},
		{".Broken/dovecot-keywords", "what is this\n-1 x\n99 y\n0 $Zero\n", 0}, {"subscriptions", "V\t2\n\nEmpty\n\xff\xfe\n\n\t\n", 0},
		{".Broken/cur/", "", 0}, {".Broken/dovecot-uidlist", "3 V0 N0 garbage\n1 2 3\n", 0}, {"maildirsize", "10Q\nx\n", 0},
	}
}

// besideStrange: a mailbox full of what is strange serves all that is not.
func (w *wayposts) besideStrange() {
	t := w.t
	before := w.seen()
	w.stop()
	w.plantOdd(w.live, strange())
	w.begin()
	after := w.seen()
	for _, line := range before {
		if strings.HasPrefix(line, "message ") && !slices.Contains(after, line) {
			t.Errorf("lost beside what is strange: %s", line)
		}
	}
	imap := w.imap()
	defer imap.close()
	for _, name := range []string{`"INBOX"`, `"Invalid&-Name"`} {
		imap.ok("SELECT %s", name)
		imap.ok("UID FETCH 1:* (BODY.PEEK[])")
		imap.ok(`STORE 1:* +FLAGS (\Flagged)`)
	}
	makeMail(imap, "INBOX", 1, 1)
	w.deliver(letter("beside what is strange"))
}
