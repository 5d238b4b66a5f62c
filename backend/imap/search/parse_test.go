package search

import (
	"errors"
	"strings"
	"testing"

	"waypost/backend/imap/syntax"
)

func TestParseErrors(t *testing.T) {
	var bad *syntax.SyntaxError
	var charset *CharsetError
	syntaxError := func(err error) bool { return errors.As(err, &bad) }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	uidOnly := Options{UIDOnly: true}
	for _, c := range []struct {
		command string
		opts    Options
		want    func(error) bool
	}{
		{"SEARCH", Options{}, syntaxError},
		{"SEARCH ", Options{}, syntaxError},
		{"SEARCH NONSENSE", Options{}, syntaxError},
		{"SEARCH NONSENSE x", Options{}, syntaxError},
		{"SEARCH ALL ", Options{}, syntaxError},
		{"SEARCH ALL  SEEN", Options{}, syntaxError},
		{"SEARCH ()", Options{}, syntaxError},
		{"SEARCH (SEEN", Options{}, syntaxError},
		{"SEARCH SUBJECT", Options{}, syntaxError},
		{"SEARCH HEADER x", Options{}, syntaxError},
		{"SEARCH OR SEEN", Options{}, syntaxError},
		{"SEARCH NOT", Options{}, syntaxError},
		{"SEARCH SINCE 32-Jan-2020", Options{}, syntaxError},
		{"SEARCH OLDER 0", Options{}, syntaxError},
		{"SEARCH YOUNGER 4294967296", Options{}, syntaxError},
		{"SEARCH LARGER x", Options{}, syntaxError},
		{"SEARCH 0", Options{}, syntaxError},
		{"SEARCH 1,", Options{}, syntaxError},
		{"SEARCH UID x", Options{}, syntaxError},
		{`SEARCH MODSEQ "/flags/\\draft" 5`, Options{}, syntaxError},
		{`SEARCH MODSEQ "/flags/\\draft" some 5`, Options{}, syntaxError},
		{"SEARCH RETURN ALL", Options{}, syntaxError},
		{"SEARCH RETURN (FIRST) ALL", Options{}, syntaxError},
		{"SEARCH RETURN (PARTIAL 0:5) ALL", Options{}, syntaxError},
		{"SEARCH RETURN (PARTIAL 1:-5) ALL", Options{}, syntaxError},
		{"SEARCH RETURN (PARTIAL 1) ALL", Options{}, syntaxError},
		{"SEARCH RETURN (PARTIAL 1:2 PARTIAL 3:4) ALL", Options{}, syntaxError},
		{"SEARCH RETURN (ALL PARTIAL 1:2) ALL", Options{}, syntaxError},
		{"SEARCH CHARSET UTF-8 ALL", Options{UTF8: true}, syntaxError},
		{"SEARCH SUBJECT \"\xff\"", Options{}, syntaxError},
		{"SEARCH CHARSET X-NONE SUBJECT x", Options{}, func(err error) bool {
			return errors.As(err, &charset) && strings.HasPrefix(charset.Code(), "BADCHARSET (US-ASCII UTF-8 ")
		}},
		{"SEARCH CHARSET replacement SUBJECT x", Options{}, func(err error) bool { return errors.As(err, &charset) }},
		{"SEARCH" + strings.Repeat(" SEEN", maxKeys+1), Options{}, is(ErrTooMuch)},
		{"SEARCH" + strings.Repeat(" BODY x", maxTexts+1), Options{}, is(ErrTooMuch)},
		{"SEARCH " + strings.Repeat("NOT ", 100) + "SEEN", Options{}, syntaxError},
		{"SEARCH " + strings.Repeat("(", 100) + "SEEN" + strings.Repeat(")", 100), Options{}, syntaxError},
		{"SEARCH ALL", uidOnly, is(ErrUIDRequired)},
		{"UID SEARCH 1:5", uidOnly, is(ErrUIDRequired)},
		{"UID SEARCH NOT (SEEN 1)", uidOnly, is(ErrUIDRequired)},
		{"SORT (DATE) UTF-8 ALL", uidOnly, is(ErrUIDRequired)},
		{"SORT () UTF-8 ALL", Options{}, syntaxError},
		{"SORT (COLOUR) UTF-8 ALL", Options{}, syntaxError},
		{"SORT (REVERSE) UTF-8 ALL", Options{}, syntaxError},
		{"SORT (DATE) ALL", Options{}, func(err error) bool { return errors.As(err, &charset) }},
		{"SORT (DATE) UTF-8", Options{}, syntaxError},
		{"THREAD REFS UTF-8", Options{}, syntaxError},
		{"THREAD MAGIC UTF-8 ALL", Options{}, syntaxError},
		{"THREAD RETURN () REFS UTF-8 ALL", Options{}, syntaxError},
	} {
		_, err := parse(c.command, c.opts)
		if err == nil || !c.want(err) {
			t.Errorf("%.60s: %v", c.command, err)
		}
	}
}

func TestParse(t *testing.T) {
	for command, opts := range map[string]Options{
		"UID SEARCH $":                 {UIDOnly: true},
		"UID SEARCH UID 1:* $":         {UIDOnly: true},
		"UID SEARCH RETURN (SAVE) ALL": {UIDOnly: true, UTF8: true},
		"SORT (DATE) UTF-8 ALL":        {UTF8: true},
		"search return (min) charset \"us-ascii\" (subject x)": {},
		"SEARCH FUZZY SUBJECT {1}\r\nx NOT FUZZY (BODY y)":     {},
		"SEARCH KEYWORD $Forwarded UNKEYWORD x":                {},
	} {
		if _, err := parse(command, opts); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	q, err := parse("SEARCH RETURN (SAVE) NOT MODSEQ 5", Options{})
	if err != nil || !q.ModSeq() || !q.Save() {
		t.Errorf("%v: MODSEQ or SAVE are not told", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"SEARCH RETURN (MIN MAX PARTIAL -1:-5 SAVE) CHARSET koi8-r OR NOT (SUBJECT {3}\r\nabc) 1:5,$ UID *",
		`UID SORT (REVERSE DATE DISPLAYFROM) UTF-8 MODSEQ "/flags/\\draft" all 5 SENTON "1-Feb-2020"`,
		"THREAD REFS US-ASCII OLDER 5 HEADER x \"\"", "SEARCH " + strings.Repeat("NOT ", 50) + "SEEN",
	} {
		f.Add(s, byte(0))
	}
	dir := newFolder()
	dir.add(f, []byte("Subject: abc\r\nDate: 1 Jan 2020 10:00 +0000\r\n\r\nbody\r\n"), flagsOf(1), day0)
	dir.add(f, []byte("Subject: x\r\n\r\n"), flagsOf(2), day0)
	f.Fuzz(func(t *testing.T, command string, bits byte) {
		q, err := parse(command, Options{Rev2: bits&1 > 0, UTF8: bits&2 > 0, UIDOnly: bits&4 > 0})
		if err != nil {
			return
		}
		res, err := q.Run(t.Context(), dir, Env{})
		if err != nil {
			t.Fatal(err)
		}
		if line := written(res); strings.ContainsAny(line, "\r\n") {
			t.Errorf("%q: %q", command, line)
		}
	})
}
