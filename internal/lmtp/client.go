package lmtp

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Options of a Client; the zero value is usable.
type Options struct {
	// SMTP speaks EHLO and expects one reply after the message, not one for
	// each recipient.
	SMTP bool
	// Timeout bounds each write, and the wait for each reply but those after
	// the message. Default 30 s.
	Timeout time.Duration
	// DataTimeout bounds the wait for all replies after the message together
	// (RFC 5321, Section 4.5.3.2.6): a sender waits for the last one. Default
	// 10 min.
	DataTimeout time.Duration
	// MaxReplyBytes bounds one reply. Default 16 KiB.
	MaxReplyBytes int
}

// Client is one LMTP connection. See the package's promises.
type Client struct {
	raw  net.Conn // as given; Close may be called while conn changes
	conn net.Conn // raw, or TLS over it
	o    Options
	r    *bufio.Reader
	w    *bufio.Writer

	greeted  bool
	ext      map[string]string
	accepted int // RCPTs of this transaction that got a 2yz
}

const (
	defaultTimeout     = 30 * time.Second
	defaultDataTimeout = 10 * time.Minute
	defaultMaxReply    = 16 << 10
)

// New makes a client on a connected conn. It sends and reads nothing.
func New(conn net.Conn, o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.DataTimeout <= 0 {
		o.DataTimeout = defaultDataTimeout
	}
	if o.MaxReplyBytes <= 0 {
		o.MaxReplyBytes = defaultMaxReply
	}
	c := &Client{raw: conn, conn: conn, o: o, r: bufio.NewReaderSize(conn, 4096)}
	c.w = bufio.NewWriterSize(deadlineWriter{conn, o.Timeout}, 16<<10)
	return c
}

// deadlineWriter gives each write to the connection its own deadline.
type deadlineWriter struct {
	conn    net.Conn
	timeout time.Duration
}

func (d deadlineWriter) Write(p []byte) (int, error) {
	if err := d.conn.SetWriteDeadline(time.Now().Add(d.timeout)); err != nil {
		return 0, err
	}
	return d.conn.Write(p)
}

// Close closes the connection at once. It may be called from any goroutine.
func (c *Client) Close() error { return c.raw.Close() }

// SetTimeout changes Options.Timeout for what follows.
func (c *Client) SetTimeout(d time.Duration) {
	c.o.Timeout = d
	c.w.Reset(deadlineWriter{c.conn, d})
}

// Hello reads the greeting if it was not read yet, introduces name with LHLO
// (EHLO for SMTP), and learns the extensions. A refusal is a *ReplyError.
func (c *Client) Hello(name string) error {
	if !c.greeted {
		if err := c.expect("greeting"); err != nil {
			return err
		}
		c.greeted = true
	}
	verb := "LHLO"
	if c.o.SMTP {
		verb = "EHLO"
	}
	if name == "" || strings.ContainsFunc(name, notWord) {
		return fmt.Errorf("name %q: %w", name, ErrSyntax)
	}
	if err := c.send(verb + " " + name); err != nil {
		return err
	}
	r, err := c.reply()
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if !r.OK() {
		return &ReplyError{verb, r}
	}
	c.ext = make(map[string]string)
	lines := strings.Split(r.Text, "\n")
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, " ")
		c.ext[strings.ToUpper(k)] = v
	}
	return nil
}

// Ext reports whether the server announced an extension, and its parameters.
func (c *Client) Ext(name string) (params string, ok bool) {
	params, ok = c.ext[strings.ToUpper(name)]
	return params, ok
}

// XClient tells the server the client's address and HELO name; the session
// starts anew, so Hello must follow. Only for servers that announce XCLIENT
// with these attributes and trust us.
func (c *Client) XClient(client netip.AddrPort, helo string) error {
	addr := client.Addr().Unmap()
	text := addr.String()
	if addr.Is6() {
		text = "IPV6:" + text
	}
	cmd := "XCLIENT ADDR=" + text + " PORT=" + strconv.Itoa(int(client.Port()))
	if offered, _ := c.Ext("XCLIENT"); helo != "" && strings.Contains(offered, "HELO") {
		cmd += " HELO=" + Xtext(helo)
	}
	if err := c.send(cmd); err != nil {
		return err
	}
	return c.expect("XCLIENT")
}

// MailParams are the parameters of MAIL FROM. Those of an extension that the
// server does not offer are left out, Extra excepted.
type MailParams struct {
	Size     int64 // bytes; 0: not known (RFC 1870)
	EightBit bool  // BODY=8BITMIME (RFC 6152)
	UTF8     bool  // SMTPUTF8 (RFC 6531)
	Extra    []Param
}

