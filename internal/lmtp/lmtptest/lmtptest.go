// Package lmtptest is a scripted LMTP server (RFC 2033) for tests of those who
// speak to one. It runs on a loopback port, answers each command as the test
// says, and keeps what it was given, byte for byte. It is strict: a command or
// body line that does not end in CRLF fails the test.
package lmtptest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Rcpt is one accepted or refused RCPT TO.
type Rcpt struct {
	Addr   string // as written between the brackets
	Params map[string]string
}

// Message is one message that got to its end.
type Message struct {
	From    string
	Params  map[string]string // of MAIL FROM
	Rcpts   []Rcpt            // the accepted ones, in order
	Body    []byte            // unstuffed
	Chunked bool              // by BDAT
}

// Script says how a Server answers. A nil function answers 250.
type Script struct {
	Ext []string // extensions of LHLO
	// Mail and Rcpt give the reply line without CRLF.
	Mail func(from string, params map[string]string) string
	Rcpt func(r Rcpt) string
	// End gives the replies, one for each accepted recipient.
	End func(m Message) []string
	// Body, if set, reads the message in place of the server: to stall, or to
	// count without keeping. EOF is the end of the message.
	Body func(r io.Reader) ([]byte, error)
	// XClient sees the arguments of XCLIENT.
	XClient func(args string)
}

// Server is a running scripted server.
type Server struct {
	t  testing.TB
	ln net.Listener

	mu       sync.Mutex
	script   Script
	messages []Message
	conns    map[net.Conn]bool
	accepted int
	commands []string
	wg       sync.WaitGroup
	arrived  chan struct{}
}

// Full is the set of extensions a Waypost backend announces.
var Full = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "SIZE 0", "XWAYPOST"}

// New starts a server that ends with the test.
func New(t testing.TB, s Script) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &Server{t: t, ln: ln, script: s, conns: map[net.Conn]bool{}, arrived: make(chan struct{}, 1)}
	srv.wg.Go(srv.accept)
	t.Cleanup(srv.Close)
	return srv
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// SetScript changes the script for what follows.
func (s *Server) SetScript(sc Script) { s.mu.Lock(); defer s.mu.Unlock(); s.script = sc }

func (s *Server) sc() Script { s.mu.Lock(); defer s.mu.Unlock(); return s.script }

// Close ends the listener and all connections.
func (s *Server) Close() {
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Messages are those that came so far.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Commands are the command lines that came so far, of all connections.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Conns counts the connections that were made.
func (s *Server) Conns() int { s.mu.Lock(); defer s.mu.Unlock(); return s.accepted }

// WaitMessages waits until n messages came.
func (s *Server) WaitMessages(n int) []Message {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if m := s.Messages(); len(m) >= n {
			return m
		}
		select {
		case <-s.arrived:
		case <-deadline:
			s.t.Fatalf("%d messages came, not %d", len(s.Messages()), n)
		}
	}
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.accepted++
		s.mu.Unlock()
		s.wg.Go(func() {
			defer c.Close()
			(&session{s: s, r: bufio.NewReader(c), w: c}).run()
		})
	}
}

type session struct {
	s   *Server
	r   *bufio.Reader
	w   io.Writer
	msg Message
}

func (c *session) say(lines ...string) {
	for _, l := range lines {
		io.WriteString(c.w, l+"\r\n")
	}
}

func (c *session) line() (string, bool) {
	l, err := c.r.ReadString('\n')
	if err != nil {
		return "", false
	}
	if !strings.HasSuffix(l, "\r\n") {
		c.s.t.Errorf("command %q does not end in CRLF", l)
		return "", false
	}
	return strings.TrimSuffix(l, "\r\n"), true
}

func (c *session) run() {
	c.say("220 test LMTP")
	for {
		l, ok := c.line()
		if !ok {
			return
		}
		c.s.mu.Lock()
		c.s.commands = append(c.s.commands, l)
		c.s.mu.Unlock()
		verb, arg, _ := strings.Cut(l, " ")
		switch strings.ToUpper(verb) {
		case "LHLO", "EHLO":
			c.hello()
		case "XCLIENT":
			if f := c.s.sc().XClient; f != nil {
				f(arg)
			}
			c.say("220 test LMTP again")
		case "MAIL":
			c.mail(arg)
		case "RCPT":
			c.rcpt(arg)
		case "DATA":
			c.data()
		case "BDAT":
			if !c.bdat(arg) {
				return
			}
		case "RSET":
			c.msg = Message{}
			c.say("250 2.0.0 reset")
		case "QUIT":
			c.say("221 2.0.0 bye")
			return
		default:
			c.say("500 5.5.2 what?")
		}
	}
}

