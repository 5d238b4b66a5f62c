package archive

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

const sep = "From ann@example.test Sat Jan  3 01:05:34 1996\n"

// texts gives an mbox's messages as they go out.
func texts(t testing.TB, data string, quoted bool) (out []string, all []found) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	write(t, path, data)
	m := &mbox{fsys: vfs.OS, path: path, quoted: quoted}
	all, err := m.scan(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		b, err := m.open(&entry{found: x})
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(b)
		if err != nil || int64(len(text)) != x.wire || b.Close() != nil {
			t.Fatalf("%d bytes of %d: %v", len(text), x.wire, err)
		}
		out = append(out, string(text))
	}
	return out, all
}

func TestSplit(t *testing.T) {
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	for _, c := range []struct {
		name, data string
		quoted     bool
		want       []string
	}{
		{"nothing", "", false, nil},
		{"two", sep + "A: 1\n\none\n\n" + sep + "A: 2\n\ntwo\n\n", false, []string{"A: 1\n\none\n", "A: 2\n\ntwo\n"}},
		{"no end", sep + "A: 1\n\none", false, []string{"A: 1\n\none"}},
		{"blank lines", sep + "A: 1\n\none\n\n\n\n" + sep + "A: 2\n\n", false, []string{"A: 1\n\none\n\n\n", "A: 2\n\n"}},
		{"no text", sep + "A: 1\n\n" + sep + "A: 2\n\ntwo\n", false, []string{"A: 1\n\n", "A: 2\n\ntwo\n"}},
		{"no blank line before", sep + "A: 1\n\none\n" + sep + "two\n", false, []string{"A: 1\n\none\n", "two\n"}}, // as Dovecot has it
		{"a byte order mark", "\ufeff" + sep + "A: 1\n\none\n\n" + sep + "two\n", false, []string{"A: 1\n\none\n", "two\n"}},
		{"addresses only", "From a@b\nA: 1\n\none\n\nFrom c@d\ntwo\n\nFrom here\n\nFrom e@f on\n", false, []string{"A: 1\n\none\n", "two\n\nFrom here\n\nFrom e@f on\n"}},
		{"addresses only, no blank line", "From a@b\nA: 1\n\none\nFrom c@d\ntwo\n", false, []string{"A: 1\n\none\nFrom c@d\ntwo\n"}},
		{"a date nobody knows", "From a@b on 3.Jan.1996\nA: 1\n\none\n\nFrom c@d on 4.Jan.1996\ntwo\n", false, []string{"A: 1\n\none\n", "two\n"}},
		{"no date", sep + "A: 1\n\none\n\nFrom here on\n", false, []string{"A: 1\n\none\n\nFrom here on\n"}},
		{"blank at the beginning", "\n\n" + sep + "A: 1\n\none\n", false, []string{"A: 1\n\none\n"}},
		{"quoted, as it stands", sep + "A: 1\n\n>From x\n>>From y\n", false, []string{"A: 1\n\n>From x\n>>From y\n"}},
		{"quoted", sep + "A: 1\n\n>From x\n>>From y\n>from z\n", true, []string{"A: 1\n\nFrom x\n>From y\n>from z\n"}},
		{"CRLF", crlf(sep + "A: 1\n\none\n\n" + sep + "A: 2\n\ntwo\n"), false, []string{"A: 1\n\none\n", "A: 2\n\ntwo\n"}},
		{"length", sep + "Content-Length: 6\nA: 1\n\none\n\n\n" + sep + "A: 2\n\ntwo\n", false, []string{"Content-Length: 6\nA: 1\n\none\n\n", "A: 2\n\ntwo\n"}},
		{"length over a separator", sep + "Content-Length: " + "53\n\none\n\n" + sep + "\n" + sep + "A: 2\n\n", false,
			[]string{"Content-Length: 53\n\none\n\n" + sep, "A: 2\n\n"}},
		{"length and no blank line", sep + "Content-Length: 4\n\none\n" + sep + "A: 2\n\n", false, []string{"Content-Length: 4\n\none\n", "A: 2\n\n"}},
		{"wrong length", sep + "Content-Length: 7\n\none\n\n" + sep + "A: 2\n\n", false, []string{"Content-Length: 7\n\none\n", "A: 2\n\n"}},
		{"length beyond the end", sep + "Content-Length: 7000\n\none\n\n" + sep + "A: 2\n\n", false, []string{"Content-Length: 7000\n\none\n", "A: 2\n\n"}},
		{"length of an mboxrd", sep + "Content-Length: 53\n\none\n\n" + sep + "\n" + sep, true, []string{"Content-Length: 53\n\none\n", "\n", ""}},
		{"long lines", sep + "\n" + strings.Repeat(">", 3*lineBuffer) + "From x\n" + strings.Repeat("y", lineBuffer) + "\n\n" + sep + "z\n", true,
			[]string{"\n" + strings.Repeat(">", 3*lineBuffer) + "From x\n" + strings.Repeat("y", lineBuffer) + "\n", "z\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := texts(t, c.data, c.quoted)
			for i := range c.want {
				c.want[i] = crlf(c.want[i])
			}
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("got %.300q\nwant %.300q", got, c.want)
			}
		})
	}
}

