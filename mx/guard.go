package mx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// guard is a client's connection as go-smtp sees it. It is here because the
// library
//   - answers a read error inside DATA and then executes what follows as
//     commands: after any error, or poison, a guard gives no byte more;
//   - takes the end of the connection inside a BDAT chunk for the end of the
//     message: a guard never returns io.EOF;
//   - swallows ".\r" before anything but LF at the start of a line: a guard
//     sees the stream before it and remembers bare CR and LF;
//   - has no minimum rate, and no deadline inside a message;
//   - hides the connection under STARTTLS: a guard does STARTTLS itself. It
//     reads line by line until the first message, so it knows what is a command,
//     and from each later MAIL on that came by itself.
//
// Read, Write and what they call are for the connection's own goroutine; mu
// protects what others touch.
type guard struct {
	raw   net.Conn
	o     guardOptions
	r     *bufio.Reader // of what is in use: raw or tls
	check lineCheck
	rest  []byte // of a line that was read and did not fit
	lines bool   // line by line: no message has begun yet
	alone bool   // what was given last is one MAIL command, and nothing else

	mu       sync.Mutex
	conn     net.Conn // raw or tls
	deadline time.Time
	err      error // after it nothing is read
	muted    bool  // nothing is written either
	tls      bool
	greeted  bool // EHLO or HELO since the last STARTTLS
	esmtp    bool
	bare     bool // a bare CR or LF came
	onTLS    func()
	inTx     bool // between MAIL and the answer to the message
	inData   bool
	draining bool
	waited   time.Duration // for bytes of the message
	got      int64
	active   time.Time // when the last message ended
	answers  int       // to commands since then, outside of transactions
	closed   bool
}

type guardOptions struct {
	tls            *tls.Config // nil: no STARTTLS
	hostname       string
	commandTimeout time.Duration
	dataTimeout    time.Duration
	minRate        int
	rateGrace      time.Duration
	onClose        func()
	idleTimeout    time.Duration
	idleCommands   int
}

// Errors of a guard's Read.
var (
	// errGone: the connection ended or is to end. As net.ErrClosed it is what
	// go-smtp ends on without a word.
	errGone = fmt.Errorf("connection is over: %w", net.ErrClosed)
	// errSlow and errStalled end a message. go-smtp passes them on as they are.
	errSlow    = &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "Message comes too slowly, closing"}
	errStalled = &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "Timeout inside the message, closing"}
)

// errDraining makes go-smtp say 421 and end: it reads as a timeout.
type errDraining struct{}

func (errDraining) Error() string   { return "shutting down" }
func (errDraining) Timeout() bool   { return true }
func (errDraining) Temporary() bool { return true }

func newGuard(c net.Conn, o guardOptions) *guard {
	g := &guard{raw: c, conn: c, o: o, lines: true}
	g.r = bufio.NewReaderSize(paced{g}, 4096)
	g.active = time.Now()
	g.deadline = g.active.Add(o.commandTimeout)
	return g
}

// paced reads the connection with the deadline of the moment.
type paced struct{ g *guard }

func (p paced) Read(b []byte) (int, error) { return p.g.fill(b) }

func (g *guard) fill(b []byte) (int, error) {
	conn, err := g.arm()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	n, err := conn.Read(b)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inData {
		g.waited += time.Since(start)
		g.got += int64(n)
		if err == nil && g.waited > g.o.rateGrace && float64(g.got) < g.waited.Seconds()*float64(g.o.minRate) {
			n, err = 0, errSlow
		}
	}
	if err != nil && g.err == nil {
		g.err = err
	}
	if err == nil {
		return n, nil
	}
	var ne net.Error
	timeout := errors.As(err, &ne) && ne.Timeout()
	switch {
	case g.draining && !g.inTx:
		return n, errDraining{}
	case timeout && g.inData:
		return n, errStalled
	case timeout || err == errSlow:
		return n, err
	}
	return n, errGone
}

