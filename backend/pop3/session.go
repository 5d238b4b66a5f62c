package pop3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"

	"waypost/backend/link"
	"waypost/backend/mailbox"
	"waypost/internal/poplist"
	"waypost/internal/popwords"
)

// maxBadCommands in a row end a session.
const maxBadCommands = 20

// seenBatch is how many retrieved messages may wait for their \Seen.
const seenBatch = 100

// output is the way to the client: a link.Writer.
type output interface {
	io.Writer
	io.ByteWriter
	io.StringWriter
	Flush() error
}

// session is one connection. All of it belongs to the goroutine of Serve.
type session struct {
	srv  *Server
	box  mailbox.Box
	link *link.Link
	br   *bufio.Reader
	out  output
	log  *slog.Logger

	// id and client are for logs, and for who goes on with the session.
	id, client string

	// folder, as it was when the session began, here or elsewhere.
	folder   mailbox.Folder
	identity string
	validity uint32
	next     mailbox.UID
	modseq   uint64
	messages mailbox.Messages
	// ids are the unique ids that are others than form's.
	ids     map[int]string
	heads   heads
	deleted map[int]bool // by index in messages
	form    UIDL
	// login are the capabilities that the login decides about.
	login []string
	// utf8: the client takes UTF-8 in headers.
	utf8   bool
	older  map[mailbox.UID]mailbox.OlderID // where form is another server's
	unseen []int                           // retrieved, \Seen still to be set

	// octets are those of all messages, marked those of the deleted ones.
	octets, marked int64

	// input is what another backend has read of the client, until the session runs, and
	// allowed how long the first command may take to come.
	input   []byte
	allowed time.Duration
	// line is what was read of the command under way; from, the message number where it goes
	// on if it is a listing that was cut, or 0. midway: it has been answered in part, in a way
	// that nobody can go on with.
	line   []byte
	from   int
	midway bool

	bad, retrieved, removed int
	quit                    bool
}

func newSession(srv *Server, ses *Session) *session {
	return &session{
		srv: srv, box: ses.Box, id: ses.ID, client: ses.Client,
		log:     srv.opt.Log.With("user", string(ses.Box.User()), "client", ses.Client, "session", ses.ID),
		deleted: map[int]bool{}, form: ses.form(srv), login: ses.capabilities(srv), utf8: ses.UTF8,
		allowed: srv.opt.Idle,
	}
}

// attach gives it its connection.
func (s *session) attach(ctx context.Context, conn net.Conn) {
	opt := &s.srv.opt
	s.link = link.New(ctx, conn, s.box.Done(), link.Options{
		Write: opt.Write, Linger: opt.Linger, Buffers: &s.srv.out, Moved: ErrMoved, Idle: ErrIdle,
		Before: s.input, Checkpoints: &s.srv.checkpoints, State: s.checkpoint,
		Points: link.Points{Base: s.base, AppendTip: s.appendTip},
	})
	s.input = nil
	s.out, s.br = s.link.Out, bufio.NewReaderSize(s.link, readBuffer)
}

// run executes commands until QUIT.
func (s *session) run() error {
	for !s.quit {
		cmd, ok, err := s.readCommand()
		if err != nil {
			return err
		}
		if err := s.link.Stopped(); err != nil {
			return err
		}
		if ok {
			err = s.execute(cmd)
		} else {
			err = s.reject("not a command")
		}
		if err != nil {
			return err
		}
		s.line, s.from = nil, 0
	}
	return s.out.Flush()
}

// open begins a session with the inbox as it is.
func (s *session) open() error {
	snap, err := s.openFolder()
	if err != nil {
		return err
	}
	s.next, s.modseq, s.messages = snap.UIDNext, snap.HighestModSeq, snap.Messages
	for _, m := range s.messages.All() {
		s.octets += m.WireSize
	}
	return nil
}

