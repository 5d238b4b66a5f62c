package search

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// letters is a folder of four messages; the words in them tell what finds them.
func letters(t testing.TB) *folder {
	t.Helper()
	f := newFolder()
	at := func(days int) time.Time { return day0.AddDate(0, 0, days).Add(time.Duration(days) * time.Hour) }
	f.add(t, []byte("From: Ann Lee <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?B=C3=BCro?= plan\r\n"+
		"Date: Wed, 28 Feb 2024 23:30:00 -0800\r\nMessage-ID: <1@x>\r\nX-Mailer: Pigeon\r\n\r\nHello World\r\n"),
		mailbox.Flags{System: mailbox.Seen, Keywords: []string{"$Work"}}, at(0))
	f.add(t, []byte("From: bob@example.org\r\nTo: ann@example.org\r\nCc: eve@example.org\r\nSubject: Re: b\u00fcro plan\r\n"+
		"Date: Thu, 29 Feb 2024 10:00:00 +0000\r\nMessage-ID: <2@x>\r\nReferences: <1@x>\r\n"+
		"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"+
		"Content-Description: notes\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe aus K=F6ln, wel=\r\ncome\r\n--b\r\n"+
		"Content-Type: application/octet-stream\r\n\r\nbinaryword\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"+
		"Subject: enclosed\r\n\r\ninner text\r\n--b--\r\n"),
		mailbox.Flags{System: mailbox.Answered | mailbox.Flagged}, at(1))
	f.add(t, []byte("From: Eve <eve@example.org>\r\nBcc: ann@example.org\r\nSubject: other\r\n\r\n"+strings.Repeat("long line\r\n", 50)),
		mailbox.Flags{System: mailbox.Deleted | mailbox.Draft}, at(2))
	f.add(t, []byte("Subject: \r\nDate: nonsense\r\nX-Empty:\r\n\r\n"), mailbox.Flags{}, at(3))
	f.recent[20], f.recent[40] = true, true
	f.recent[10] = true
	f.search = []mailbox.UID{20, 30}
	f.threads = map[mailbox.UID]string{10: "T1", 20: "T1"}
	return f
}