// arm sets the deadline of the next read.
func (g *guard) arm() (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err != nil:
		return nil, errGone
	case g.draining && !g.inTx:
		g.err = errDraining{}
		return nil, g.err
	}
	d := g.deadline
	if idle := g.active.Add(g.o.idleTimeout); !g.inTx && idle.Before(d) {
		d = idle
	}
	if g.inData {
		d = time.Now().Add(g.o.dataTimeout)
	}
	return g.conn, g.conn.SetReadDeadline(d)
}

// Read gives go-smtp what the client sent.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.rest) == 0 && g.lines {
		if err := g.readCommand(); err != nil {
			return 0, err
		}
	}
	if len(g.rest) > 0 {
		if err := g.failed(); err != nil {
			return 0, err
		}
		n := copy(p, g.rest)
		g.rest = g.rest[n:]
		return n, nil
	}
	if err := g.failed(); err != nil {
		return 0, err
	}
	n, err := g.r.Read(p)
	g.inspect(p[:n])
	g.alone = n > 5 && bytes.IndexByte(p[:n], '\n') == n-1 && bytes.EqualFold(p[:5], []byte("MAIL "))
	return n, err
}

// byLine reads line by line again, if the MAIL that is being executed is all
// that go-smtp has: else a part of a chunk may come next. It is for the
// connection's own goroutine.
func (g *guard) byLine() { g.lines = g.lines || g.alone }

func (g *guard) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return errGone
	}
	return nil
}

func (g *guard) inspect(p []byte) {
	if !g.check.ok(p) {
		g.check = lineCheck{}
		g.mu.Lock()
		g.bare = true
		g.mu.Unlock()
	}
}

// readCommand reads one line into rest, and does itself what go-smtp is not to
// see. A line longer than the buffer comes in pieces: it is none of ours.
func (g *guard) readCommand() error {
	for {
		if err := g.failed(); err != nil {
			return err
		}
		line, err := g.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		g.inspect(line)
		verb := bytes.ToUpper(bytes.TrimSpace(line))
		switch {
		case bytes.Equal(verb, []byte("STARTTLS")) && g.o.tls != nil && !g.isTLS():
			if err := g.startTLS(); err != nil {
				return err
			}
			continue
		case bytes.HasPrefix(verb, []byte("EHLO ")), bytes.HasPrefix(verb, []byte("HELO ")):
			g.mu.Lock()
			g.greeted, g.esmtp = true, verb[0] == 'E'
			g.mu.Unlock()
		case bytes.Equal(verb, []byte("RCPT TO:<POSTMASTER>")):
			// RFC 5321, Section 4.5.1; go-smtp wants a domain.
			line = []byte("RCPT TO:<postmaster@" + g.o.hostname + ">\r\n")
		case bytes.Equal(verb, []byte("DATA")), bytes.HasPrefix(verb, []byte("BDAT ")):
			g.lines = false
		}
		g.rest = bytes.Clone(line)
		return nil
	}
}

