package search

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"waypost/backend/mailbox"
	"waypost/internal/dovecottest"
)

// dovecot is Debian's IMAP program on a Maildir, for one session.
type dovecot struct {
	t *testing.T
	w io.WriteCloser
	r *bufio.Reader
	n int
}

// startDovecot serves the messages of f.
func startDovecot(t *testing.T, f *folder) *dovecot {
	t.Helper()
	home := dovecottest.New(t, "imap")
	fill(t, home, f)
	client, _ := home.Begin("imap")
	d := &dovecot{t: t, w: client, r: bufio.NewReader(client)}
	d.line()
	d.give("SELECT INBOX")
	d.inOrder(f)
	return d
}

// fill puts the messages into a home's Maildir.
func fill(t *testing.T, home *dovecottest.Home, f *folder) {
	t.Helper()
	for i, b := range f.bodies {
		letters := ""
		for _, l := range []struct {
			letter string
			flag   mailbox.System
		}{{"D", mailbox.Draft}, {"F", mailbox.Flagged}, {"R", mailbox.Answered}, {"S", mailbox.Seen}, {"T", mailbox.Deleted}} {
			if f.list[i].Flags.Has(l.flag) {
				letters += l.letter
			}
		}
		if len(f.list[i].Flags.Keywords) > 0 {
			letters += "a"
		}
		path := home.Write(fmt.Sprintf("Maildir/cur/%d.M%dP1.test:2,%s", 1700000000+i, i, letters), bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
		if err := os.Chtimes(path, f.dates[i], f.dates[i]); err != nil {
			t.Fatal(err)
		}
	}
	home.Write("Maildir/dovecot-keywords", []byte("0 $Work\n"))
}

// inOrder checks that messages have the numbers that they have in f.
func (d *dovecot) inOrder(f *folder) {
	d.t.Helper()
	lines := d.give("FETCH 1:* (INTERNALDATE)")
	if len(lines) != len(f.list) {
		d.t.Fatalf("%d messages of %d", len(lines), len(f.list))
	}
	for i, line := range lines {
		if want := f.dates[i].Format(`"02-Jan-2006 15:04:05 -0700"`); !strings.Contains(line, want) {
			d.t.Fatalf("message %d: %s, want %s", i+1, line, want)
		}
	}
}

func (d *dovecot) line() string {
	d.t.Helper()
	text, err := d.r.ReadString('\n')
	if err != nil {
		d.t.Fatalf("dovecot is gone: %v after %q", err, text)
	}
	return strings.TrimRight(text, "\r\n")
}

// give sends a command and gives its untagged answers.
func (d *dovecot) give(command string) (lines []string) {
	d.t.Helper()
	d.n++
	tag := fmt.Sprintf("t%d ", d.n)
	fmt.Fprintf(d.w, "%s%s\r\n", tag, command)
	for {
		line := d.line()
		switch {
		case strings.HasPrefix(line, tag+"OK"):
			return lines
		case strings.HasPrefix(line, tag):
			d.t.Fatalf("%s: %s", command, line)
		case strings.HasPrefix(line, "* OK"): // how far it is
		default:
			lines = append(lines, line)
		}
	}
}
