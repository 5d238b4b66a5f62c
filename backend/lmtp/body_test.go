package lmtp

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
	"testing/iotest"
	"time"

	"waypost/backend/mailbox"
)

// referenceDots is the plain, byte by byte reading of RFC 5321, Section 4.5.2:
// the body, and how many bytes of in it took; -1 where the end never comes.
func referenceDots(in []byte) (body []byte, taken int) {
	bol := true
	for i := 0; i < len(in); i++ {
		if bol && in[i] == '.' {
			if bytes.HasPrefix(in[i:], []byte(".\r\n")) {
				return body, i + 3
			}
			bol = false
			continue
		}
		body = append(body, in[i])
		bol = in[i] == '\n' && i > 0 && in[i-1] == '\r'
	}
	return nil, -1
}

// short is b with LF for CRLF.
func short(b []byte) []byte { return bytes.ReplaceAll(b, crlf, []byte("\n")) }

// referenceStrict says whether CR and LF come only as pairs.
func referenceStrict(b []byte) bool {
	rest := bytes.ReplaceAll(b, crlf, nil)
	return !bytes.ContainsAny(rest, "\r\n")
}

// shapes are the ways in which the same bytes can arrive.
func shapes(in []byte) map[string]*bufio.Reader {
	return map[string]*bufio.Reader{
		"whole":    bufio.NewReaderSize(bytes.NewReader(in), 4096),
		"small":    bufio.NewReaderSize(bytes.NewReader(in), 16),
		"one byte": bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(in)), 16),
		"halves":   bufio.NewReaderSize(iotest.HalfReader(bytes.NewReader(in)), 32),
		"with err": bufio.NewReaderSize(iotest.DataErrReader(bytes.NewReader(in)), 64),
	}
}

func checkDots(t *testing.T, in []byte) {
	t.Helper()
	want, taken := referenceDots(in)
	for name, br := range shapes(in) {
		got, err := io.ReadAll(newDotReader(br))
		if taken < 0 {
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: %q: error %v, want unexpected EOF", name, in, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %q: got %q, %v, want %q", name, in, got, err, want)
		}
		if rest, _ := io.ReadAll(br); !bytes.Equal(rest, in[taken:]) {
			t.Fatalf("%s: %q: left %q, want %q", name, in, rest, in[taken:])
		}
	}
}

func checkStrict(t *testing.T, in []byte) {
	t.Helper()
	for name, br := range shapes(in) {
		got, err := io.ReadAll(&strictReader{body: &chunkReader{s: &session{br: br}, left: int64(len(in)), last: true}})
		if ok := referenceStrict(in); ok != (err == nil) || ok && !bytes.Equal(short(got), short(in)) {
			t.Fatalf("%s: %q: got %q, %v, want ok %v", name, in, got, err, ok)
		}
	}
}

// checkBody: both readers together give the body with LF for CRLF, or an error if it
// may not be kept; in either case what is left to read stands behind its end.
func checkBody(t *testing.T, in []byte) {
	t.Helper()
	want, taken := referenceDots(in)
	for name := range shapes(nil) {
		for _, size := range []int{1, 2, 7, 4096} {
			br := shapes(in)[name]
			dots := newDotReader(br)
			var got bytes.Buffer
			_, err := io.CopyBuffer(onlyWriter{&got}, onlyReader{&strictReader{body: dots}}, make([]byte, size))
			if taken < 0 {
				if err == nil {
					t.Fatalf("%s, %d: %q: no error", name, size, in)
				}
				continue
			}
			if ok := referenceStrict(want); ok != (err == nil) {
				t.Fatalf("%s, %d: %q: error %v, want ok %v", name, size, in, err, ok)
			}
			if err == nil && !bytes.Equal(short(got.Bytes()), short(want)) {
				t.Fatalf("%s, %d: %q: got %q, want %q", name, size, in, got.Bytes(), short(want))
			}
			if _, err := io.Copy(io.Discard, dots); err != nil {
				t.Fatalf("%s, %d: %q: %v", name, size, in, err)
			}
			if rest, _ := io.ReadAll(br); !bytes.Equal(rest, in[taken:]) {
				t.Fatalf("%s, %d: %q: left %q, want %q", name, size, in, rest, in[taken:])
			}
		}
	}
}