func (g *guard) startTLS() error {
	if g.r.Buffered() > 0 {
		// Commands before the handshake could be an attacker's (RFC 3207,
		// Section 4.2 wants them forgotten).
		g.poison(false)
		io.WriteString(g, "501 5.5.1 Nothing may follow STARTTLS\r\n")
		return errGone
	}
	if _, err := io.WriteString(g, "220 2.0.0 Ready to start TLS\r\n"); err != nil {
		g.poison(false)
		return errGone
	}
	tc := tls.Server(g.raw, g.o.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	g.raw.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := tc.HandshakeContext(ctx); err != nil {
		g.poison(false)
		return errGone
	}
	g.r.Reset(paced{g})
	g.check = lineCheck{}
	g.mu.Lock()
	g.conn, g.tls, g.greeted, g.bare = tc, true, false, false
	g.deadline = time.Now().Add(g.o.commandTimeout)
	onTLS := g.onTLS
	g.mu.Unlock()
	if onTLS != nil {
		onTLS()
	}
	return nil
}

const (
	handshakeTimeout = 30 * time.Second
	writeTimeout     = time.Minute
)

// ehloLine is a line of go-smtp's EHLO answer; STARTTLS is put before it.
var ehloLine = []byte("250-PIPELINING\r\n")

// Write sends replies. When reading has ended there is one more: what go-smtp
// has read ahead it still takes for commands, and they are not to be answered.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	conn, offer := g.conn, g.o.tls != nil && !g.tls && g.lines
	muted := g.muted
	if !muted && g.err == nil && g.idles(p) {
		g.err, p = errGone, idleReply
	}
	g.muted = g.err != nil
	g.mu.Unlock()
	if muted {
		return 0, net.ErrClosed
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	if offer && bytes.Equal(p, ehloLine) {
		if _, err := io.WriteString(conn, "250-STARTTLS\r\n"); err != nil {
			return 0, err
		}
	}
	return conn.Write(p)
}

var idleReply = []byte("421 4.7.0 Too many commands without a message, closing\r\n")

// idles counts the last lines of replies outside of transactions; mu is held.
func (g *guard) idles(p []byte) bool {
	if !g.inTx && len(p) > 3 && p[3] == ' ' {
		g.answers++
	}
	return g.answers > g.o.idleCommands
}

// SetReadDeadline takes go-smtp's deadline of a whole command line.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	return nil
}

func (g *guard) SetDeadline(t time.Time) error    { return g.SetReadDeadline(t) }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }
func (g *guard) LocalAddr() net.Addr              { return g.raw.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr             { return g.raw.RemoteAddr() }

// poison ends reading: what the client sends from now on is nobody's. go-smtp
// writes the answer under way, unless answered says that it has, and closes.
func (g *guard) poison(answered bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = errGone
	}
	g.muted = g.muted || answered
}

// linger is how long, and lingerBytes how much, a closing connection reads on:
// closing with unread bytes would reset it, and take our last reply along.
const (
	linger      = time.Second
	lingerBytes = 1 << 20
)

// Close closes the connection.
func (g *guard) Close() error {
	g.mu.Lock()
	conn, again, poisoned := g.conn, g.closed, g.err != nil
	g.closed = true
	g.mu.Unlock()
	if again {
		return nil
	}
	defer g.o.onClose()
	if cw, ok := conn.(interface{ CloseWrite() error }); ok && poisoned {
		g.raw.SetDeadline(time.Now().Add(linger))
		if cw.CloseWrite() == nil {
			io.CopyN(io.Discard, g.raw, lingerBytes)
		}
	}
	return conn.Close()
}

// abort closes the connection without ceremony.
func (g *guard) abort() { g.raw.Close() }

func (g *guard) isTLS() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.tls }

// hello tells how the client introduced itself.
func (g *guard) hello() (greeted, esmtp, secure bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.greeted, g.esmtp, g.tls
}

func (g *guard) setOnTLS(f func()) { g.mu.Lock(); defer g.mu.Unlock(); g.onTLS = f }

// begin marks a transaction; drained connections begin none.
func (g *guard) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining || g.err != nil {
		return false
	}
	g.inTx = true
	return true
}

// end marks that the transaction was answered. Chunked messages check their
// own line ends, and their chunk borders may have looked bare to the guard.
func (g *guard) end(chunked bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inData {
		g.active, g.answers = time.Now(), 0
	}
	g.inTx, g.inData = false, false
	if chunked {
		g.bare = false
	}
}

// beginData makes deadlines those of a message.
func (g *guard) beginData() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inData, g.waited, g.got = true, 0, 0
}

func (g *guard) sawBare() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.bare }

// drain ends the connection with 421 as soon as no transaction is open.
func (g *guard) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining = true
	if !g.inTx {
		g.conn.SetReadDeadline(time.Unix(1, 0))
	}
}
