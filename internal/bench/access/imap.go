package access

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait bounds one command: a server that is slower than that has lost.
const answerWait = 10 * time.Minute

// ErrAnswer: a server answered otherwise than it must.
var ErrAnswer = errors.New("wrong answer")

// lineReader reads lines of any length, and the literals in them, without keeping more than a
// line's beginning.
type lineReader struct {
	r    *bufio.Reader
	line []byte
}

// kept is how much of a line is kept; the longest that is looked into is a list of search results.
const kept = 4 << 20

// next gives a line without its end. Literals in it (RFC 9051, Section 4.3) are passed over.
func (l *lineReader) next() ([]byte, error) {
	l.line = l.line[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.line)+len(part) <= kept {
			l.line = append(l.line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		l.line = bytes.TrimRight(l.line, "\r\n")
		n, ok := literal(l.line)
		if !ok {
			return l.line, nil
		}
		if _, err := l.r.Discard(n); err != nil {
			return nil, fmt.Errorf("read literal: %w", err)
		}
	}
}

// literal tells whether a line ends with the announcement of a literal of n bytes.
func literal(line []byte) (n int, ok bool) {
	if len(line) == 0 || line[len(line)-1] != '}' {
		return 0, false
	}
	at := bytes.LastIndexByte(line, '{')
	if at < 0 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(line[at+1:len(line)-1]), 10, 31)
	return int(v), err == nil
}

// imapClient is one connection, used by one goroutine. It looks at answers only as far as it must
// to check them: the client is to cost little beside the server.
type imapClient struct {
	nc    net.Conn
	lines lineReader
	out   []byte
	tag   int
}

// answer is what came before a tagged OK.
type answer struct {
	fetched, expunged, found int
	exists                   int // -1: not told
	modSeq                   uint64
	text                     string // of the tagged line
}

// ctxConn ends with a context.
type ctxConn struct {
	*net.TCPConn
	raw   syscall.RawConn
	uncut func() bool
}

// Read implements net.Conn. It has the system acknowledge at once what comes: a server that
// waits for that with the rest of an answer (RFC 1122, Section 4.2.3.4) would be measured by
// our system's timer, 40 ms.
func (c *ctxConn) Read(p []byte) (int, error) {
	var set error
	if err := c.raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }); err != nil {
		return 0, err
	}
	if set != nil {
		return 0, set
	}
	return c.TCPConn.Read(p)
}

// Close implements net.Conn.
func (c *ctxConn) Close() error {
	c.uncut()
	return c.TCPConn.Close()
}

// dial connects. What hangs later ends with ctx.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("%s is not reached by TCP", addr)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &ctxConn{tcp, raw, context.AfterFunc(ctx, func() { tcp.Close() })}, nil
}

// openIMAP connects and reads the greeting.
func openIMAP(ctx context.Context, addr string) (*imapClient, error) {
	nc, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &imapClient{nc: nc, lines: lineReader{r: bufio.NewReaderSize(nc, 16<<10)}}
	if err := nc.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	line, err := c.lines.next()
	if err == nil && !bytes.HasPrefix(line, []byte("* OK")) {
		err = fmt.Errorf("%w: greeted with %q", ErrAnswer, line)
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

// loginIMAP connects and logs in.
func loginIMAP(ctx context.Context, addr, user, password string) (*imapClient, error) {
	c, err := openIMAP(ctx, addr)
	if err != nil {
		return nil, err
	}
	if _, err := c.do("LOGIN " + user + " " + password); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *imapClient) close() { c.nc.Close() }

// do sends a command and reads to its tagged answer, which must be OK.
func (c *imapClient) do(command string) (answer, error) { return c.send(command, nil) }

// append sends an APPEND of messages, in non-synchronising literals (RFC 7888); more than one are
// a MULTIAPPEND (RFC 3502).
func (c *imapClient) append(folder string, messages ...[]byte) (answer, error) {
	return c.send("APPEND "+folder, messages)
}

func (c *imapClient) send(command string, literals [][]byte) (answer, error) {
	if err := c.nc.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return answer{}, err
	}
	c.tag++
	c.out = append(c.out[:0], 'b')
	c.out = strconv.AppendInt(c.out, int64(c.tag), 10)
	tag := len(c.out)
	c.out = append(append(c.out, ' '), command...)
	for _, l := range literals {
		c.out = append(c.out, ` (\Seen) {`...)
		c.out = strconv.AppendInt(c.out, int64(len(l)), 10)
		c.out = append(append(c.out, "+}\r\n"...), l...)
	}
	c.out = append(c.out, "\r\n"...)
	if _, err := c.nc.Write(c.out); err != nil {
		return answer{}, fmt.Errorf("send %.40q: %w", command, err)
	}
	a, err := c.answer(c.out[:tag])
	if err != nil {
		return a, fmt.Errorf("%.60s: %w", command, err)
	}
	return a, nil
}

func (c *imapClient) answer(tag []byte) (answer, error) {
	a := answer{exists: -1}
	for {
		line, err := c.lines.next()
		if err != nil {
			return a, err
		}
		if rest, ok := bytes.CutPrefix(line, []byte("* ")); ok {
			if err := a.untagged(rest); err != nil {
				return a, err
			}
			continue
		}
		rest, ok := bytes.CutPrefix(line, tag)
		if !ok || !bytes.HasPrefix(rest, []byte(" OK")) {
			return a, fmt.Errorf("%w: %.200q", ErrAnswer, line)
		}
		a.text = string(rest[1:])
		return a, nil
	}
}

// untagged notes a line that begins with "* ".
func (a *answer) untagged(line []byte) error {
	n, rest, numbered := number(line)
	if !numbered {
		return a.named(line)
	}
	switch word, _, _ := bytes.Cut(rest, []byte(" ")); string(word) {
	case "FETCH":
		a.fetched++
	case "EXISTS":
		a.exists = n
	case "EXPUNGE":
		a.expunged++
	}
	return nil
}

func (a *answer) named(line []byte) error {
	if rest, ok := bytes.CutPrefix(line, []byte("SEARCH")); ok {
		// With CONDSTORE, "(MODSEQ n)" may follow (RFC 7162, Section 3.1.5).
		ids, _, _ := bytes.Cut(rest, []byte(" ("))
		a.found = len(bytes.Fields(ids))
	}
	if rest, ok := bytes.CutPrefix(line, []byte("OK [HIGHESTMODSEQ ")); ok {
		digits, _, _ := bytes.Cut(rest, []byte("]"))
		v, err := strconv.ParseUint(string(digits), 10, 64)
		if err != nil {
			return fmt.Errorf("%w: %.200q", ErrAnswer, line)
		}
		a.modSeq = v
	}
	return nil
}

// number reads the number with which a line begins.
func number(line []byte) (n int, rest []byte, ok bool) {
	digits, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(digits) == 0 || len(digits) > 9 {
		return 0, nil, false
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, nil, false
		}
		n = n*10 + int(d-'0')
	}
	return n, rest, true
}

// selectInbox selects INBOX, in which there must be so many messages.
func (c *imapClient) selectInbox(messages int) (answer, error) {
	a, err := c.do("SELECT INBOX")
	if err == nil && a.exists != messages {
		err = fmt.Errorf("%w: INBOX has %d messages, want %d", ErrAnswer, a.exists, messages)
	}
	return a, err
}

// want fails unless got is what it must be.
func want(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%w: %s: %d, want %d", ErrAnswer, what, got, want)
	}
	return nil
}