var dotCases = []string{
	".\r\n", ".\r\nQUIT\r\n", "\r\n.\r\n", "a\r\n.\r\nrest", "..\r\n.\r\n", "...\r\n.\r\n", ".a\r\n.\r\n",
	"a\r\n..\r\n.\r\n", "a\n.\r\n.\r\n", "a\n.\n.\r\n\r\n.\r\n", "a\r.\r\n.\r\n", "a\r.\r\r\n.\r\n", ".\n.\r\n\r\n.\r\n",
	".\r.\r\n\r\n.\r\n", "a\r\r\n.\r\n", "\r\n\r\n.\r\n", "\n.\r\n\r\n.\r\n", "a.\r\n.\r\n", "a\r\n.b\r\n.\r\nx", "..\r\n..\r\n.\r\n",
	"", ".", ".\r", "a", "a\r\n", "a\r\n.", "a\r\n.\r", "\r", "\n", ".\n", "0123456789abcdef\r\n.\r\n", "0123456789abcd\r\n.\r\n",
	"0123456789abcde\r\n.\r\n", "0123456789abc\r\n.x\r\n.\r\n",
}

func TestDotReader(t *testing.T) {
	for _, in := range dotCases {
		checkDots(t, []byte(in))
		checkStrict(t, []byte(in))
		checkBody(t, []byte(in))
	}
	// Every string of five of the bytes that matter.
	const alphabet = ".\r\na"
	for n := range 1024 {
		in := make([]byte, 5)
		for i := range in {
			in[i] = alphabet[n>>(2*i)&3]
		}
		checkDots(t, append(in, "\r\n.\r\n"...))
		checkStrict(t, in)
		checkBody(t, append(in, "\r\n.\r\nQ"...))
	}
	for _, in := range dotCases[:3] {
		if n, err := newDotReader(bufio.NewReader(strings.NewReader(in))).Read(nil); n != 0 || err != nil {
			t.Error(n, err)
		}
	}
	broken := errors.New("broken")
	d := newDotReader(bufio.NewReader(iotest.ErrReader(broken)))
	for range 2 {
		if _, err := d.Read(make([]byte, 1)); err != broken {
			t.Error(err)
		}
	}
}

func FuzzDotReader(f *testing.F) {
	for _, in := range dotCases {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		checkDots(t, in)
		checkStrict(t, in)
		checkBody(t, in)
	})
}

// FuzzPathReader: what is removed is only lines of Return-Path fields, and a
// message without them is unchanged.
func FuzzPathReader(f *testing.F) {
	f.Add([]byte("Return-Path: <x>\r\n y\r\nReceived: a\r\n\r\nReturn-Path: z\r\n"), 7)
	f.Add([]byte(" folded\r\nreturn-path:"), 1)
	f.Add([]byte("\r\nReturn-Path: z"), 100)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = max(1, min(size, 1024))
		read := func(r io.Reader) string {
			var b bytes.Buffer
			_, err := io.CopyBuffer(onlyWriter{&b}, onlyReader{newPathReader(r)}, make([]byte, size))
			if err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
		got := read(bytes.NewReader(in))
		if slow := read(iotest.OneByteReader(bytes.NewReader(in))); slow != got {
			t.Fatalf("%q: %q in bytes, %q at once", in, slow, got)
		}
		if !bytes.Contains(bytes.ToLower(in), []byte(returnPath)) && got != string(in) {
			t.Fatalf("%q became %q", in, got)
		}
		if !strings.HasSuffix(string(in), got) && !subsequence(string(in), got) {
			t.Fatalf("%q is not what is left of %q", got, in)
		}
		if again := newPathReader(strings.NewReader(got)); len(got) > 0 {
			b, _ := io.ReadAll(again)
			if first, _, ok := strings.Cut(string(b), ":"); ok && strings.EqualFold(first, "return-path") {
				t.Fatalf("%q still begins with a Return-Path", b)
			}
		}
	})
}

type onlyReader struct{ io.Reader }

