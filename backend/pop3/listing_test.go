package pop3

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

const (
	listed1 = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\nDate: Sun, 22 Nov 2026 10:00:00 +0100\nSubject: =?utf-8?q?a=0D=0A=2E=0D=0Ab=09c?=\nSubject: second\n\ntext\n"
	listed2 = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment; filename=x\n\nx\n--b--\n"
	listed3 = "Subject: 100%\n"
)

func TestListing(t *testing.T) {
	line := func(n int, rest string) string {
		size := []int{len(listed1) + 6, len(listed2) + 7, len(listed3) + 1}[n-1]
		return fmt.Sprintf("S: %d\t%d\t%s\t%s\n", n, size, uid(n), rest)
	}
	one := line(1, "\\Seen $Forwarded\t2026-11-22T09:00:00Z\tJürgen <j@example.org>\ta . b c\t0")
	two, three := line(2, "\t\t\t\t1"), line(3, "\t\t\t100%25\t0")
	const ok, end = "S: +OK listing follows\n", "S: .\n"
	for _, tt := range []struct{ name, script string }{
		{"all", "C: XLST\n" + ok + one + two + three + end},
		{"one", "C: xlst 2\n" + ok + two + end},
		{"ranges", "C: XLST 2-3\n" + ok + two + three + end + "C: XLST 2-\n" + ok + two + three + end + "C: XLST 3-99\n" + ok + three + end + "C: XLST 4-\n" + ok + end},
		{"deleted", "C: DELE 2\nS: +OK message 2 deleted\nC: XLST\n" + ok + one + three + end + "C: XLST 2\nS: -ERR message 2 is deleted\nC: XLST 2-2\n" + ok + end},
		{"wrong", `
			C: XLST 0
			S: -ERR want a number or a range
			C: XLST 4
			S: -ERR no such message
			C: XLST x
			S: -ERR want a number or a range
			C: XLST 3-2
			S: -ERR want a number or a range
			C: XLST -3
			S: -ERR want a number or a range
			C: XLST 1-2-3
			S: -ERR want a number or a range
			C: XLST 1 2
			S: -ERR wrong number of arguments`},
		{"pipelined", "C: XLST 3\nC: STAT\nC: XLST 2\n" + ok + three + end + fmt.Sprintf("S: +OK 3 %d\n", len(listed1+listed2+listed3)+14) + ok + two + end},
	} {
		t.Run(tt.name, func(t *testing.T) {
			box := open(t, drop(t, listed1, listed2, listed3), 7)
			f, err := box.Folder(mailbox.Inbox)
			if err != nil {
				t.Fatal(err)
			}
			if err := setFlags(f, 1, mailbox.Flags{System: mailbox.Seen, Keywords: []string{"$Forwarded"}}); err != nil {
				t.Fatal(err)
			}
			serve(t, Options{}, box).Play(strings.ReplaceAll(tt.script, "\t\t\tC", "C") + "\nC: QUIT\nS: +OK bye\nEOF")
		})
	}
}

func setFlags(f mailbox.Folder, uid mailbox.UID, flags mailbox.Flags) error {
	_, err := f.SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: flags})
	return err
}

// metaBox lets the index of message 2 fail; opening any message fails the test.
type metaBox struct {
	mailbox.Box
	t   *testing.T
	err error
}

func (b metaBox) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return metaFolder{f, b}, err
}

type metaFolder struct {
	mailbox.Folder
	b metaBox
}

func (f metaFolder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	if uid == 2 {
		return nil, f.b.err
	}
	return f.Folder.Meta(uid)
}

func (f metaFolder) Open(uid mailbox.UID) (mailbox.Body, error) {
	f.b.t.Error("message was opened")
	return f.Folder.Open(uid)
}

func TestListingOfWhatCannotBeRead(t *testing.T) {
	for _, err := range []error{mailbox.ErrNoMessage, errors.New("bad disk")} {
		d := serve(t, Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, metaBox{open(t, drop(t, listed3, m2, listed3), 7), t, err})
		d.Play("C: XLST\nS: +OK listing follows\nS: 1\t15\t" + uid(1) + "\t\t\t\t100%25\t0\nS: 2\t10\t" + uid(2) + "\t\t\t\t\t0\n" +
			"S: 3\t15\t" + uid(3) + "\t\t\t\t100%25\t0\nS: .\nC: QUIT\nS: +OK bye\nEOF")
	}
	d := serve(t, Options{}, metaBox{open(t, drop(t, listed3, m2, listed3), 7), t, mailbox.ErrStale})
	d.Play("C: XLST\nS: +OK listing follows\nS: 1\t15\t" + uid(1) + "\t\t\t\t100%25\t0\nEOF")
	if err := d.end(); !errors.Is(err, ErrMoved) {
		t.Error(err)
	}
}

func TestLangAndUTF8(t *testing.T) {
	serve(t, Options{}, open(t, drop(t, m2), 7)).Play(`
		C: LANG
		S: +OK Language listing follows.
		S: en English
		S: i-default English, the default
		S: .
		C: lang en-GB
		S: +OK en Language changed.
		C: LANG xx
		S: -ERR Language is not supported.
		C: UTF8
		S: -ERR UTF8 is for before the login
		C: QUIT
		S: +OK bye
		EOF`)
}

// TestCapabilitiesOfTheLogin: CAPA shows what the proxy has offered.
func TestCapabilitiesOfTheLogin(t *testing.T) {
	s := &session{srv: New(Options{Capabilities: []string{"USER"}})}
	for _, row := range []struct {
		ses  Session
		want string
	}{{Session{}, "USER"}, {Session{Capabilities: []string{"STLS", "LOGIN-DELAY 9"}}, "STLS LOGIN-DELAY 9"}, {Session{Capabilities: []string{}}, ""}} {
		if got := strings.Join(row.ses.capabilities(s.srv), " "); got != row.want {
			t.Errorf("%q, want %q", got, row.want)
		}
	}
}

func TestLockWaits(t *testing.T) {
	var locks Locks
	release, ok := locks.Lock(t.Context(), ann, "s1")
	if !ok {
		t.Fatal("not free")
	}
	got := make(chan bool)
	go func() {
		release, ok := locks.Lock(t.Context(), ann, "s1")
		if ok {
			release()
		}
		got <- ok
	}()
	release()
	if !<-got {
		t.Error("the lock was not handed on")
	}
	release, _ = locks.Lock(t.Context(), ann, "s1")
	defer release()
	if _, ok := locks.Lock(t.Context(), ann, "s1"); ok { // after lockWait
		t.Error("two have it")
	}
}
