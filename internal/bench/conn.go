package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"waypost/internal/wire"
)

// Target is a server that takes mail.
type Target struct {
	// Network and Addr: "tcp" and host:port, or "unix" and a path. Dial, where
	// not nil, connects instead (mutual TLS between nodes).
	Network, Addr string
	Dial          func(context.Context) (net.Conn, error)
	// SMTP speaks EHLO and expects one reply to a message, not one for each
	// recipient.
	SMTP bool
	// From is the sender's address; To are the recipients, by turns.
	From string
	To   []Recipient
	// DeliveryIDs gives MAIL an id for each message, as an mx does to a Waypost
	// backend.
	DeliveryIDs bool
}

// Recipient is an address and, for a Waypost backend, where its user was looked up.
type Recipient struct {
	Address string
	Home    string // empty: no parameters
	Epoch   uint64
}

func (r Recipient) command() []byte {
	b := []byte("RCPT TO:<" + r.Address + ">")
	if r.Home != "" {
		b = append(b, " "+wire.ParamHome+"="+r.Home+" "+wire.ParamEpoch+"="+strconv.FormatUint(r.Epoch, 10)...)
	}
	return append(b, "\r\n"...)
}

func (t *Target) dial(ctx context.Context) (net.Conn, error) {
	if t.Dial != nil {
		return t.Dial(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, t.Network, t.Addr)
}

// AnswerError is an answer that is not the one that delivers.
type AnswerError struct{ Command, Line string }

func (e *AnswerError) Error() string { return e.Command + " was answered " + strconv.Quote(e.Line) }

// errNoChunking: BDAT was asked for.
var errNoChunking = errors.New("the server does not offer CHUNKING")

// conn is one connection to the target, used by one goroutine.
type conn struct {
	nc      net.Conn
	r       *bufio.Reader
	timeout time.Duration
	smtp    bool
	bdat    bool
	// pipelining and chunking: what the server offers.
	pipelining, chunking bool

	mail []byte // "MAIL FROM:<…>", without its end
	ids  []byte // prefix of delivery ids, or nil
	out  []byte // what is sent next
	line []byte // the first line of the last reply
}

// greet reads the greeting and introduces us.
func (c *conn) greet() error {
	if err := c.nc.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if err := c.expect("connecting", 220); err != nil {
		return err
	}
	hello := "LHLO"
	if c.smtp {
		hello = "EHLO"
	}
	if _, err := c.nc.Write([]byte(hello + " bench.example.org\r\n")); err != nil {
		return err
	}
	code, err := c.reply(func(text []byte) {
		word, _, _ := bytes.Cut(text, []byte(" "))
		c.pipelining = c.pipelining || bytes.EqualFold(word, []byte("PIPELINING"))
		c.chunking = c.chunking || bytes.EqualFold(word, []byte("CHUNKING"))
	})
	if err != nil {
		return err
	}
	if code != 250 {
		return &AnswerError{hello, string(c.line)}
	}
	if c.bdat && !c.chunking {
		return errNoChunking
	}
	return nil
}

// maxReplyLines bounds what one reply may have.
const maxReplyLines = 200

// reply reads one reply (RFC 5321, Section 4.2.1) and calls each, which may be
// nil, with the text of its lines.
func (c *conn) reply(each func(text []byte)) (int, error) {
	for n := range maxReplyLines {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, fmt.Errorf("read reply: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if n == 0 {
			c.line = append(c.line[:0], line...)
		}
		code, last, text, ok := parseReply(line)
		if !ok {
			return 0, fmt.Errorf("not a reply: %q", line)
		}
		if each != nil {
			each(text)
		}
		if last {
			return code, nil
		}
	}
	return 0, fmt.Errorf("a reply of more than %d lines", maxReplyLines)
}

// parseReply takes a line of a reply apart.
func parseReply(line []byte) (code int, last bool, text []byte, ok bool) {
	if len(line) < 3 {
		return 0, false, nil, false
	}
	for _, d := range line[:3] {
		if d < '0' || d > '9' {
			return 0, false, nil, false
		}
		code = code*10 + int(d-'0')
	}
	if len(line) == 3 {
		return code, true, nil, true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, false, nil, false
	}
	return code, line[3] == ' ', line[4:], true
}

func (c *conn) expect(command string, want int) error {
	code, err := c.reply(nil)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if code != want {
		return &AnswerError{command, string(c.line)}
	}
	return nil
}

// deliver sends message number n to the recipients, whose RCPT commands are
// given, and waits for every answer. After an error the connection is of no use.
func (c *conn) deliver(l *letters, n, variant uint64, rcpts [][]byte) error {
	if err := c.nc.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	c.out = append(c.out[:0], c.mail...)
	if c.ids != nil {
		c.out = append(c.out, " "+wire.ParamDelivery+"="...)
		c.out = append(c.out, c.ids...)
		c.out = strconv.AppendUint(c.out, n, 16)
	}
	c.out = append(c.out, "\r\n"...)
	if err := c.command("MAIL", 250); err != nil {
		return err
	}
	for _, r := range rcpts {
		c.out = append(c.out, r...)
		if err := c.command("RCPT", 250); err != nil {
			return err
		}
	}
	if err := c.message(l, n, variant, len(rcpts)); err != nil {
		return err
	}
	if c.smtp {
		return c.expect("the message", 250)
	}
	for range rcpts { // RFC 2033, Section 4.2
		if err := c.expect("the message", 250); err != nil {
			return err
		}
	}
	return nil
}

// command sends what is gathered and checks its answer, or leaves both for
// later where the server offers PIPELINING (RFC 2920).
func (c *conn) command(name string, want int) error {
	if c.pipelining {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	return c.expect(name, want)
}

func (c *conn) flush() error {
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// envelope reads the answers that command left.
func (c *conn) envelope(rcpts int) error {
	if !c.pipelining {
		return nil
	}
	if err := c.expect("MAIL", 250); err != nil {
		return err
	}
	for range rcpts {
		if err := c.expect("RCPT", 250); err != nil {
			return err
		}
	}
	return nil
}

// message sends the message: with BDAT in the same write as the envelope (RFC
// 3030, Section 2), with DATA after its 354.
func (c *conn) message(l *letters, n, variant uint64, rcpts int) error {
	if c.bdat {
		c.out = append(c.out, "BDAT "...)
		c.out = strconv.AppendInt(c.out, int64(l.size), 10)
		c.out = append(c.out, " LAST\r\n"...)
		c.out = l.append(c.out, n, variant)
		if err := c.flush(); err != nil {
			return err
		}
		return c.envelope(rcpts)
	}
	c.out = append(c.out, "DATA\r\n"...)
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.envelope(rcpts); err != nil {
		return err
	}
	if err := c.expect("DATA", 354); err != nil {
		return err
	}
	c.out = append(l.append(c.out, n, variant), ".\r\n"...)
	return c.flush()
}

func (c *conn) close() {
	_ = c.nc.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.nc.Write([]byte("QUIT\r\n")); err == nil {
		_, _ = c.reply(nil) // it takes its leave or not
	}
	c.nc.Close()
}