func (c *session) hello() {
	ext := c.s.sc().Ext
	if len(ext) == 0 {
		c.say("250 test")
		return
	}
	c.say("250-test")
	for i, e := range ext {
		sep := "-"
		if i == len(ext)-1 {
			sep = " "
		}
		c.say("250" + sep + e)
	}
}

// parsePath takes "FROM:<a@b> K=V ..." apart.
func parsePath(arg string) (string, map[string]string) {
	_, rest, _ := strings.Cut(arg, "<")
	end := strings.LastIndexByte(rest, '>')
	params := map[string]string{}
	for _, p := range strings.Fields(rest[end+1:]) {
		k, v, _ := strings.Cut(p, "=")
		params[k] = v
	}
	return rest[:end], params
}

func (c *session) mail(arg string) {
	c.msg = Message{}
	c.msg.From, c.msg.Params = parsePath(arg)
	answer := "250 2.1.0 ok"
	if f := c.s.sc().Mail; f != nil {
		answer = f(c.msg.From, c.msg.Params)
	}
	c.say(answer)
}

func (c *session) rcpt(arg string) {
	var r Rcpt
	r.Addr, r.Params = parsePath(arg)
	answer := "250 2.1.5 ok"
	if f := c.s.sc().Rcpt; f != nil {
		answer = f(r)
	}
	if strings.HasPrefix(answer, "2") {
		c.msg.Rcpts = append(c.msg.Rcpts, r)
	}
	c.say(answer)
}

func (c *session) data() {
	if len(c.msg.Rcpts) == 0 {
		c.say("503 5.5.1 no recipients")
		return
	}
	c.say("354 go ahead")
	pr, pw := io.Pipe()
	go func() {
		for start := true; ; {
			l, err := c.r.ReadBytes('\n')
			if err != nil {
				pw.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			if start && string(l) == ".\r\n" {
				pw.Close()
				return
			}
			if start {
				l = bytes.TrimPrefix(l, []byte("."))
			}
			pw.Write(l)
			start = bytes.HasSuffix(l, []byte("\r\n"))
		}
	}()
	c.finish(pr, false)
}

func (c *session) bdat(arg string) bool {
	pr, pw := io.Pipe()
	fed := make(chan bool, 1)
	go func() {
		for {
			size, last, _ := strings.Cut(arg, " ")
			n, err := strconv.ParseInt(size, 10, 64)
			if err != nil {
				c.s.t.Errorf("BDAT %q", arg)
			}
			if _, err := io.CopyN(pw, c.r, n); err != nil {
				pw.CloseWithError(io.ErrUnexpectedEOF)
				fed <- false
				return
			}
			if last == "LAST" {
				pw.Close()
				fed <- true
				return
			}
			c.say("250 2.0.0 chunk")
			l, ok := c.line()
			if !ok || !strings.HasPrefix(l, "BDAT ") {
				pw.CloseWithError(io.ErrUnexpectedEOF)
				fed <- false
				return
			}
			arg = strings.TrimPrefix(l, "BDAT ")
		}
	}()
	c.finish(pr, true)
	pr.CloseWithError(io.ErrClosedPipe)
	return <-fed
}

// finish reads the message and answers; an aborted one is forgotten.
func (c *session) finish(r io.Reader, chunked bool) {
	sc := c.s.sc()
	read := sc.Body
	if read == nil {
		read = io.ReadAll
	}
	body, err := read(r)
	if err != nil {
		return
	}
	m := c.msg
	m.Body, m.Chunked = body, chunked
	c.msg = Message{}
	answers := make([]string, len(m.Rcpts))
	for i := range answers {
		answers[i] = "250 2.0.0 delivered"
	}
	if sc.End != nil {
		answers = sc.End(m)
	}
	c.s.mu.Lock()
	c.s.messages = append(c.s.messages, m)
	c.s.mu.Unlock()
	select {
	case c.s.arrived <- struct{}{}:
	default:
	}
	c.say(answers...)
}
