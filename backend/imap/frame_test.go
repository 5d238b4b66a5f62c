package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// FuzzConn feeds a client's bytes and checks that what the reader is given is
// those bytes, in order, as long as it gets any; no byte is lost or invented
// but the line end behind a refused literal.
func FuzzConn(f *testing.F) {
	f.Add([]byte("a NOOP\r\nb CREATE {3+}\r\nxyz\r\nc SEARCH TEXT \"a\\\"b\" {2}\r\nok\r\n"))
	f.Add([]byte("a X {99999999999999999999+}\r\n"))
	f.Add([]byte("{+}\r\n{5+} \r\n12345\r\n\"{3+}\"\r\n\x00"))
	f.Fuzz(func(t *testing.T, input []byte) {
		client, server := net.Pipe()
		defer server.Close()
		var sender sync.WaitGroup
		sender.Go(func() {
			client.Write(input) // fails when the reader has had enough
			client.Close()
		})
		defer sender.Wait()
		pool := &sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}
		c := newConn(server, Limits{}.withDefaults(), pool)
		c.bye = func(ending) { c.Close(); server.Close() }
		var got bytes.Buffer
		p := make([]byte, 64)
		for {
			if !c.in.unfinished() {
				c.SetReadDeadline(time.Now().Add(time.Hour))
			} else if c.in.pending {
				c.continued.Store(true)
			}
			n, err := c.Read(p)
			got.Write(p[:n])
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
					t.Fatalf("%v", err)
				}
				break
			}
			if n == 0 {
				t.Fatal("nothing read")
			}
		}
		if !bytes.HasPrefix(input, got.Bytes()) {
			t.Fatalf("got %q of %q", got.Bytes(), input)
		}
		if c.ending() == endNone && got.Len() != len(input) {
			t.Fatalf("%d bytes of %d", got.Len(), len(input))
		}
	})
}

func TestVerb(t *testing.T) {
	for in, want := range map[string]string{
		"a noop\r\n": "NOOP", "a\r\n": "", "": "", "a  x": "X", "tag UID SEARCH ALL\r\n": "UID",
		"a LSUB \"\" " + strings.Repeat("x", 100): "LSUB",
	} {
		var f frame
		f.line([]byte(in))
		if got := f.verb(); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
