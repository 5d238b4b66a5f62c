// Package popclient lists what is in a POP3 maildrop, on any server: by the
// extended listing (docs/pop3-listing.md) where the server has it, and else by
// reading the headers of the messages and keeping what was read in a cache, so that
// the next listing reads only what is new. A front end that uses it need not know
// which of the two it was.
//
// It owns one connection at a time, and the files in the cache folder that have
// its names; it never deletes a message. What a server says is not trusted: lines,
// counts and texts are bounded, every wait has a deadline, and a cache that is
// damaged is made anew. A crash loses at most what the last listing learned. A
// Client belongs to one goroutine; two processes may use one cache folder, where
// the last that saves wins.
//
// RFCs: 1939, 2449 (CAPA, PIPELINING), 2595 (STLS), 5034 (AUTH), 4616 (PLAIN).
package popclient

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"waypost/internal/poplist"
)

// Errors to be told apart; others are those of the connection.
var (
	// ErrLogin: the server refused the login; its words are in the text.
	ErrLogin = errors.New("login refused")
	// ErrProtocol: the server said what POP3 does not allow.
	ErrProtocol = errors.New("not as POP3 has it")
	// ErrNoTLS: TLS was asked for, and the server does not offer it.
	ErrNoTLS = errors.New("the server does not offer TLS here")
	// ErrTooMany: the maildrop has more messages than are allowed.
	ErrTooMany = errors.New("too many messages")
	// ErrServer: the server refused a command; its words are in the text.
	ErrServer = errors.New("the server refused")
)

// Security says how the connection is protected.
type Security int

// The kinds of Security; the zero value is the safe one.
const (
	// TLS comes first, as on port 995.
	TLS Security = iota
	// STLS: TLS by command, as on port 110 (RFC 2595); without it no password is sent.
	STLS
	// Plain: no TLS. Whoever is on the way reads the password.
	Plain
)

// Options say where to connect and how. Addr, User and Password are required.
type Options struct {
	// Addr is host:port.
	Addr     string
	Security Security
	// TLSConfig is for other roots than the system's; nil: none. The name that is
	// verified is Addr's host unless it has one.
	TLSConfig      *tls.Config
	User, Password string
	// Timeout bounds the connecting, and each wait for the server; 30 seconds.
	Timeout time.Duration
	// Scan reads headers also where there is an extended listing.
	Scan bool
	// Whole reads whole messages, not only headers, where there is no extended
	// listing, so that the attachment mark is no guess.
	Whole bool
	// Cache is a folder for what was read; "": nothing is kept. It is made when
	// missing, for this user alone. It holds subjects and correspondents.
	Cache string
	// MaxMessages bounds a maildrop; 1,000,000.
	MaxMessages int
}

// Entry is one message of a listing.
type Entry struct {
	poplist.Entry
	// FlagsKnown: only the extended listing tells of flags.
	FlagsKnown bool `json:"flags_known"`
	// AttachmentGuessed: Attachment comes from the Content-Type field alone: yes for
	// multipart/mixed, no for other multiparts.
	AttachmentGuessed bool `json:"attachment_guessed"`
}

// Client is a session that is logged in.
type Client struct {
	o    Options
	c    *conn
	caps map[string]string // upper-case names, to their arguments; nil: not told
	// broken: the stream is somewhere within an answer.
	broken bool
	// Read counts the messages, or headers, that listings have read.
	Read int
}

// Dial connects and logs in. The session holds the maildrop's lock until Close.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.MaxMessages <= 0 {
		o.MaxMessages = 1_000_000
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("POP3 server %q: %w", o.Addr, err)
	}
	if o.User == "" || strings.ContainsAny(o.User+o.Password, "\r\n\x00") {
		return nil, fmt.Errorf("%w: an empty name, or one that no client can send", ErrLogin)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLSConfig != nil {
		config = o.TLSConfig.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	dialer := net.Dialer{Timeout: o.Timeout}
	raw, err := dialer.DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, c: newConn(raw, o.Timeout)}
	if err := c.c.during(ctx, func() error { return c.open(ctx, config) }); err != nil {
		_ = c.c.close() // the failure is what counts
		return nil, fmt.Errorf("POP3 server %s: %w", o.Addr, err)
	}
	return c, nil
}

// open is what is said up to the login, and the capabilities after it: those of
// before may be a proxy's, which does not know the server behind it.
func (c *Client) open(ctx context.Context, config *tls.Config) error {
	if c.o.Security == TLS {
		if err := c.c.startTLS(ctx, config); err != nil {
			return err
		}
	}
	if _, err := c.c.status(); err != nil {
		return err
	}
	if c.o.Security == STLS {
		if _, err := c.c.command("STLS"); err != nil {
			if errors.Is(err, ErrServer) {
				return fmt.Errorf("%w: %w", ErrNoTLS, err)
			}
			return err
		}
		if err := c.c.startTLS(ctx, config); err != nil {
			return err
		}
	}
	if err := c.capabilities(); err != nil {
		return err
	}
	if err := c.login(); err != nil {
		return err
	}
	return c.capabilities()
}

// maxCapabilities bounds CAPA's lines.
const maxCapabilities = 500

func (c *Client) capabilities() error {
	c.caps = nil
	if _, err := c.c.command("CAPA"); err != nil {
		if errors.Is(err, ErrServer) {
			return nil // RFC 2449, Section 3: an older server
		}
		return err
	}
	caps := make(map[string]string)
	for n := 0; ; n++ {
		line, last, err := c.c.dataLine()
		if err != nil {
			return err
		}
		if last {
			c.caps = caps
			return nil
		}
		if n >= maxCapabilities {
			return fmt.Errorf("%w: too many capabilities", ErrProtocol)
		}
		name, args, _ := strings.Cut(line, " ")
		caps[strings.ToUpper(name)] = strings.ToUpper(args)
	}
}

func (c *Client) has(name string) bool { _, ok := c.caps[name]; return ok }

// initialLimit keeps AUTH with its initial response within the 255 octets of
// RFC 2449, Section 4.
const initialLimit = 240

// login uses SASL PLAIN where it is offered (RFC 5034), and else USER and PASS.
func (c *Client) login() error {
	refused := func(err error) error {
		if errors.Is(err, ErrServer) {
			return fmt.Errorf("%w: %w", ErrLogin, err)
		}
		return err
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + c.o.User + "\x00" + c.o.Password))
	if strings.Contains(" "+c.caps["SASL"]+" ", " PLAIN ") && len(response) <= initialLimit {
		_, err := c.c.command("AUTH PLAIN " + response)
		return refused(err)
	}
	if strings.Contains(c.o.User, " ") {
		return fmt.Errorf("%w: a name with a space, and no SASL PLAIN", ErrLogin)
	}
	if _, err := c.c.command("USER " + c.o.User); err != nil {
		return refused(err)
	}
	_, err := c.c.command("PASS " + c.o.Password)
	return refused(err)
}

// Extended reports whether List uses the extended listing.
func (c *Client) Extended() bool {
	name, version, _ := strings.Cut(poplist.Capability, " ")
	return !c.o.Scan && c.caps[name] == version
}

// Close says QUIT, which gives the maildrop's lock back at once, and closes.
func (c *Client) Close() error {
	var err error
	if !c.broken {
		_, err = c.c.command("QUIT")
	}
	return errors.Join(err, c.c.close())
}
