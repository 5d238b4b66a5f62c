package syntax

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// input is a client that has sent all it will.
type input struct{ *bytes.Reader }

func (i input) Continue() error { return nil }

func (i input) Line(max int) ([]byte, error) {
	var line []byte
	for {
		c, err := i.ReadByte()
		if err != nil {
			return nil, err
		}
		if c == '\n' {
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if line = append(line, c); len(line) > max {
			return nil, ErrTooBig
		}
	}
}

// take takes a token of the kind that op names.
func take(p *Parser, op byte) error {
	var err error
	switch op % 20 {
	case 0:
		_, err = p.Tag()
	case 1:
		_, err = p.Atom()
	case 2:
		_, err = p.Name()
	case 3:
		_, err = p.Number()
	case 4:
		_, err = p.AString()
	case 5:
		_, err = p.Mailbox()
	case 6:
		_, err = p.ListMailbox()
	case 7:
		_, _, err = p.NString()
	case 8:
		_, _, err = p.NBytes(100)
	case 9:
		_, err = p.Set()
	case 10:
		_, err = p.Flags()
	case 11:
		_, err = p.Date()
	case 12:
		_, err = p.DateTime()
	case 13:
		err = p.SP()
	case 14:
		err = p.List(true, func() error { return take(p, op+1) })
	case 15:
		err = p.One(func() error { _, err := p.String(); return err })
	case 16:
		var lit *Literal
		if lit, err = p.Stream(50, nil); err == nil {
			if _, err = io.Copy(io.Discard, lit); err == nil {
				err = lit.Close()
			}
		}
	case 17:
		_, err = p.Flag()
	case 18:
		p.Rest()
	case 19:
		err = p.End()
	}
	return err
}

// FuzzParser takes tokens in any order from any input: an error is a SyntaxError, one of the
// package's, or the connection's; the Parser can go on behind a Drain that succeeds, and
// comes to the input's end.
func FuzzParser(f *testing.F) {
	f.Add([]byte{0, 13, 2, 13, 9}, []byte("a FETCH 1:*,5 (FLAGS)\r\nb NOOP\r\n"))
	f.Add([]byte{0, 13, 2, 13, 4, 13, 16}, []byte("a APPEND {3+}\r\nabc {5}\r\nhello\r\n"))
	f.Add([]byte{14, 15, 10}, []byte("((((a) \"x\\\"y\") {1+}\r\nz\r\n(\\Seen kw)\r\n"))
	f.Add([]byte{8, 13, 7, 13, 12}, []byte("~{3+}\r\na\x00b NIL \"01-Feb-1994 12:00:00 +0100\"\r\n"))
	f.Add([]byte{16}, []byte("{60+}\r\n0123456789\r\n"))
	f.Fuzz(func(t *testing.T, ops, data []byte) {
		p := New(input{bytes.NewReader(data)}, Limits{Command: 500, Literal: 100, Drain: 300, Depth: 8})
		for range len(data) + 1 {
			err := p.Next()
			for i := 0; err == nil && i < len(ops); i++ {
				err = take(p, ops[i])
			}
			var se *SyntaxError
			switch {
			case err == nil, errors.As(err, &se), errors.Is(err, ErrLiteral):
				if err = p.Drain(); err == nil {
					continue
				}
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrTooBig) {
				t.Fatalf("unexpected: %v", err)
			}
			return
		}
		t.Fatal("the input does not end")
	})
}

// FuzzString: what String writes is read as what it was, and is quoted where it can be (RFC 9051,
// Section 4.3; RFC 6855, Section 3).
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", `say "it" \ now`, "two\r\nlines", "z\x00", "größe", "\xff", strings.Repeat("x", maxQuoted), strings.Repeat("x", maxQuoted+1)} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, utf8Enabled bool) {
		var out bytes.Buffer
		e := NewEncoder(&out, Buffers())
		e.UTF8 = utf8Enabled
		if err := e.String(s).CRLF().Flush(); err != nil {
			t.Fatal(err)
		}
		ascii := !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
		can := len(s) <= maxQuoted && !strings.ContainsAny(s, "\x00\r\n") && (ascii || utf8Enabled && utf8.ValidString(s))
		if quoted := out.Bytes()[0] == '"'; quoted != can {
			t.Fatalf("%q: quoted %v", s, quoted)
		}
		if strings.Contains(s, "\x00") {
			return // a client may not send it
		}
		p := New(input{bytes.NewReader(out.Bytes())}, Limits{Command: 1 << 20, Literal: 1 << 20})
		p.UTF8 = utf8Enabled
		if err := p.Next(); err != nil {
			t.Fatal(err)
		}
		if got, err := p.String(); err != nil || got != s {
			t.Fatalf("%q was read as %q: %v", s, got, err)
		}
	})
}