func (s *session) openFolder() (mailbox.Snapshot, error) {
	folder, err := s.box.Folder(mailbox.Inbox)
	if err != nil {
		return mailbox.Snapshot{}, err
	}
	snap, err := folder.Snapshot()
	if err != nil {
		return mailbox.Snapshot{}, err
	}
	s.folder, s.identity, s.validity, s.heads = folder, snap.ID, snap.UIDValidity, newHeads(folder)
	if ids, ok := folder.(mailbox.OlderIDs); ok && s.form.older {
		s.older, err = ids.OlderIDs()
	}
	return snap, err
}

// finish is what is left to do when the session has ended in err.
func (s *session) finish(err error) {
	if !errors.Is(err, ErrMoved) {
		_ = s.markSeen(s.quit) // a client that left is gone, wherever its mailbox is
	}
	if errors.Is(err, ErrMoved) || errors.Is(err, ErrAbuse) {
		s.link.Part()
	}
}

// moved makes ErrMoved of what a fence says, or of any failure once the fence
// has left: whatever goes wrong then is the move's doing. A mailbox that was
// closed under the session, or a folder numbered anew, is the same to it: what
// it was told does not hold any more.
func (s *session) moved(err error) error {
	if err == nil || errors.Is(err, ErrMoved) {
		return err
	}
	over := slices.ContainsFunc([]error{
		mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed, mailbox.ErrRenumbered,
	}, func(end error) bool { return errors.Is(err, end) })
	if over || s.link != nil && errors.Is(s.link.Stopped(), ErrMoved) {
		return fmt.Errorf("%w: %w", ErrMoved, err)
	}
	return err
}

func (s *session) execute(cmd command) error {
	switch cmd.name {
	case "LANG": // RFC 6856, Section 3
		s.bad = 0
		_, err := s.out.WriteString(popwords.Lang(cmd.args))
		return err
	case "UTF8": // RFC 6856, Section 2.1: in the AUTHORIZATION state only
		return s.reject("UTF8 is for before the login")
	case poplist.Command:
		return s.listing(cmd.args)
	}
	do, least, most := s.lookup(cmd.name)
	if do == nil {
		return s.reject("unknown command")
	}
	args := make([]int, len(cmd.args))
	for i, arg := range cmd.args {
		n, ok := number(arg)
		if !ok {
			return s.reject("want a number")
		}
		args[i] = n
	}
	if len(args) < least || len(args) > most {
		return s.reject("wrong number of arguments")
	}
	s.bad = 0
	return do(args)
}

// lookup finds a command (RFC 1939, Sections 5 to 7; RFC 2449, Section 5) and
// how many arguments it takes.
func (s *session) lookup(name string) (do func([]int) error, least, most int) {
	switch name {
	case "STAT":
		return s.stat, 0, 0
	case "LIST":
		return s.list, 0, 1
	case "UIDL":
		return s.uidl, 0, 1
	case "RETR":
		return s.retr, 1, 1
	case "TOP":
		return s.top, 2, 2
	case "DELE":
		return s.dele, 1, 1
	case "RSET":
		return s.rset, 0, 0
	case "NOOP":
		return s.noop, 0, 0
	case "CAPA":
		return s.capa, 0, 0
	case "QUIT":
		return s.bye, 0, 0
	}
	return nil, 0, 0
}

// say buffers a line; the link sends it before it waits for the client, so
// that pipelined commands are answered in few packets. A failed write stays
// with the buffer and shows at the next flush.
func (s *session) say(format string, args ...any) error {
	_, err := fmt.Fprintf(s.out, format+"\r\n", args...)
	return err
}

// reject answers what cannot be understood, a limited number of times.
func (s *session) reject(why string) error {
	if s.bad++; s.bad > maxBadCommands {
		s.say("-ERR too many bad commands")
		return ErrAbuse
	}
	return s.say("-ERR %s", why)
}

