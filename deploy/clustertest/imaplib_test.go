package clustertest

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// imaplib lets a script of Python's work, and looks at what it left.
func (c *clients) imaplib(t *testing.T, f *far) {
	script, err := filepath.Abs("testdata/pymail.py")
	if err != nil {
		t.Fatal(err)
	}
	// Debian's, whichever else is in PATH.
	out := must(t, c.dir, "/usr/bin/python3", script, "localhost", fmt.Sprint(1993+c.offset), c.ca, string(f.u), password)
	if out != "" {
		t.Errorf("the script said:\n%s", out)
	}
	f.cl.Close()
	f.dial()
	got := f.folders()
	// Subjects and flags; the script has compared the texts.
	short := make(map[string][]string)
	for name, s := range got {
		short[name] = nil
		for _, m := range s.msgs {
			_, subject, _ := strings.Cut(string(m.body), "Subject: ")
			subject, _, _ = strings.Cut(subject, "\r\n")
			short[name] = append(short[name], holding(strings.Fields(m.flags), subject))
		}
	}
	want := map[string][]string{
		"INBOX":      nil,
		"Py box":     {"$py \\seen\nb root", "\\draft\n=?utf-8?q?Gr=C3=BC=C3=9Fe?="},
		"Py-Archive": {"$py \\seen\nb root", "\\answered \\flagged\na other"},
		"Пётр &- Co": nil,
	}
	for _, parent := range []string{"Deep", "Deep/Höher"} {
		if _, ok := got[parent]; ok { // a parent may be a mailbox or not
			want[parent] = nil
		}
	}
	if !reflect.DeepEqual(short, want) {
		t.Errorf("left are\n%q\nwant\n%q", short, want)
	}
	f.move()
	if now := f.folders(); !reflect.DeepEqual(now, got) {
		t.Errorf("after a move\n%v\nbefore it\n%v", now, got)
	}
}
