package lmtp

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// pair is a connected pair of loopback sockets.
func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// dialogue is a served connection.
type dialogue struct {
	t      testing.TB
	conn   net.Conn
	br     *bufio.Reader
	cancel context.CancelFunc
	served sync.WaitGroup
}

func serve(t testing.TB, opt Options) *dialogue {
	t.Helper()
	client, server := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	d := &dialogue{t: t, conn: client, br: bufio.NewReader(client), cancel: cancel}
	client.SetDeadline(time.Now().Add(30 * time.Second))
	srv := New(opt)
	d.served.Go(func() { srv.Serve(ctx, server, "mx/mx1") })
	t.Cleanup(func() { cancel(); d.served.Wait() })
	return d
}

func (d *dialogue) send(s string) {
	d.t.Helper()
	if _, err := io.WriteString(d.conn, s); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialogue) line() string {
	d.t.Helper()
	s, err := d.br.ReadString('\n')
	if err != nil {
		d.t.Fatalf("after %q: %v", s, err)
	}
	return s
}

// play runs a transcript: consecutive "C: " lines are sent at once with CRLF,
// `C"..."` lines as Go strings without it; "S: " lines must come, "..." in them
// standing for anything; "EOF" is the end of the connection.
func (d *dialogue) play(script string) {
	d.t.Helper()
	var out strings.Builder
	flush := func() {
		if out.Len() > 0 {
			d.send(out.String())
			out.Reset()
		}
	}
	for line := range strings.Lines(script) {
		line = strings.Trim(line, "\t\n")
		switch {
		case line == "":
		case strings.HasPrefix(line, "C: "), line == "C:":
			out.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "C:"), " ") + "\r\n")
		case strings.HasPrefix(line, `C"`):
			raw, err := strconv.Unquote(line[1:])
			if err != nil {
				d.t.Fatal(line, err)
			}
			out.WriteString(raw)
		case strings.HasPrefix(line, "S: "):
			flush()
			want := strings.TrimPrefix(line, "S: ") + "\r\n"
			got := d.line()
			head, tail, dots := strings.Cut(want, "...")
			if got != want && !(dots && strings.HasPrefix(got, head) && strings.HasSuffix(got, tail)) {
				d.t.Fatalf("got %q, want %q", got, want)
			}
		case line == "EOF":
			flush()
			if rest, err := io.ReadAll(d.br); len(rest) > 0 || err != nil {
				d.t.Fatalf("want the end, got %q, %v", rest, err)
			}
		default:
			d.t.Fatalf("bad script line %q", line)
		}
	}
	flush()
}

const hello = `
	S: 220 b1.test LMTP Waypost
	C: LHLO mx1.test
	S: 250-b1.test
	S: 250-PIPELINING
	S: 250-SIZE 4000
	S: 250-8BITMIME
	S: 250-SMTPUTF8
	S: 250-CHUNKING
	S: 250-ENHANCEDSTATUSCODES
	S: 250 XWAYPOST
`

const envelope = hello + `
	C: MAIL FROM:<a@out.test> SIZE=100 BODY=8BITMIME XDELIVERY=id-1
	S: 250 2.1.0 OK
	C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
	S: 250 2.1.5 OK
`

func fixedNow() time.Time {
	return time.Date(2026, 11, 3, 12, 0, 0, 0, time.FixedZone("", 3600))
}

func options(f *fakeStore) Options {
	return Options{Store: f, Hostname: "b1.test", MaxMessage: 4000, Now: fixedNow}
}

const trace = "Return-Path: <a@out.test>\n" +
	"Received: from mx1 by b1.test (Waypost) with LMTP id id-1;\n\tTue, 03 Nov 2026 12:00:00 +0100\n"
