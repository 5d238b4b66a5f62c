package poplist

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	e := Entry{
		Number: 7, Size: 1234, UIDL: "a%b", Flags: []string{`\Seen`, "$Label1"},
		Date: time.Date(2026, 11, 22, 10, 0, 0, 0, time.FixedZone("", 3600)),
		From: "Ann\tB <ann@example.test>", Subject: "100% Grüße\r\n.\r\n", Attachment: true,
	}
	line := string(Append(nil, &e))
	want := "7\t1234\ta%25b\t\\Seen $Label1\t2026-11-22T09:00:00Z\tAnn%09B <ann@example.test>\t100%25 Grüße%0D%0A.%0D%0A\t1\r\n"
	if line != want {
		t.Errorf("got  %q\nwant %q", line, want)
	}
	got, err := Parse(strings.TrimSuffix(line, "\r\n"))
	e.Date, e.From, e.Subject = e.Date.UTC(), "Ann B <ann@example.test>", "100% Grüße ."
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = Parse(strings.TrimSuffix(line, "\r\n") + "\tmore\tfields"); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("with more fields: %+v, %v", got, err)
	}
	empty := Entry{Number: 1}
	if line = string(Append(nil, &empty)); line != "1\t0\t\t\t\t\t\t0\r\n" {
		t.Errorf("%q", line)
	}
	for _, bad := range []string{
		"", "1", "1\t0\t\t\t\t\t\t", "0\t0\t\t\t\t\t\t0", "-1\t0\t\t\t\t\t\t0", "1\t-1\t\t\t\t\t\t0", "1\tx\t\t\t\t\t\t0", "1\t0\t%\t\t\t\t\t0",
		"1\t0\t%zz\t\t\t\t\t0", "1\t0\t%1B\t\t\t\t\t0", "1\t0\t\t%1B\t\t\t\t0", "1\t0\t" + strings.Repeat("x", 256) + "\t\t\t\t\t0", "1\t0\t\t%1\t\t\t\t0", "1\t0\t\t\tyesterday\t\t\t0", "1\t0\t\t\t\t%\t\t0", "1\t0\t\t\t\t\t%G0\t0", "1\t0\t\t\t\t\t\t2",
		"99999999999\t0\t\t\t\t\t\t0", "1\t0\t\t\t\t\t" + strings.Repeat("x", MaxLine) + "\t0",
	} {
		if _, err := Parse(bad); !errors.Is(err, ErrLine) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

// TestLinesAreBounded: nothing that a message says makes a line too long.
func TestLinesAreBounded(t *testing.T) {
	flags := make([]string, 0, 300)
	for range 300 {
		flags = append(flags, strings.Repeat("%", 20))
	}
	e := Entry{Number: 1 << 30, Size: 1 << 62, UIDL: strings.Repeat("%", maxUIDL), Flags: flags,
		From: strings.Repeat("\x01", 5000), Subject: strings.Repeat("\x01", 5000), Date: time.Unix(0, 0)}
	line := Append(nil, &e)
	if len(line) > MaxLine {
		t.Errorf("%d bytes", len(line))
	}
	if _, err := Parse(strings.TrimSuffix(string(line), "\r\n")); err != nil {
		t.Error(err)
	}
}

func TestTexts(t *testing.T) {
	for _, row := range []struct{ raw, want string }{
		{"plain", "plain"}, {"", ""}, {"a  b\tc ", "a b c"}, {"=?utf-8?q?Gr=C3=BC=C3=9Fe?= an =?iso-8859-1?Q?M=FCller?=", "Grüße an Müller"},
		{"=?x-nobody-knows?q?abc?=", "abc"}, {"Gr\xfc\xdfe", "Grüße"}, {"Grüße", "Grüße"}, {"a\x00b\x1b[2J", "a b [2J"},
		{"=?utf-8?q?a=0D=0Ab?=", "a b"}, {"=?utf-8?b?!!?=", "=?utf-8?b?!!?="}, {strings.Repeat("ü", 400), strings.Repeat("ü", 300)},
	} {
		if got := Text(row.raw); got != row.want {
			t.Errorf("%q: %q, want %q", row.raw, got, row.want)
		}
	}
	for _, row := range []struct{ raw, want string }{
		{"", ""}, {"ann@example.test", "ann@example.test"}, {"Ann <ann@example.test>", "Ann <ann@example.test>"},
		{`"B, Ann" <ann@example.test>, bob@example.test`, "B, Ann <ann@example.test>"},
		{"=?utf-8?q?J=C3=BCrgen?= <j@example.test>", "Jürgen <j@example.test>"}, {"broken <", "broken <"}, {"Gr\xfcn <g@example.test>", "Grün <g@example.test>"},
		{strings.Repeat("x", 700) + " <ann@example.test>", strings.Repeat("x", 600-16-3) + " <ann@example.test>"},
	} {
		if got := From(row.raw); got != row.want {
			t.Errorf("%q: %q, want %q", row.raw, got, row.want)
		}
	}
	for _, row := range []struct{ raw, want string }{
		{"Sun, 22 Nov 2026 10:00:00 +0100", "2026-11-22T09:00:00Z"}, {"22 Nov 2026 10:00:00 EST (really)", "2026-11-22T15:00:00Z"},
		{"Sun, 22 Nov 2026 10:00:00", "2026-11-22T10:00:00Z"}, {"soon", ""}, {"", ""}, {"Sun, 22 Nov 2026  10:00:00 GMT", "2026-11-22T10:00:00Z"},
	} {
		got := ""
		if d := Date(row.raw); !d.IsZero() {
			got = d.Format(time.RFC3339)
		}
		if got != row.want {
			t.Errorf("%q: %q, want %q", row.raw, got, row.want)
		}
	}
}

func TestScan(t *testing.T) {
	s := Scan{Also: []string{"content-type"}}
	for _, line := range []string{"Subject: one", " two", "\tthree", "Received: x", " y", "SUBJECT: again", "no field", "From : ann@example.test",
		"Date: " + strings.Repeat("x", maxField), "content-type: text/plain", ""} {
		if more := s.Line(line); more != (line != "") {
			t.Errorf("%q: %v", line, more)
		}
	}
	if want := (Header{From: "ann@example.test", Subject: "one two\tthree"}); s.Header != want || s.More["content-type"] != "text/plain" {
		t.Errorf("%+v %v", s.Header, s.More)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("7\t1234\ta%25b\t\\Seen $Label1\t2026-11-22T09:00:00Z\tAnn%09B <ann@example.test>\t100%25 Grüße\t1")
	f.Add("1\t0\t\t\t\t\t\t0\tx")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		// What was read can be written and read again, unless it was too long.
		out := string(Append(nil, &e))
		if len(out) > MaxLine || strings.ContainsAny(strings.TrimSuffix(out, "\r\n"), "\r\n") {
			t.Fatalf("%q", out)
		}
		again, err := Parse(strings.TrimSuffix(out, "\r\n"))
		if err != nil || again.Number != e.Number || !again.Date.Equal(e.Date) || again.From != e.From || again.Subject != e.Subject {
			t.Fatalf("%+v, then %+v, %v", e, again, err)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("=?utf-8?q?a=0D=0Ab?= \xfc", "Ann <a@b>", "Sun, 22 Nov 2026 10:00:00 +0100")
	f.Fuzz(func(t *testing.T, subject, from, date string) {
		e := Entry{Number: 1}
		Header{Date: date, From: from, Subject: subject}.Fill(&e)
		for _, text := range []string{e.Subject, e.From} {
			if len(text) > maxText || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\t\x00") {
				t.Fatalf("%q", text)
			}
		}
		got, err := Parse(strings.TrimSuffix(string(Append(nil, &e)), "\r\n"))
		if err != nil || got.Subject != e.Subject || got.From != e.From || !got.Date.Equal(e.Date) {
			t.Fatalf("%+v, then %+v, %v", e, got, err)
		}
	})
}
