package mime

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var noLimits = FieldLimits{Field: 1 << 20, All: 1 << 20, Count: 1 << 20}

func TestRawFields(t *testing.T) {
	h := "From: a\r\nX-Long: 1\r\n 2 \r\nSUBJECT :  s\t\r\njunk\r\n more\r\nTo:\r\n\u212aeywords: x\r\nCc: end"
	keep := func(name []byte) bool { return string(name) != "from" }
	got, err := RawFields(strings.NewReader(h), keep, noLimits)
	if err != nil {
		t.Fatal(err)
	}
	want := []Field{
		{Name: "x-long", Value: "1 2", Raw: "X-Long: 1\r\n 2 \r\n"},
		{Name: "subject", Value: "s", Raw: "SUBJECT :  s\t\r\n"},
		{Name: "to", Raw: "To:\r\n"},
		{Name: "cc", Value: "end", Raw: "Cc: end"},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}

func TestRawFieldsLimits(t *testing.T) {
	h := "A: 1\r\nB: 22222222222\r\nA: 3\r\nA: 4\r\nB: 5\r\nC: 6\r\nC: 7\r\n\r\nD: body\r\n"
	all := func([]byte) bool { return true }
	for _, c := range []struct {
		max  FieldLimits
		want string
	}{
		{noLimits, "a b a a b c c"},
		{FieldLimits{10, 100, 100}, "a !b a a b c c"},
		{FieldLimits{100, 30, 100}, "a b a !a !b !c"},
		{FieldLimits{100, 100, 2}, "a b !a !b !c"},
	} {
		fields, err := RawFields(strings.NewReader(h), all, c.max)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range fields {
			if f.Cut {
				f.Name = "!" + f.Name
			}
			got = append(got, f.Name)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%+v: %s, want %s", c.max, g, c.want)
		}
	}
}

// FuzzRawFields: raw fields are what CopyFields copies, and their texts are what
// Fields gives.
func FuzzRawFields(f *testing.F) {
	f.Add([]byte(nested))
	f.Add([]byte("A:\n b\r\n\tc\r\n d: \r\nA : =?utf-8?q?x?=\xe9\x00\r\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > maxField {
			return
		}
		all := func([]byte) bool { return true }
		raw, err := RawFields(bytes.NewReader(msg), all, noLimits)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "subject", "to"} {
			var want bytes.Buffer
			if err := CopyFields(&want, bytes.NewReader(msg), []string{name}, false); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, field := range raw {
				if field.Name == name {
					got += field.Raw
				}
			}
			if got+"\r\n" != want.String() {
				t.Fatalf("%s: %q, want %q", name, got, want.String())
			}
		}
		decoded, err := Fields(bytes.NewReader(msg))
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, d := range decoded {
			if i < len(raw) && raw[i].Name == d.Name {
				if raw[i].Text() != d.Value {
					t.Fatalf("%s: %q, want %q", d.Name, raw[i].Text(), d.Value)
				}
				i++
			}
		}
		if i != len(raw) {
			t.Fatalf("%d of %d fields are among the decoded", i, len(raw))
		}
	})
}

// TestLinear: the time for a message grows with its size, whatever is in it. The
// square of these sizes would take minutes.
func TestLinear(t *testing.T) {
	const size = 2 << 20
	field := func(name, piece string) string {
		var b strings.Builder
		for b.Len() < size {
			b.WriteString("Content-Type: message/rfc822\r\n" + name + ": " + strings.Repeat(piece, maxField/len(piece)) + "\r\n\r\n")
		}
		return b.String()
	}
	multi := "Content-Type: multipart/mixed; boundary=\"" + strings.Repeat("-", 60) + "\"\r\n\r\n"
	for name, msg := range map[string]string{
		"delimiter-like": multi + strings.Repeat("--\r\n", size/4),
		"dashes":         multi + strings.Repeat("-", size),
		"dash lines":     multi + strings.Repeat(strings.Repeat("-", 61)+"\r\n", size/63),
		"delimiters":     multi + strings.Repeat(strings.Repeat("-", 62)+"\r\n", size/64),
		"folded":         "Subject: x\r\n" + strings.Repeat(" \r\n", size/3),
		"fields":         strings.Repeat("a:\r\n", size/4),
		"one name":       strings.Repeat("subject:\r\n", size/10),
		"long name":      strings.Repeat("a", size),
		"colons":         field("From", "@:"),
		"quoted colons":  field("From", "\"x@\":"),
		"quotes":         field("To", "\""),
		"open angles":    field("Cc", "<"),
		"open comments":  field("Bcc", "("),
		"escapes":        field("Sender", "\\\""),
		"commas":         field("Reply-To", ","),
		"groups":         field("To", "a:;"),
		"words":          field("Subject", "=?a?q?x"),
		"ids":            field("In-Reply-To", "<"),
		"params":         field("Content-Disposition", ";a=\""),
		"comments":       field("Content-Language", "((),"),
	} {
		begin := time.Now()
		if _, err := Scan(strings.NewReader(msg)); err != nil {
			t.Fatal(err)
		}
		fields, err := RawFields(strings.NewReader(msg), func([]byte) bool { return true }, noLimits)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fields[:min(len(fields), 1000)] {
			_ = f.Text()
		}
		d := time.Since(begin)
		t.Logf("%s: %v", name, d)
		if d > 20*time.Second {
			t.Errorf("%s: %v", name, d)
		}
	}
}