func (c *Client) mailCommand(from string, p MailParams) (string, error) {
	rp, err := path(from)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("MAIL FROM:" + rp)
	params := p.Extra
	if _, ok := c.Ext("SIZE"); ok && p.Size > 0 {
		params = append(params[:len(params):len(params)], Param{"SIZE", strconv.FormatInt(p.Size, 10)})
	}
	if _, ok := c.Ext("8BITMIME"); ok && p.EightBit {
		params = append(params[:len(params):len(params)], Param{"BODY", "8BITMIME"})
	}
	if _, ok := c.Ext("SMTPUTF8"); ok && p.UTF8 {
		params = append(params[:len(params):len(params)], Param{"SMTPUTF8", ""})
	}
	err = writeParams(&b, params)
	return b.String(), err
}

// Mail begins a transaction.
func (c *Client) Mail(from string, p MailParams) (Reply, error) {
	r, _, err := c.MailRcpt(from, p, nil)
	return r, err
}

// Rcpt adds a recipient to the transaction.
func (c *Client) Rcpt(to string, params ...Param) (Reply, error) {
	cmd, err := rcptCommand(Recipient{to, params})
	if err != nil {
		return Reply{}, err
	}
	if err := c.send(cmd); err != nil {
		return Reply{}, err
	}
	return c.rcptReply()
}

// Recipient is one RCPT of MailRcpt.
type Recipient struct {
	To     string
	Params []Param
}

func rcptCommand(r Recipient) (string, error) {
	fp, err := path(r.To)
	if err != nil || r.To == "" {
		return "", fmt.Errorf("recipient %q: %w", r.To, ErrSyntax)
	}
	var b strings.Builder
	b.WriteString("RCPT TO:" + fp)
	err = writeParams(&b, r.Params)
	return b.String(), err
}

func (c *Client) rcptReply() (Reply, error) {
	r, err := c.reply()
	if err != nil {
		return Reply{}, fmt.Errorf("RCPT: %w", err)
	}
	if r.OK() {
		c.accepted++
	}
	return r, nil
}

// MailRcpt begins a transaction with its recipients, in one round trip where
// the server offers PIPELINING (RFC 2920). If MAIL is refused, the replies to
// the RCPTs, if any, mean nothing. At most 100 recipients are in flight at
// once, so that neither side's buffers fill with what the other does not read.
func (c *Client) MailRcpt(from string, p MailParams, to []Recipient) (mail Reply, rcpt []Reply, err error) {
	c.accepted = 0
	cmd, err := c.mailCommand(from, p)
	if err != nil {
		return Reply{}, nil, err
	}
	cmds := make([]string, len(to))
	for i, r := range to {
		if cmds[i], err = rcptCommand(r); err != nil {
			return Reply{}, nil, err
		}
	}
	inFlight := 1
	if _, ok := c.Ext("PIPELINING"); ok {
		inFlight = maxInFlight
	}
	first := min(inFlight-1, len(cmds))
	if err := c.send(append([]string{cmd}, cmds[:first]...)...); err != nil {
		return Reply{}, nil, err
	}
	if mail, err = c.reply(); err != nil {
		return Reply{}, nil, fmt.Errorf("MAIL: %w", err)
	}
	for done, sent := 0, first; done < sent || (mail.OK() && sent < len(cmds)); {
		if done == sent {
			n := min(inFlight, len(cmds)-sent)
			if err := c.send(cmds[sent : sent+n]...); err != nil {
				return mail, nil, err
			}
			sent += n
		}
		r, err := c.rcptReply()
		if err != nil {
			return mail, nil, err
		}
		rcpt = append(rcpt, r)
		done++
	}
	return mail, rcpt, nil
}

const maxInFlight = 101

// Reset ends the transaction without delivering (RFC 5321, Section 4.1.1.5).
func (c *Client) Reset() error {
	c.accepted = 0
	if err := c.send("RSET"); err != nil {
		return err
	}
	return c.expect("RSET")
}

// Quit says goodbye and closes the connection.
func (c *Client) Quit() error {
	err := c.send("QUIT")
	if err == nil {
		err = c.expect("QUIT")
	}
	return errors.Join(err, c.Close())
}

func (c *Client) send(lines ...string) error {
	for _, l := range lines {
		c.w.WriteString(l)
		c.w.WriteString("\r\n")
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (c *Client) reply() (Reply, error) { return c.replyWithin(c.o.Timeout) }

func (c *Client) replyWithin(d time.Duration) (Reply, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return Reply{}, err
	}
	return readReply(c.r, c.o.MaxReplyBytes)
}

func (c *Client) expect(command string) error {
	r, err := c.reply()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if !r.OK() {
		return &ReplyError{command, r}
	}
	return nil
}
