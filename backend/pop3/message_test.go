package pop3

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
)

// endless is a body of size bytes, all lines beginning with a dot.
type endless struct{ size, at int64 }

const endlessLine = ".0123456789012345678901234567890123456789012345678901234567890123456789\r\n"

func (e *endless) Read(p []byte) (int, error) {
	if e.at == e.size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && e.at < e.size {
		line := endlessLine[e.at%int64(len(endlessLine)):]
		k := copy(p[n:], line[:min(int64(len(line)), e.size-e.at)])
		n += k
		e.at += int64(k)
	}
	return n, nil
}
func (e *endless) Close() error    { return nil }
func (e *endless) WireSize() int64 { return e.size }

func (e *endless) Seek(to int64, _ int) (int64, error) {
	e.at = to
	return to, nil
}

// TestLargeMessageBoundedMemory: 64 MiB pass with less than 1 MiB allocated,
// all in all.
func TestLargeMessageBoundedMemory(t *testing.T) {
	size := int64(len(endlessLine)) * 900_000
	d := serve(t, Options{}, &faulty{Box: open(t, drop(t, m1), 7), body: &endless{size: size}})
	d.Play("C: NOOP\nS: +OK\n")
	buf := make([]byte, 64<<10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d.Send("RETR 1\r\n")
	if got := d.Line(); got != fmt.Sprintf("+OK %d octets\r\n", size) {
		t.Fatal(got)
	}
	var n, want int64 = 0, size + 900_000 + 3
	for n < want {
		k, err := d.Reader.Read(buf)
		if n += int64(k); err != nil {
			t.Fatal(n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if alloc := after.TotalAlloc - before.TotalAlloc; alloc > 1<<20 {
		t.Errorf("%d bytes allocated", alloc)
	}
	if n != want {
		t.Errorf("%d bytes, want %d", n, want)
	}
	d.Play("C: QUIT\nS: +OK bye\nEOF")
}

// stuffed runs body through the answer to RETR (lines < 0) or TOP, in pieces.
func stuffed(t *testing.T, body string, lines, piece int) string {
	t.Helper()
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	s := &session{srv: New(Options{}), out: out, utf8: true}
	if err := s.copy(&pieces{text: body, size: piece}, lines); err != nil {
		t.Fatal(err)
	}
	out.Flush()
	return b.String()
}

type pieces struct {
	mailbox.Body
	text string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}

// referenceTop is RFC 1939, Section 7 by lines.
func referenceTop(body string, lines int) string {
	var b strings.Builder
	header := true
	for line := range strings.SplitAfterSeq(body, "\n") {
		if !header {
			if lines == 0 {
				break
			}
			lines--
		}
		b.WriteString(line)
		if header && strings.HasSuffix(line, "\n") && strings.Trim(line, "\r\n") == "" {
			header = false
		}
	}
	return b.String()
}

// referenceStuff is RFC 1939, Section 3 by lines.
func referenceStuff(body string) string {
	if body != "" && !strings.HasSuffix(body, "\n") {
		body += "\r\n"
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(body, "\n") {
		if strings.HasPrefix(line, ".") {
			b.WriteString(".")
		}
		b.WriteString(line)
	}
	return b.String() + ".\r\n"
}

func FuzzMessage(f *testing.F) {
	for _, body := range []string{"", ".", "..\r\n.\r\n", "a\r\n.b", "A: x\r\n\r\n.\r\n..\r\nend", "\r\n\r\n\r\n", "x\r\n\r", "x\r\n\r\ny\r"} {
		for _, lines := range []int{-1, 0, 1, 5} {
			f.Add(body, lines, 1)
			f.Add(body, lines, 1000)
		}
	}
	f.Fuzz(func(t *testing.T, body string, lines, piece int) {
		piece = max(1, piece)
		want := body
		if lines >= 0 {
			want = referenceTop(body, lines)
		}
		if got, want := stuffed(t, body, lines, piece), referenceStuff(want); got != want {
			t.Fatalf("%q, %d lines, in pieces of %d: %q, want %q", body, lines, piece, got, want)
		}
	})
}

func FuzzCommand(f *testing.F) {
	for _, line := range []string{"RETR 1", "top 1 2", "", " ", "QUIT\x00", "LIST 99999999999999999999", "é 1", "\t"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd, ok := parseCommand(line)
		if ok && (cmd.name == "" || strings.ContainsAny(cmd.name, "\r\n\x00 ")) {
			t.Fatalf("%q is %q", line, cmd)
		}
		for _, arg := range cmd.args {
			if n, ok := number(arg); ok && (n < 0 || n > maxNumber) {
				t.Fatal(n)
			}
		}
	})
}

// FuzzSession: whatever a client sends, in whatever state the session is, it ends with it,
// and nothing is removed unless a QUIT was among it.
func FuzzSession(f *testing.F) {
	states := []string{"", "DELE 1\r\nDELE 3\r\n", "UTF8\r\n", "LANG *\r\nRETR 1\r\nDELE 2\r\nRSET\r\n", "RETR 2\r\nTOP "}
	for state := range states {
		f.Add(uint8(state), "STAT\r\nDELE 1\r\nQUIT\r\n")
		f.Add(uint8(state), "DELE 1\r\nRETR 2\r\nTOP 1 1\r\nRSET\r\nUIDL\nCAPA")
		f.Add(uint8(state), "DELE 1\r\nquit 1\r\nQUI")
		f.Add(uint8(state), "UTF8\r\nXLST\r\nUIDL 2\r\nDELE 2\r\nDELE 2\r\nLIST 2\r\n")
	}
	f.Fuzz(func(t *testing.T, state uint8, in string) {
		in = states[int(state)%len(states)] + in
		box := open(t, drop(t, m1, m2, m3), 7)
		client, server := net.Pipe()
		go func() {
			client.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(client, in)
			client.Close()
		}()
		go io.Copy(io.Discard, client)
		New(Options{}).Serve(context.Background(), server, Session{Box: box})
		left := strings.ReplaceAll(inbox(t, box), "*", "")
		if !strings.Contains(strings.ToUpper(in), "QUIT") && left != "A: one B: two C: three" {
			t.Fatalf("%q left %q", in, left)
		}
	})
}

func TestUIDL(t *testing.T) {
	m := mailbox.Message{UID: 0x1a, GUID: "1700000000.M1P2.b1"}
	long := mailbox.Message{UID: 0x1a, GUID: strings.Repeat("g", 71)}
	const validity = 0x55a1b2c3
	const dovecot = "0000001a55a1b2c3"
	tests := []struct {
		format string
		m      mailbox.Message
		want   string
	}{
		{"%g", m, m.GUID},
		{"%g", long, dovecot},
		{"%g", mailbox.Message{UID: 0x1a}, dovecot},
		{"%g", mailbox.Message{UID: 0x1a, GUID: "with space"}, dovecot},
		{"%08Xu%08Xv", m, dovecot},
		{"%v.%u", m, "1436660419.26"},
		{"%Xv-%05u", m, "55a1b2c3-00026"},
		{"x%%%g!", m, "x%" + m.GUID + "!"},
		{"x%g", long, dovecot},
		{"x%g", mailbox.Message{UID: 0x1a}, dovecot},
	}
	for _, tt := range tests {
		u, err := ParseUIDL(tt.format)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := u.Of(tt.m, validity); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.format, got, tt.want)
		}
	}
	if got := (UIDL{}).Of(m, validity); got != m.GUID {
		t.Error("default:", got)
	}
	for _, format := range []string{
		"", "x", "%v", "%", "%0", "%08X", "%f", "%8u", "%021u", "%0u", "%Xg", "%02g", "%02%", "a b%u", "%u\x7f",
		"%99999999999999999999u", strings.Repeat("x", 70) + "%u", strings.Repeat("%u", 8),
	} {
		if _, err := ParseUIDL(format); !errors.Is(err, ErrUIDLFormat) {
			t.Errorf("%q: %v", format, err)
		}
	}
}

func FuzzUIDL(f *testing.F) {
	f.Add("%08Xu%08Xv", "guid", uint32(1), uint32(2))
	f.Add("a%%%g%020u", "g\x00", uint32(1), ^uint32(0))
	f.Fuzz(func(t *testing.T, format, guid string, uid, validity uint32) {
		u, err := ParseUIDL(format)
		if err != nil {
			return
		}
		if id := u.Of(mailbox.Message{UID: mailbox.UID(uid), GUID: guid}, validity); !fits(id) {
			t.Fatalf("%q gives %q", format, id)
		}
	})
}
