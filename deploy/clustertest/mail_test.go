package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/director"
)

const ioTimeout = 60 * time.Second

// errAnswered marks a message that was refused, errSilent one whose fate the
// sender does not know: it may send again, and a second copy is allowed.
var (
	errAnswered = errors.New("refused")
	errSilent   = errors.New("no answer")
)

// send sends one message by SMTP.
func send(addr, from string, to []string, body []byte) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(ioTimeout))
	t := textproto.NewConn(c)
	cmd := func(want int, format string, a ...any) error {
		if format != "" {
			if err := t.PrintfLine(format, a...); err != nil {
				return err
			}
		}
		_, _, err := t.ReadResponse(want)
		return err
	}
	if err := errors.Join(cmd(220, ""), cmd(250, "EHLO test.example.org"), cmd(250, "MAIL FROM:<%s>", from)); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	for _, r := range to {
		if err := cmd(250, "RCPT TO:<%s>", r); err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
	if err := cmd(354, "DATA"); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	w := t.DotWriter()
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	_, _, err = t.ReadResponse(250)
	var refused *textproto.Error
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %w", errAnswered, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	_ = t.PrintfLine("QUIT")
	return nil
}

// seen is a mailbox as a client sees it.
type seen struct {
	validity uint32
	msgs     []seenMsg
}

type seenMsg struct {
	uid   uint32
	flags string
	body  []byte
}

// dialIMAP logs in through a proxy.
func dialIMAP(addr string, u director.User) (*imapclient.Client, error) {
	return dialIMAPFor(addr, string(u), 2*ioTimeout)
}

// bodySection gives a fetched body to read, where the item is one.
func bodySection(item imapclient.FetchItemData) (io.Reader, bool) {
	s, ok := item.(imapclient.FetchItemDataBodySection)
	return s.Literal, ok
}

func dialIMAPFor(addr, u string, most time.Duration) (*imapclient.Client, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(most))
	c := imapclient.New(conn, nil)
	if err := c.Login(u, password).Wait(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readIMAP reads a folder whole; bodies only if asked for.
func readIMAP(addr string, u director.User, folder string, bodies bool) (seen, error) {
	c, err := dialIMAP(addr, u)
	if err != nil {
		return seen{}, err
	}
	defer c.Close()
	return readFolder(c, folder, bodies)
}

func readFolder(c *imapclient.Client, folder string, bodies bool) (seen, error) {
	sel, err := c.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		return seen{}, err
	}
	s := seen{validity: sel.UIDValidity}
	if sel.NumMessages == 0 {
		return s, nil
	}
	opts := &imap.FetchOptions{UID: true, Flags: true}
	whole := &imap.FetchItemBodySection{Peek: true}
	if bodies {
		opts.BodySection = []*imap.FetchItemBodySection{whole}
	}
	var all imap.SeqSet
	all.AddRange(1, 0)
	msgs, err := c.Fetch(all, opts).Collect()
	if err != nil {
		return s, err
	}
	for _, m := range msgs {
		x := seenMsg{uid: uint32(m.UID), flags: flagText(m.Flags)}
		if bodies {
			x.body = m.FindBodySection(whole)
		}
		s.msgs = append(s.msgs, x)
	}
	if len(s.msgs) < int(sel.NumMessages) {
		return s, fmt.Errorf("%d of %d messages came", len(s.msgs), sel.NumMessages)
	}
	return s, nil
}

func flagText(fs []imap.Flag) string {
	var out []string
	for _, f := range fs {
		if f != "\\Recent" {
			out = append(out, strings.ToLower(string(f)))
		}
	}
	return strings.Join(out, " ")
}

// pop3 is a POP3 client of few words.
type pop3 struct {
	c net.Conn
	t *textproto.Conn
}

func dialPOP3(addr string, u director.User) (*pop3, error) {
	return dialPOP3For(addr, string(u), 2*ioTimeout)
}

func dialPOP3For(addr, u string, most time.Duration) (*pop3, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(most))
	p := &pop3{c, textproto.NewConn(c)}
	if _, err := p.reply(); err != nil {
		c.Close()
		return nil, err
	}
	for _, l := range []string{"USER " + u, "PASS " + password} {
		if _, err := p.cmd(l); err != nil {
			c.Close()
			return nil, err
		}
	}
	return p, nil
}

func (p *pop3) reply() (string, error) {
	l, err := p.t.ReadLine()
	if err == nil && !strings.HasPrefix(l, "+OK") {
		err = errors.New(l)
	}
	return l, err
}

func (p *pop3) cmd(line string) (string, error) {
	if err := p.t.PrintfLine("%s", line); err != nil {
		return "", err
	}
	return p.reply()
}

// uidls gives the unique ids by message number.
func (p *pop3) uidls() ([]string, error) {
	if _, err := p.cmd("UIDL"); err != nil {
		return nil, err
	}
	lines, err := p.t.ReadDotLines()
	for i, l := range lines {
		_, id, _ := strings.Cut(l, " ")
		lines[i] = id
	}
	return lines, err
}

// retr gives a message with its CRLFs.
func (p *pop3) retr(n int) ([]byte, error) {
	if _, err := p.cmd("RETR " + strconv.Itoa(n)); err != nil {
		return nil, err
	}
	var out []byte
	for {
		l, err := p.t.R.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if bytes.Equal(l, []byte(".\r\n")) {
			return out, nil
		}
		if l[0] == '.' {
			l = l[1:]
		}
		out = append(out, l...)
	}
}

func (p *pop3) quit() {
	_, _ = p.cmd("QUIT")
	p.c.Close()
}

// readPOP3 reads everything by POP3.
func readPOP3(addr string, u director.User) (ids []string, bodies [][]byte, err error) {
	p, err := dialPOP3(addr, u)
	if err != nil {
		return nil, nil, err
	}
	defer p.quit()
	if ids, err = p.uidls(); err != nil {
		return nil, nil, err
	}
	for i := range ids {
		b, err := p.retr(i + 1)
		if err != nil {
			return nil, nil, err
		}
		bodies = append(bodies, b)
	}
	return ids, bodies, nil
}

// plain is a message without what may differ between sent and stored: our own
// Received fields, and Return-Path, in the leading run of trace fields.
func plain(b []byte) []byte {
	var out []byte
	for len(b) > 0 {
		field, rest := cutField(b)
		name, _, _ := bytes.Cut(field, []byte(":"))
		switch low := strings.ToLower(string(name)); low {
		case "return-path":
		case "received":
			if !bytes.Contains(field, []byte("example.test")) {
				out = append(out, field...)
			}
		case "received-spf", "authentication-results":
			out = append(out, field...)
		default:
			return append(out, b...)
		}
		b = rest
	}
	return out
}

// cutField cuts one header field, folded lines included.
func cutField(b []byte) (field, rest []byte) {
	end := 0
	for {
		i := bytes.IndexByte(b[end:], '\n')
		if i < 0 {
			return b, nil
		}
		end += i + 1
		if end >= len(b) || b[end] != ' ' && b[end] != '\t' {
			return b[:end], b[end:]
		}
	}
}