// subsequence: the lines of part are lines of all, in order.
func subsequence(all, part string) bool {
	lines := strings.SplitAfter(all, "\n")
	for want := range strings.SplitAfterSeq(part, "\n") {
		for len(lines) > 0 && lines[0] != want {
			lines = lines[1:]
		}
		if want != "" && len(lines) == 0 {
			return false
		}
	}
	return true
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"MAIL FROM:<a@b> SIZE=1 BODY=8BITMIME", `RCPT TO:<"a\"b"@c> XHOME=b1 XEPOCH=7`, "RCPT TO:<@a,@b:c@d>",
		"BDAT 10 LAST", "BDAT", "MAIL FROM:<>", "MAIL FROM:<\\", `RCPT TO:<"\`, "RCPT TO:<@:>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd := parseCommand(line)
		if cmd.verb != strings.ToUpper(cmd.verb) {
			t.Fatal(cmd)
		}
		parseBDAT(cmd.args)
		for _, prefix := range []string{"FROM:", "TO:"} {
			rest, ok := cutPrefixFold(cmd.args, prefix)
			if !ok {
				continue
			}
			path, rest, ok := parsePath(rest)
			if !ok {
				continue
			}
			if len(path) > maxPath || strings.ContainsAny(path, "\r\n\x00") {
				t.Fatalf("path %q", path)
			}
			unquote(path)
			if p, _, ok := parseMailParams(rest); ok && p.size < 0 {
				t.Fatal(p)
			}
			if p, _, ok := parseRcptParams(rest); ok && p.looked != (p.home != "" && p.epoch > 0) {
				t.Fatal(p)
			}
		}
	})
}

// FuzzSession throws whole dialogues at a server: it must end, close every
// box, and deliver no bare CR or LF.
func FuzzSession(f *testing.F) {
	const rcpt = "MAIL FROM:<> XDELIVERY=1\r\nRCPT TO:<a@x.test> XHOME=b1 XEPOCH=7\r\n"
	f.Add([]byte("LHLO x\r\n" + rcpt + "DATA\r\nx\r\n.\r\nQUIT\r\n"))
	f.Add([]byte("LHLO x\r\n" + rcpt + "BDAT 1\r\nxBDAT 2 LAST\r\n\r\nRSET\r\n"))
	f.Add([]byte("LHLO x\r\n" + rcpt + "DATA\r\nx\n.\n\r\n.\r\nDATA\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		store := &fakeStore{}
		client, server := net.Pipe()
		go func() {
			client.SetDeadline(time.Now().Add(10 * time.Second))
			client.Write(in)
			client.Close()
		}()
		go io.Copy(io.Discard, client)
		New(options(store)).Serve(context.Background(), server, "mx1")
		if store.open != 0 || store.discarded < store.staged {
			t.Fatalf("open %d, staged %d, discarded %d", store.open, store.staged, store.discarded)
		}
		for _, m := range store.delivered {
			if strings.Contains(m, "\r") {
				t.Fatalf("%q", m)
			}
		}
	})
}

// TestLargeMessageBoundedMemory: 64 MiB pass with less than 1 MiB allocated,
// all in all.
func TestLargeMessageBoundedMemory(t *testing.T) {
	block := []byte(strings.Repeat(".."+strings.Repeat("x", 74)+"\r\n", 1024))
	const blocks = 840
	for _, mode := range []string{"DATA", "BDAT", "one line"} {
		t.Run(mode, func(t *testing.T) {
			store := &fakeStore{count: true}
			opt := options(store)
			opt.MaxMessage = 0
			d := serve(t, opt)
			d.Send("LHLO x\r\nMAIL FROM:<> XDELIVERY=1\r\nRCPT TO:<a@x.test> XHOME=b1 XEPOCH=7\r\n")
			for !strings.Contains(d.Line(), "2.1.5") {
			}
			chunk, want := block, int64(blocks*(len(block)-1024))
			if mode == "one line" {
				chunk, want = bytes.Repeat([]byte{'x'}, len(block)), int64(blocks*len(block)+2)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if mode == "BDAT" {
				want = blocks * int64(len(block))
			} else {
				d.Send("DATA\r\n")
				d.Line()
			}
			for i := range blocks {
				if mode == "BDAT" {
					last := ""
					if i == blocks-1 {
						last = " LAST"
					}
					d.Send(fmt.Sprintf("BDAT %d%s\r\n", len(chunk), last))
				}
				if _, err := d.Conn.Write(chunk); err != nil {
					t.Fatal(err)
				}
				if mode == "BDAT" && i < blocks-1 {
					d.Line()
				}
			}
			switch mode {
			case "DATA":
				d.Send(".\r\n")
			case "one line":
				d.Send("\r\n.\r\n")
			}
			if got := d.Line(); got != "250 2.0.0 delivered\r\n" {
				t.Fatal(got)
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes allocated", n)
			}
			if store.counted != want {
				t.Errorf("%d bytes stored, want %d", store.counted, want)
			}
		})
	}
}

func BenchmarkBody(b *testing.B) {
	for _, c := range []struct{ name, line string }{
		{"76", strings.Repeat("x", 76)}, {"dots", "..xxxxxxxxxxxxxxxxxxxx"}, {"empty", ""},
	} {
		body := []byte(strings.Repeat(c.line+"\r\n", 4<<20/(len(c.line)+2)) + ".\r\n")
		buf := make([]byte, 32<<10)
		b.Run("dots/"+c.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				in := newDotReader(bufio.NewReaderSize(bytes.NewReader(body), readBuffer))
				io.CopyBuffer(onlyWriter{io.Discard}, in, buf)
			}
		})
		b.Run("all/"+c.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				in := newDotReader(bufio.NewReaderSize(bytes.NewReader(body), readBuffer))
				io.CopyBuffer(onlyWriter{io.Discard}, newPathReader(&strictReader{body: in}), buf)
			}
		})
	}
}

var _ mailbox.Store = (*fakeStore)(nil)
