package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"waypost/mx/spool/entries"
)

// take hands a message over and gives what is kept of it.
func (r *rig) take(e Envelope, msg string, most int64) (string, Envelope, error) {
	r.t.Helper()
	d, err := r.q.Take(strings.NewReader(msg), &e, "Received: by mx.test\r\n", most)
	if err != nil {
		return "", e, err
	}
	defer d.Discard()
	e.Remember = true
	if err := r.q.Add(d, e); err != nil {
		r.t.Fatal(err)
	}
	m, err := r.q.store.Message(entries.Queue, e.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b), e, nil
}

func TestTake(t *testing.T) {
	r := newRig(t, script{}, nil)
	trace := "Received: by mx.test\r\n"
	for i, tc := range []struct {
		kind      Kind
		in, want  string
		err       error
		eightBits bool
	}{
		{Redirect, "Subject: t\n\nhello\n", trace + "X-Waypost-Loop: u1@x.test\r\nSubject: t\r\n\r\nhello\r\n", nil, false},
		{Redirect, "Subject: t\r\n\r\nä\rb\r", trace + "X-Waypost-Loop: u1@x.test\r\nSubject: t\r\n\r\nä\r\nb\r\n", nil, true},
		{Redirect, "x-waypost-loop:  U1@x.test \n\n", "", ErrLoop, false},
		{Redirect, "X-Waypost-Loop: u2@x.test\n\nX-Waypost-Loop: u1@x.test\n", trace + "X-Waypost-Loop: u1@x.test\r\nX-Waypost-Loop: u2@x.test\r\n\r\nX-Waypost-Loop: u1@x.test\r\n", nil, false},
		{Redirect, strings.Repeat("Received: x\n y\n", 51) + "\nb", "", ErrLoop, false},
		{Vacation, "Subject: t\n\nb\n", trace + "Auto-Submitted: auto-replied\r\nSubject: t\r\n\r\nb\r\n", nil, false},
		{Vacation, "Auto-Submitted: auto-generated\n\nb\n", trace + "Auto-Submitted: auto-generated\r\n\r\nb\r\n", nil, false},
		{Notify, "", "", ErrHeader, false},
		{Notify, "A: " + strings.Repeat("x", maxHeader) + "\n\n", "", ErrHeader, false},
		{Notify, "A: b\n\n" + strings.Repeat("x", 2000), "", ErrTooLarge, false},
	} {
		e := envelope(string(rune('a'+i)), "a@out.test")
		e.Kind = tc.kind
		have, e, err := r.take(e, tc.in, 2000)
		if !errors.Is(err, tc.err) || have != tc.want || e.EightBit != tc.eightBits {
			t.Errorf("%d: %q, %v, 8-bit %v", i, have, err, e.EightBit)
		}
	}
	d, err := r.q.Take(io.MultiReader(strings.NewReader("A: b\n\nbody"), failing{}), &Envelope{Kind: Notify}, "", 2000)
	if d != nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message cut off: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// FuzzTake: whatever comes, the lines that leave end in CRLF and in nothing
// else, and nothing but line ends is changed.
func FuzzTake(f *testing.F) {
	f.Add([]byte("Subject: x\n\nb\r\n.\r\n"), 3)
	f.Add([]byte("\r\r\n\n\r"), 1)
	f.Add([]byte("Received: a\r\n b\r\nreceived : c\r\n\r\nreceived: d"), 5)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		var out bytes.Buffer
		w := &lineEnds{w: &out, left: 1 << 30}
		for b := in; len(b) > 0; {
			n := min(max(step, 1), len(b))
			if _, err := w.Write(b[:n]); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		rest := bytes.ReplaceAll(out.Bytes(), []byte("\r\n"), nil)
		if bytes.ContainsAny(rest, "\r\n") {
			t.Fatalf("%q became %q", in, out.Bytes())
		}
		norm := func(b []byte) []byte {
			b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
			return bytes.ReplaceAll(b, []byte("\r"), []byte("\n"))
		}
		if !bytes.Equal(norm(in), norm(out.Bytes())) {
			t.Fatalf("%q became %q", in, out.Bytes())
		}
		header, err := readHeader(bufio.NewReaderSize(bytes.NewReader(in), 16))
		if err == nil && !bytes.HasPrefix(in, header) {
			t.Fatalf("header %q of %q", header, in)
		}
		scanHeader(header)
		decodeEnvelope("id", in)
		parseDone(in)
	})
}