func TestSplitFacts(t *testing.T) {
	_, all := texts(t, sep+"Status: RO\nX-Status: AF\n\none\nStatus: x\n\n"+sep+"A: 2\n\ntwo\n", false)
	if all[0].flags != mailbox.Seen|mailbox.Answered|mailbox.Flagged || all[1].flags != 0 {
		t.Errorf("%v %v", all[0].flags, all[1].flags)
	}
	if want := time.Date(1996, 1, 3, 1, 5, 34, 0, time.UTC); !all[0].date.Equal(want) {
		t.Error(all[0].date)
	}
}

func TestParseFrom(t *testing.T) {
	at := func(zone int, s int) time.Time { return time.Date(1996, 1, 3, 1, 5, s, 0, time.FixedZone("", zone)) }
	for line, want := range map[string]time.Time{
		"From a@b Sat Jan  3 01:05:34 1996":                     at(0, 34),
		"From a@b Sat Jan  3 01:05 1996":                        at(0, 0),
		"From a b Sat Jan 3 01:05:34 +0100 1996":                at(3600, 34),
		"From a@b Sat Jan 3 01:05:34 1996 -0130":                at(-5400, 34),
		"From a@b Sat Jan 3 01:05:34 MET 1996":                  at(0, 34),
		"From - Sat Jan 03 01:05:34 1996\r\n":                   at(0, 34),
		"From a@b Sat, 3 Jan 1996 01:05:34 +0100":               at(3600, 34),
		"From a Sat Jan  3 01:05:34 1996 remote from somewhere": at(0, 34),
		"From a Sat Jan 3 01:05:34 96":                          at(0, 34),
		"From a@b Sat Jan  3 01.05.34 1996":                     at(0, 34),
		"From a@b 1996-01-03 01:05:34":                          at(0, 34),
		"From a@b 1996-01-03T01:05:34+01:00":                    at(3600, 34),
	} {
		if got, ok := parseFrom([]byte(line)); !ok || !got.Equal(want) {
			t.Errorf("%q: %v %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "From ", "From a@b", "From me to you at 10:30", "From a Sat Jan 33 01:05:34 1996", "From a Sat Foo 3 01:05:34 1996",
		"From a Sat Jan 3 25:05:34 1996", "From a Sat Jan 3 01:05:34 6", "From a 1996-13-03 01:05:34", ">From a@b Sat Jan  3 01:05:34 1996", "from a@b Sat Jan  3 01:05:34 1996",
		"From " + strings.Repeat("a", maxFrom) + " Sat Jan 3 01:05:34 1996"} {
		if _, ok := parseFrom([]byte(line)); ok {
			t.Errorf("%q taken", line)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(sep+"A: 1\n\none\n\n"+sep+"\n>From x\n"), true)
	f.Add([]byte(sep+"Content-Length: 5\n\none\n\n"+sep+"\r\n\r\n"), false)
	f.Add([]byte("\n"+sep+"Content-Length: 0\n\n"+sep), false)
	f.Add([]byte(sep+strings.Repeat(">", lineBuffer)+"From x"), true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, quoted bool) {
		file, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		if _, err := file.Write(data); err != nil || file.Close() != nil {
			t.Fatal(err)
		}
		m := &mbox{fsys: vfs.OS, path: file.Name(), quoted: quoted}
		all, err := m.scan(nil)
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		seen := map[string]bool{}
		for _, x := range all {
			if seen[x.key] {
				t.Fatal("the same key twice")
			}
			seen[x.key] = true
			b, err := m.open(&entry{found: x})
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(b)
			if err != nil || int64(len(text)) != x.wire {
				t.Fatalf("%d bytes, want %d: %v", len(text), x.wire, err)
			}
			if at, err := b.Seek(x.wire/2, io.SeekStart); err != nil || at != x.wire/2 {
				t.Fatal(at, err)
			}
			if half, err := io.ReadAll(b); err != nil || !bytes.Equal(half, text[x.wire/2:]) {
				t.Fatal("after Seek", err)
			}
			sum += x.size
			b.Close()
		}
		if sum > int64(len(data)) {
			t.Fatal("more than there is")
		}
	})
}
