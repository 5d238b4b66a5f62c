package lmtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"waypost/internal/wire"
)

// readBuffer is larger than a command line and takes a body in few reads.
const readBuffer = 32 << 10

// maxBadCommands is how many unknown or malformed commands a session may send.
const maxBadCommands = 100

var (
	errLongLine = errors.New("command line too long")
	errBadChunk = errors.New("BDAT without a readable size")
	errTooBad   = errors.New("too many bad commands")
)

// session is one connection. All of it belongs to the goroutine of Serve.
type session struct {
	srv  *Server
	ctx  context.Context
	link *link
	br   *bufio.Reader
	peer string
	// from and by are what a trace line says of the peer and of us.
	from, by string
	log      *slog.Logger

	greeted bool // LHLO was said
	tx      *transaction
	// pending is a command that ended a BDAT sequence and is still to be run.
	pending *command
	bad     int
	quit    bool
}

func newSession(ctx context.Context, srv *Server, conn net.Conn, peer string) *session {
	limits := srv.opt.Limits
	l := newLink(ctx, conn, srv.opt.Draining, limits)
	return &session{
		srv: srv, ctx: ctx, link: l, peer: peer,
		from: traceFrom(peer), by: traceWord(srv.opt.Hostname),
		br:  bufio.NewReaderSize(l, max(readBuffer, limits.Line)),
		log: srv.opt.Log.With("peer", peer),
	}
}

// run greets and executes commands until the connection is over. io.EOF is a
// peer that hung up, nil one that said QUIT.
func (s *session) run() error {
	s.say(reply{code: 220, text: s.srv.opt.Hostname + " LMTP Waypost"})
	for !s.quit {
		cmd, err := s.next()
		if err == nil {
			err = s.execute(cmd)
		}
		if err != nil {
			return s.farewell(err)
		}
	}
	return s.link.out.Flush()
}

// farewell tells a peer that may still listen why the connection ends.
func (s *session) farewell(err error) error {
	switch {
	case errors.Is(err, errDraining):
		s.say(reply{code: 421, enhanced: "4.3.2", text: s.srv.opt.Hostname + " is shutting down"})
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.say(reply{code: 421, enhanced: "4.4.2", text: "time-out"})
	case errors.Is(err, errLongLine):
		s.say(reply{code: 500, enhanced: "5.5.2", text: "line too long"})
	case errors.Is(err, errBadChunk):
		s.say(syntax("BDAT size [LAST]"))
	case errors.Is(err, errTooBad):
		s.say(reply{code: 421, enhanced: "4.7.0", text: "too many bad commands"})
	default:
		return err
	}
	s.link.out.Flush() // a peer that is gone does not hear it
	return err
}

// say buffers a reply; the link sends it before it waits for the peer.
func (s *session) say(r reply) { s.link.out.Write(r.append(s.link.out.AvailableBuffer())) }

func (s *session) next() (command, error) {
	if cmd := s.pending; cmd != nil {
		s.pending = nil
		return *cmd, nil
	}
	return s.readCommand()
}

// readCommand reads a line. One that is too long ends the connection: its
// rest must not be taken for commands.
func (s *session) readCommand() (command, error) {
	s.link.until = time.Now().Add(s.srv.opt.Limits.Command)
	s.link.idle.Store(s.tx == nil)
	line, err := s.br.ReadSlice('\n')
	s.link.idle.Store(false)
	s.link.until = time.Time{}
	if errors.Is(err, bufio.ErrBufferFull) || len(line) > s.srv.opt.Limits.Line {
		return command{}, errLongLine
	}
	if err == io.EOF && len(line) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return command{}, err
	}
	text, whole := bytes.CutSuffix(line, crlf)
	if !whole || bytes.ContainsAny(text, "\r\x00") {
		return command{}, nil // no verb: answered as a bad command
	}
	return parseCommand(string(text)), nil
}

func (s *session) execute(cmd command) error {
	switch cmd.verb {
	case "LHLO":
		s.lhlo(cmd.args)
	case "MAIL":
		s.mail(cmd.args)
	case "RCPT":
		s.rcpt(cmd.args)
	case "DATA":
		return s.data(cmd.args)
	case "BDAT":
		return s.bdat(cmd.args)
	case "RSET":
		s.reset()
		s.say(replyOK)
	case "NOOP":
		s.say(replyOK)
	case "QUIT":
		s.quit = true
		s.say(reply{code: 221, enhanced: "2.0.0", text: "bye"})
	case "VRFY": // RFC 5321, Section 3.5.3
		s.say(reply{code: 252, enhanced: "2.1.5", text: "send mail to find out"})
	case "HELP":
		s.say(reply{code: 214, enhanced: "2.0.0", text: "LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY"})
	default: // HELO and EHLO too (RFC 2033, Section 4.1)
		if s.bad++; s.bad > maxBadCommands {
			return errTooBad
		}
		s.say(reply{code: 500, enhanced: "5.5.1", text: "command not recognised"})
	}
	return nil
}

// lhlo announces what is understood (RFC 2033, Section 4.1).
func (s *session) lhlo(args string) {
	if args == "" {
		s.say(syntax("LHLO name"))
		return
	}
	s.reset()
	s.greeted = true
	size := "SIZE"
	if limit := s.srv.opt.MaxMessage; limit > 0 {
		size += " " + strconv.FormatInt(limit, 10)
	}
	lines := []string{
		s.srv.opt.Hostname, "PIPELINING", size, "8BITMIME", "SMTPUTF8", "CHUNKING",
		"ENHANCEDSTATUSCODES", wire.ExtWaypost,
	}
	for i, line := range lines {
		separator := '-'
		if i == len(lines)-1 {
			separator = ' '
		}
		fmt.Fprintf(s.link.out, "250%c%s\r\n", separator, line)
	}
}

// reset ends the transaction (RFC 5321, Section 4.1.1.5).
func (s *session) reset() {
	if s.tx != nil {
		s.tx.close()
		s.tx = nil
	}
}