func TestKeys(t *testing.T) {
	f := letters(t)
	day := func(days int) string { return day0.AddDate(0, 0, days).Format("2-Jan-2006") }
	for keys, want := range map[string]string{
		"ALL": "1 2 3 4", "SEEN": "1", "UNSEEN": "2 3 4", "ANSWERED": "2", "UNANSWERED": "1 3 4", "FLAGGED": "2", "UNFLAGGED": "1 3 4",
		"DELETED": "3", "UNDELETED": "1 2 4", "DRAFT": "3", "UNDRAFT": "1 2 4", "RECENT": "1 2 4", "OLD": "3", "NEW": "2 4",
		"KEYWORD $work": "1", "UNKEYWORD $Work": "2 3 4", "KEYWORD none": "",
		"LARGER 500": "2 3", "SMALLER 100": "4", "NOT LARGER 9223372036854775807": "1 2 3 4",
		"BEFORE " + day(1): "1", "ON " + day(1): "2", "SINCE " + day(1): "2 3 4", "ON " + day(0): "1",
		"SENTBEFORE 29-Feb-2024": "1", "SENTON 28-Feb-2024": "1", "SENTSINCE 29-Feb-2024": "2", "SENTON \"29-feb-2024\"": "2",
		"OLDER 86400": "1 2", "YOUNGER 86400": "3 4", "OLDER 90000": "1 2", "YOUNGER 90000": "2 3 4",
		"SAVEDBEFORE " + day(1): "1", "SAVEDON " + day(1): "2", "SAVEDSINCE " + day(2): "3 4", "SAVEDATESUPPORTED": "",
		"1": "1", "2:3": "2 3", "*": "4", "3:*": "3 4", "9:2": "2 3 4", "7": "", "UID 10,40": "1 4", "UID 11:19": "", "UID 99:*": "4",
		"$": "2 3", "NOT $": "1 4", "UID 10:20 $": "2", "OR 1 $": "1 2 3",
		"MODSEQ 1700": "1 2 3", `MODSEQ "/flags/\\seen" all 1800`: "1 2", // mod-sequences are 1919, 1838 ...
		"EMAILID guid2": "2", "THREADID T1": "1 2", "THREADID T9": "",
		"FROM ann": "1", "FROM LEE": "1", "TO ann": "2", "CC eve": "2", "BCC ann": "3", "SUBJECT plan": "1 2", "SUBJECT \"\"": "1 2 3 4",
		"SUBJECT \"b\u00fcro\"": "1 2", "SUBJECT \"B\u00dcRO PLAN\"": "1 2", "CHARSET iso-8859-1 SUBJECT \"b\xfcro\"": "1 2",
		"SUBJECT {5}\r\nbu\u0308r": "1 2", "SUBJECT utf-8": "",
		"HEADER X-Mailer pigeon": "1", "HEADER x-empty \"\"": "4", "HEADER Received \"\"": "", "HEADER Cc \"\"": "2", "HEADER message-id <1@x>": "1",
		"BODY hello": "1", "BODY \"gr\u00fc\u00dfe aus\"": "2", "BODY welcome": "2", "BODY \"INNER text\"": "2", "BODY binaryword": "", "BODY enclosed": "",
		"BODY preamble": "", "BODY notes": "", "BODY \"\"": "1 2 3 4", "BODY plan": "",
		"TEXT enclosed": "2", "TEXT notes": "2", "TEXT hello": "1", "TEXT pigeon": "1", "TEXT \"x-mailer: pigeon\"": "1", "TEXT \"b\u00fcro\"": "1 2", "TEXT ann": "1 2 3",
		"NOT SEEN": "2 3 4", "NOT NOT SEEN": "1", "OR SEEN DRAFT": "1 3", "(SEEN) NOT (DRAFT FLAGGED)": "1", "OR (SEEN SUBJECT plan) OR DRAFT BODY inner": "1 2 3",
		"NOT BODY hello": "2 3 4", "OR BODY hello NOT TEXT plan": "1 3 4", "NOT (OR BODY hello FROM eve)": "2 4", "FUZZY SUBJECT plan": "1 2", "NOT FUZZY SEEN": "2 3 4",
	} {
		for name, v := range map[string]View{"folder": f, "header view": quick{f}} {
			q, err := parse("SEARCH "+keys, Options{})
			if err != nil {
				t.Errorf("%s: %v", keys, err)
				break
			}
			res, err := q.Run(t.Context(), v, Env{Now: f.dates[2], Slots: NewSlots(1).Of("ann")})
			if err != nil {
				t.Errorf("%s: %v", keys, err)
				break
			}
			got := strings.TrimPrefix(strings.TrimPrefix(written(res), "* SEARCH"), " ")
			if got, _, _ = strings.Cut(got, " (MODSEQ"); got != want {
				t.Errorf("%s, %s: %q, want %q", name, keys, got, want)
			}
		}
	}
	f.saved = []time.Time{day0, day0, day0.AddDate(0, 0, 9), day0}
	for keys, want := range map[string]string{"SAVEDATESUPPORTED": " 1 2 3 4", "SAVEDSINCE " + day(5): " 3"} {
		if got := answer(t, f, "SEARCH "+keys, Options{}); got != "* SEARCH"+want {
			t.Errorf("%s: %q", keys, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	f := letters(t)
	rev2 := Options{Rev2: true}
	for _, c := range []struct {
		command string
		opts    Options
		want    string
	}{
		{"SEARCH UNSEEN", Options{}, "* SEARCH 2 3 4"},
		{"UID SEARCH UNSEEN", Options{}, "* SEARCH 20 30 40"},
		{"SEARCH KEYWORD none", Options{}, "* SEARCH"},
		{"SEARCH MODSEQ 1 2:4", Options{}, "* SEARCH 2 3 4 (MODSEQ 1838)"},
		{"SEARCH MODSEQ 5000", Options{}, "* SEARCH"},
		{"SEARCH UNSEEN", rev2, `* ESEARCH (TAG "A1") ALL 2:4`},
		{"UID SEARCH UNSEEN", rev2, `* ESEARCH (TAG "A1") UID ALL 20,30,40`},
		{"SEARCH KEYWORD none", rev2, `* ESEARCH (TAG "A1")`},
		{"SEARCH RETURN () UNSEEN", Options{}, `* ESEARCH (TAG "A1") ALL 2:4`},
		{"UID SEARCH RETURN (MIN MAX COUNT) UNSEEN", Options{}, `* ESEARCH (TAG "A1") UID MIN 20 MAX 40 COUNT 3`},
		{"SEARCH RETURN (MIN ALL COUNT) KEYWORD none", Options{}, `* ESEARCH (TAG "A1") COUNT 0`},
		{"SEARCH RETURN (SAVE) ALL", Options{}, ""},
		{"SEARCH RETURN (SAVE ALL) SEEN", Options{}, `* ESEARCH (TAG "A1") ALL 1`},
		{"SEARCH RETURN (PARTIAL 2:3) ALL", Options{}, `* ESEARCH (TAG "A1") PARTIAL (2:3 2:3)`},
		{"SEARCH RETURN (PARTIAL 3:90) ALL", Options{}, `* ESEARCH (TAG "A1") PARTIAL (3:90 3:4)`},
		{"SEARCH RETURN (PARTIAL 5:9) ALL", Options{}, `* ESEARCH (TAG "A1") PARTIAL (5:9 NIL)`},
		{"UID SEARCH RETURN (PARTIAL -1:-2 COUNT) ALL", Options{}, `* ESEARCH (TAG "A1") UID COUNT 4 PARTIAL (-1:-2 30,40)`},
		{"SEARCH RETURN (PARTIAL -3:-9) ALL", Options{}, `* ESEARCH (TAG "A1") PARTIAL (-3:-9 1:2)`},
		{"SEARCH RETURN (PARTIAL 4294967295:1) ALL", Options{}, `* ESEARCH (TAG "A1") PARTIAL (4294967295:1 1:4)`},
		{"SEARCH RETURN (MIN) MODSEQ 1 ALL", Options{}, `* ESEARCH (TAG "A1") MIN 1 MODSEQ 1919`},
		{"SEARCH RETURN (MAX) MODSEQ 1", Options{}, `* ESEARCH (TAG "A1") MAX 4 MODSEQ 1676`},
		{"SEARCH RETURN (MIN MAX) MODSEQ 1 2:4", Options{}, `* ESEARCH (TAG "A1") MIN 2 MAX 4 MODSEQ 1838`},
		{"SEARCH RETURN (MAX COUNT) MODSEQ 1", Options{}, `* ESEARCH (TAG "A1") MAX 4 COUNT 4 MODSEQ 1919`},
		{"SEARCH RETURN (PARTIAL 3:4) MODSEQ 1", Options{}, `* ESEARCH (TAG "A1") PARTIAL (3:4 3:4) MODSEQ 1757`},
		{"SORT (REVERSE ARRIVAL) UTF-8 ALL", rev2, "* SORT 4 3 2 1"},
		{"UID SORT (SIZE) UTF-8 ALL", Options{}, "* SORT 40 10 20 30"},
		{"SORT (SUBJECT REVERSE SIZE) UTF-8 ALL", Options{}, "* SORT 4 2 1 3"},
		{"SORT (DATE) UTF-8 ALL", Options{}, "* SORT 1 2 3 4"},
		{"SORT (FROM) US-ASCII MODSEQ 1", Options{}, "* SORT 4 1 2 3 (MODSEQ 1919)"},
		{"SORT (REVERSE DISPLAYFROM) UTF-8 ALL", Options{}, "* SORT 3 2 1 4"},
		{"SORT RETURN (ALL) (FROM) UTF-8 ALL", Options{}, `* ESEARCH (TAG "A1") ALL 4,1:3`},
		{"SORT RETURN (MIN MAX) (FROM) UTF-8 ALL", Options{}, `* ESEARCH (TAG "A1") MIN 4 MAX 3`},
		{"SORT (DATE) UTF-8 KEYWORD none", Options{}, "* SORT"},
		{"THREAD REFERENCES UTF-8 ALL", Options{}, "* THREAD (1 2)(3)(4)"},
		{"UID THREAD REFS UTF-8 2:3", Options{}, "* THREAD (20)(30)"},
		{"THREAD ORDEREDSUBJECT UTF-8 ALL", Options{}, "* THREAD (1 2)(3)(4)"},
		{"THREAD REFS UTF-8 KEYWORD none", Options{}, "* THREAD"},
	} {
		if got := answer(t, f, c.command, c.opts); got != c.want {
			t.Errorf("%s:\n%q, want\n%q", c.command, got, c.want)
		}
		if got := answer(t, quick{f}, c.command, c.opts); got != c.want {
			t.Errorf("%s with a header view:\n%q, want\n%q", c.command, got, c.want)
		}
	}
}

// TestSaved is RFC 5182, Section 2.4's table, and RFC 9394's.
func TestSaved(t *testing.T) {
	f := letters(t)
	for options, want := range map[string][]mailbox.UID{
		"SAVE": {10, 20, 30, 40}, "SAVE ALL MIN": {10, 20, 30, 40}, "SAVE COUNT MAX": {10, 20, 30, 40}, "SAVE MIN": {10}, "SAVE MAX": {40},
		"SAVE MIN MAX": {10, 40}, "SAVE PARTIAL 2:3": {20, 30}, "SAVE PARTIAL 2:3 MAX": {20, 30, 40}, "SAVE PARTIAL 1:2 MIN": {10, 20},
		"SAVE PARTIAL 2:3 COUNT": {10, 20, 30, 40}, "MIN": nil,
	} {
		for _, command := range []string{"SEARCH RETURN (" + options + ") ALL", "SORT RETURN (" + options + ") (ARRIVAL) UTF-8 ALL"} {
			q, err := parse(command, Options{})
			if err != nil {
				t.Fatal(command, err)
			}
			res, err := q.Run(t.Context(), f, Env{})
			if err != nil || !slices.Equal(res.Saved, want) {
				t.Errorf("%s: %v %v, want %v", command, res.Saved, err, want)
			}
		}
	}
}

// TestVanished: messages that went away meanwhile match nothing that has to look at
// them, not even a NOT.
func TestVanished(t *testing.T) {
	f := letters(t)
	f.gone[20] = true
	for command, want := range map[string]string{
		"SEARCH ALL": "* SEARCH 1 2 3 4", "SEARCH NOT SUBJECT nothing": "* SEARCH 1 3 4", "SEARCH NOT BODY nothing": "* SEARCH 1 3 4",
		"SORT (SUBJECT) UTF-8 ALL": "* SORT 4 1 3", "SORT (ARRIVAL) UTF-8 ALL": "* SORT 1 3 4", "THREAD REFS UTF-8 ALL": "* THREAD (1)(3)(4)",
		"SEARCH OR SEEN NOT BODY x": "* SEARCH 1 3 4",
	} {
		if got := answer(t, f, command, Options{}); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// TestThrift: a message is opened once at most, and only where nothing cheaper decides.
func TestThrift(t *testing.T) {
	for keys, want := range map[string]string{
		"BODY hello TEXT plan BODY welcome HEADER x-mailer pigeon": "map[10:1 20:1 30:1 40:1]",
		"BODY hello SEEN":                           "map[10:1]",
		"OR SEEN BODY hello":                        "map[20:1 30:1 40:1]",
		"NOT (OR SEEN BODY hello)":                  "map[20:1 30:1 40:1]",
		"OR SUBJECT plan BODY x":                    "map[30:1 40:1]",
		"SUBJECT plan BODY x":                       "map[10:1 20:1]",
		"HEADER references 1@x":                     "map[]",
		"HEADER x-mailer x SINCE 1-Jan-2030":        "map[]",
		"UID 30 TEXT x":                             "map[30:1]",
		"(OR SEEN BODY x) (OR UNSEEN BODY y) DRAFT": "map[30:1]",
		"(OR SEEN BODY x) (OR FLAGGED SUBJECT y)":   "map[20:1]",
	} {
		f := letters(t)
		answer(t, f, "SEARCH "+keys, Options{})
		if got := fmt.Sprint(f.opened); got != want {
			t.Errorf("%s opened %s, want %s", keys, got, want)
		}
	}
}

// TestTooMuchForTheIndex: fields that it did not keep are read from the message.
func TestTooMuchForTheIndex(t *testing.T) {
	f := letters(t)
	long := strings.Repeat("\r\n <x@y>", 2000)
	f.add(t, []byte("Subject: long"+strings.Repeat("\r\n word", 3000)+" plan\r\nReferences:"+long+" <2@x>\r\nMessage-ID: <5@x>\r\n\r\n"), mailbox.Flags{}, day0)
	for command, want := range map[string]string{
		"SEARCH SUBJECT \"word plan\"": "* SEARCH 5", "SEARCH HEADER references 2@x": "* SEARCH 5", "SEARCH NOT SUBJECT word": "* SEARCH 1 2 3 4",
		"SORT (SUBJECT) UTF-8 1,3,5": "* SORT 1 5 3", "THREAD REFS UTF-8 1:5": "* THREAD (1 2 5)(3)(4)",
	} {
		for _, v := range []View{f, quick{f}} {
			if got := answer(t, v, command, Options{}); got != want {
				t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
	}
}

// indexed has an index of texts that knows some needles.
type indexed struct {
	*folder
	asked []string
}

func (x *indexed) Candidates(_ context.Context, needle string, body bool) ([]mailbox.UID, bool) {
	x.asked = append(x.asked, fmt.Sprint(needle, body))
	return []mailbox.UID{10, 30}, needle == "HELLO"
}

func TestTextIndex(t *testing.T) {
	x := &indexed{folder: letters(t)}
	for keys, want := range map[string]string{
		"BODY hello": " 1", "NOT BODY hello": " 2 3 4", "OR BODY hello TEXT enclosed": " 1 2", "BODY hello TEXT hello": " 1",
	} {
		clear(x.opened)
		if got := answer(t, x, "SEARCH "+keys, Options{}); got != "* SEARCH"+want {
			t.Errorf("%s: %q", keys, got)
		}
		if x.opened[20] > 0 != strings.Contains(keys, "enclosed") {
			t.Errorf("%s opened %v", keys, x.opened)
		}
	}
	if !slices.Contains(x.asked, "HELLOtrue") || !slices.Contains(x.asked, "ENCLOSEDfalse") {
		t.Errorf("asked for %q", x.asked)
	}
}

// broken is a View whose disk fails.
type broken struct{ *folder }

var errDisk = errors.New("disk")

func (broken) Open(mailbox.UID) (mailbox.Body, error) { return nil, errDisk }

func TestEnds(t *testing.T) {
	f := letters(t)
	q, err := parse("SEARCH BODY x", Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := NewSlots(1)
	slots := all.Of("ann")
	if _, err := q.Run(t.Context(), broken{f}, Env{Slots: slots}); !errors.Is(err, errDisk) {
		t.Errorf("a broken disk: %v", err)
	}
	if len(all.all) != 0 {
		t.Error("a slot was not given back")
	}
	if err := all.Of("bob").take(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := q.Run(ctx, f, Env{Slots: slots}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a slot: %v", err)
	}
	many := newFolder()
	for range 40 {
		many.add(t, f.bodies[0], mailbox.Flags{}, day0)
	}
	var told [][2]int
	if _, err := q.Run(t.Context(), many, Env{Progress: func(done, total int) { told = append(told, [2]int{done, total}) }}); err != nil || !slices.Equal(told, [][2]int{{16, 40}, {32, 40}}) {
		t.Errorf("progress %v, %v", told, err)
	}
}

var _ View = (*folder)(nil)
var _ HeaderView = quick{}
var _ TextIndex = (*indexed)(nil)
var _ syntax.Input = input{}