// fail answers for a store that failed; a fence ends the session instead.
func (s *session) fail(op string, err error) error {
	if err = s.moved(err); errors.Is(err, ErrMoved) {
		return err
	}
	if errors.Is(err, mailbox.ErrNoMessage) {
		return s.say("-ERR message was removed by another session")
	}
	s.log.Error("pop3: "+op+" failed", "err", err)
	return s.say("-ERR [SYS/TEMP] internal error, try again later") // RFC 3206
}

// index turns a message number into an index; the answer to a wrong one is
// given here.
func (s *session) index(n int) (i int, ok bool, err error) {
	switch {
	case n < 1 || n > s.messages.Len():
		return 0, false, s.say("-ERR no such message")
	case s.deleted[n-1]:
		return 0, false, s.say("-ERR message %d is deleted", n)
	}
	return n - 1, true, nil
}

// drop counts the messages that are not marked deleted, and their octets.
func (s *session) drop() (count int, octets int64) {
	return s.messages.Len() - len(s.deleted), s.octets - s.marked
}

func (s *session) stat([]int) error {
	count, octets := s.drop()
	return s.say("+OK %d %d", count, octets)
}

func (s *session) dele(args []int) error {
	i, ok, err := s.index(args[0])
	if !ok {
		return err
	}
	s.deleted[i] = true
	s.marked += s.messages.At(i).WireSize
	return s.say("+OK message %d deleted", i+1)
}

func (s *session) rset([]int) error {
	clear(s.deleted)
	s.marked = 0
	count, octets := s.drop()
	return s.say("+OK %d messages (%d octets)", count, octets)
}

func (s *session) noop([]int) error { return s.say("+OK") }

// capa lists what the proxy has listed before the login (RFC 2449, Section 5).
func (s *session) capa([]int) error {
	s.say("+OK capabilities follow")
	for _, line := range slices.Concat(popwords.Common(), s.login) {
		s.say("%s", line)
	}
	return s.say(".")
}

// bye is QUIT and the UPDATE state (RFC 1939, Section 6). Where the removal
// failed the RFC asks for -ERR; Expunge that failed has removed nothing, so
// the client finds all its messages again. Where it is a move that forbids
// it, even that error is not shown: QUIT is executed at the new home. Where the
// session cannot be handed off the connection ends without an answer,
// which means to a client, as any lost connection, that nothing was removed,
// and it deletes at the new home what it meant to.
func (s *session) bye([]int) error {
	var uids []mailbox.UID
	for _, i := range slices.Sorted(maps.Keys(s.deleted)) {
		uids = append(uids, s.messages.At(i).UID)
	}
	if err := s.markSeen(true); err != nil {
		return err
	}
	if len(uids) > 0 {
		gone, err := s.folder.Expunge(uids)
		if err = s.moved(err); errors.Is(err, ErrMoved) {
			return err
		}
		if err != nil {
			s.quit = true
			s.say("-ERR [SYS/TEMP] some deleted messages not removed")
			s.link.Out.Flush()
			return fmt.Errorf("expunge: %w", err)
		}
		s.removed = len(gone)
		s.srv.met.expunged.Add(float64(len(gone)))
	}
	s.quit = true
	return s.say("+OK bye")
}

// markSeen sets \Seen on what was retrieved, and is not to be deleted if the session quits; best
// effort, as it is no promise of POP3. ErrMoved: it is to be set where the session goes on.
func (s *session) markSeen(quits bool) error {
	var uids []mailbox.UID
	for _, i := range s.unseen {
		if !(quits && s.deleted[i]) {
			uids = append(uids, s.messages.At(i).UID)
		}
	}
	if len(uids) > 0 {
		_, err := s.folder.SetFlags(uids, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Seen}})
		if err = s.moved(err); errors.Is(err, ErrMoved) {
			return err
		}
		if err != nil {
			s.log.Warn("pop3: setting \\Seen failed", "err", err)
		}
	}
	s.unseen = s.unseen[:0]
	return nil
}
