package linktest

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Pair is a connected pair of loopback sockets, closed with the test.
func Pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// Dialogue is a client that plays transcripts.
type Dialogue struct {
	testing.TB
	net.Conn
	Reader *bufio.Reader
	// Dots lets "..." stand for anything in what must come.
	Dots bool
}

// NewDialogue speaks for the client, for 30 seconds at most.
func NewDialogue(t testing.TB, client net.Conn) *Dialogue {
	client.SetDeadline(time.Now().Add(30 * time.Second))
	return &Dialogue{TB: t, Conn: client, Reader: bufio.NewReader(client)}
}

// Send sends text as it is.
func (d *Dialogue) Send(text string) {
	d.Helper()
	if _, err := io.WriteString(d.Conn, text); err != nil {
		d.Fatal(err)
	}
}

// Line reads a line, with its end.
func (d *Dialogue) Line() string {
	d.Helper()
	s, err := d.Reader.ReadString('\n')
	if err != nil {
		d.Fatalf("after %q: %v", s, err)
	}
	return s
}

// Play runs a transcript: consecutive "C: " lines are sent at once with CRLF,
// `C"..."` lines as Go strings without it; "S: " lines must come; "EOF" is the
// end of the connection.
func (d *Dialogue) Play(script string) {
	d.Helper()
	var out strings.Builder
	flush := func() {
		if out.Len() > 0 {
			d.Send(out.String())
			out.Reset()
		}
	}
	for line := range strings.Lines(script) {
		line = strings.Trim(line, "\t\n")
		switch {
		case line == "":
		case strings.HasPrefix(line, "C:"):
			out.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "C:"), " ") + "\r\n")
		case strings.HasPrefix(line, `C"`):
			raw, err := strconv.Unquote(line[1:])
			if err != nil {
				d.Fatal(line, err)
			}
			out.WriteString(raw)
		case strings.HasPrefix(line, "S:"):
			flush()
			want := strings.TrimPrefix(strings.TrimPrefix(line, "S:"), " ") + "\r\n"
			if got := d.Line(); !d.is(got, want) {
				d.Fatalf("got %q, want %q", got, want)
			}
		case line == "EOF":
			flush()
			if rest, err := io.ReadAll(d.Reader); len(rest) > 0 || err != nil {
				d.Fatalf("want the end, got %q, %v", rest, err)
			}
			d.Conn.Close() // which the server may wait for
		default:
			d.Fatalf("bad script line %q", line)
		}
	}
	flush()
}

func (d *Dialogue) is(got, want string) bool {
	head, tail, dots := strings.Cut(want, "...")
	return got == want || d.Dots && dots && strings.HasPrefix(got, head) && strings.HasSuffix(got, tail)
}
