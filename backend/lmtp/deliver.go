package lmtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// errAborted ends a BDAT sequence for a command that is still to be run.
var errAborted = errors.New("transaction aborted")

// body is a message on its way in. err is nil before its end, io.EOF after it,
// and else why it never comes: that error is not the store's.
type body interface {
	// Read gives the rest of a line at most.
	io.Reader
	// lines is called where a line begins and gives, with LF, those that are there
	// already and in order; none is no error. Not ok: a bare CR was among them.
	lines(p []byte) (n int, ok bool)
	ended() error
}

func (d *dotReader) ended() error { return d.err }

// data takes a message between 354 and the dot (RFC 5321, Section 4.1.1.4).
// There is one reply for each recipient (RFC 2033, Section 4.2).
func (s *session) data(args string) error {
	switch {
	case args != "":
		s.say(syntax("DATA takes no arguments"))
		return nil
	case s.tx == nil:
		s.say(replyNoMail)
		return nil
	case s.tx.failed != nil:
		s.say(replySequence)
		return nil
	case len(s.tx.rcpts) == 0:
		s.say(replyNoRcpt)
		return nil
	}
	s.say(reply{code: 354, text: "go on"})
	in := newDotReader(s.br)
	staged, failure := s.stage(in)
	// Whatever has happened, the next command stands behind the dot.
	if _, err := io.Copy(io.Discard, in); err != nil {
		if staged != nil {
			staged.Discard()
		}
		return fmt.Errorf("body of %s: %w", s.tx.delivery, err)
	}
	s.finish(staged, failure)
	return nil
}

// stage streams a body to the disk. Without a failure there is a message, and
// it is whole.
func (s *session) stage(in body) (mailbox.Staged, *reply) {
	strict := &strictReader{body: in}
	header := traceHeader(s.tx.sender, s.from, s.by, s.tx.delivery, s.tx.utf8, s.srv.opt.Now())
	staged, err := s.srv.opt.Store.Stage(s.ctx, header, newPathReader(strict), s.srv.opt.MaxMessage)
	if err == nil && in.ended() != io.EOF {
		staged.Discard()
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		s.srv.met.bytes.Add(float64(staged.Size()))
		return staged, nil
	}
	failure := errReply(err)
	if strict.bad {
		failure = replyLineEnds
	} else if failure.result == resultError && !lost(in) {
		s.log.Error("lmtp: staging failed", "id", s.tx.delivery, "err", err)
	}
	return nil, &failure
}

// lost: the body will never be complete, whatever the store does.
func lost(in body) bool { return in.ended() != nil && in.ended() != io.EOF }

// atOnce bounds the recipients of one message that are delivered to at a time:
// together they share the flushes of the journal.
const atOnce = 32

// finish answers for each recipient in order and ends the transaction. A
// failure is everybody's.
func (s *session) finish(staged mailbox.Staged, failure *reply) {
	tx, start := s.tx, time.Now()
	answers := make([]reply, len(tx.rcpts))
	switch {
	case failure != nil:
		for i := range answers {
			answers[i] = *failure
		}
	case len(tx.rcpts) == 1:
		answers[0] = s.deliver(tx.rcpts[0], staged)
	default:
		s.deliverAll(staged, answers)
	}
	for _, answer := range answers {
		s.srv.met.deliveries.WithLabelValues(answer.result).Inc()
		s.say(answer)
	}
	size := int64(0)
	if staged != nil {
		size = staged.Size()
		staged.Discard()
	}
	s.srv.met.seconds.Observe(time.Since(start).Seconds())
	s.log.LogAttrs(s.ctx, slog.LevelInfo, "message", slog.String("id", tx.delivery), slog.String("from", tx.sender),
		slog.Int("recipients", len(tx.rcpts)), slog.Int64("size", size), slog.String("results", results(answers)))
	s.reset()
}

// results is what became of the recipients, for the log: "ok", or "ok:2 stale:1".
func results(answers []reply) string {
	if len(answers) == 1 {
		return answers[0].result
	}
	counts := map[string]int{}
	for _, answer := range answers {
		counts[answer.result]++
	}
	var b strings.Builder
	for _, result := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, " %s:%d", result, counts[result])
	}
	return strings.TrimPrefix(b.String(), " ")
}

// deliverAll delivers to several recipients at the same time. Of several of one
// user the first counts; the others come after it, and change nothing.
func (s *session) deliverAll(staged mailbox.Staged, answers []reply) {
	var wg sync.WaitGroup
	var again []int
	seen := map[director.User]bool{}
	slots := make(chan struct{}, atOnce)
	for i, r := range s.tx.rcpts {
		if u := r.box.User(); seen[u] {
			again = append(again, i)
			continue
		} else {
			seen[u] = true
		}
		slots <- struct{}{}
		wg.Go(func() {
			answers[i] = s.deliver(r, staged)
			<-slots
		})
	}
	wg.Wait()
	for _, i := range again {
		answers[i] = s.deliver(s.tx.rcpts[i], staged)
	}
}

// deliver commits the message for one recipient.
func (s *session) deliver(r recipient, staged mailbox.Staged) reply {
	in := Incoming{
		Box: r.box, ID: s.tx.delivery, From: s.tx.sender, To: r.to, Folder: r.folder,
		Message: staged, Accepted: r.tooLate, UTF8: s.tx.utf8,
	}
	answer, err := s.try(r, in)
	for range maxPlans {
		if !errors.Is(err, mailbox.ErrMemory) {
			break
		}
		answer, err = s.try(r, in)
	}
	if err == nil {
		return answer
	}
	if !errors.Is(err, context.Canceled) {
		s.unexpected("deliver", r.box.User(), err)
	}
	return errReply(err)
}

// maxPlans is how often a message is planned anew because another one, that came
// at the same time, was remembered first.
const maxPlans = 50

// try plans the message and commits the plan.
func (s *session) try(r recipient, in Incoming) (reply, error) {
	plan, err := keepAll(in), error(nil)
	if s.srv.opt.Filter != nil {
		plan, err = s.srv.opt.Filter.Run(s.ctx, in)
	}
	if plan.Discard != nil {
		defer plan.Discard()
	}
	if err != nil {
		return reply{}, err
	}
	if plan.Reject != "" {
		s.log.Info("rejected by a filter", "id", in.ID, "user", r.box.User())
		return replyRejected(plan.Reject), nil
	}
	d := plan.Delivery
	d.ID, d.Message, d.Force = in.ID, in.Message, r.force
	if err := r.box.Deliver(s.ctx, d); err != nil {
		return reply{}, err
	}
	return errReply(nil), nil
}

// bdat takes a message in chunks (RFC 3030, Section 2). Its octets are read in
// any case: they are not commands.
func (s *session) bdat(args string) error {
	size, last, ok := parseBDAT(args)
	if !ok {
		return errBadChunk
	}
	if s.tx == nil || len(s.tx.rcpts) == 0 {
		if err := s.discard(size); err != nil {
			return err
		}
		s.say(replyNoRcpt)
		return nil
	}
	if s.tx.failed != nil {
		return s.bdatFailed(size, last)
	}
	in := &chunkReader{s: s, left: size, last: last}
	staged, failure := s.stage(in)
	if failure == nil {
		s.finish(staged, nil)
		return nil
	}
	switch {
	case errors.Is(in.err, errAborted):
		return nil // the command that did it is pending
	case lost(in):
		return fmt.Errorf("body of %s: %w", s.tx.delivery, in.err)
	}
	s.tx.failed = failure
	return s.bdatFailed(in.left, in.last)
}

// bdatFailed discards size octets of a message that failed already. The last
// chunk has a reply for each recipient even so (RFC 2033, Section 4.3), the
// others have one.
func (s *session) bdatFailed(size int64, last bool) error {
	if err := s.discard(size); err != nil {
		return err
	}
	if last {
		s.finish(nil, s.tx.failed)
	} else {
		s.say(*s.tx.failed)
	}
	return nil
}

func (s *session) discard(size int64) error {
	_, err := io.CopyN(io.Discard, s.br, size)
	return unexpected(err)
}

// chunkReader reads the chunks of a message as one. Between them it answers
// and takes the next command by itself, so that the store can go on reading.
type chunkReader struct {
	s    *session
	left int64 // of the chunk
	last bool
	err  error
}

func (c *chunkReader) ended() error { return c.err }

func (c *chunkReader) Read(p []byte) (int, error) {
	for c.err == nil && c.left == 0 {
		if c.last {
			c.err = io.EOF
		} else {
			c.s.say(reply{code: 250, enhanced: "2.0.0", text: "chunk taken"})
			c.err = c.nextChunk()
		}
	}
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if _, err := c.s.br.Peek(1); err != nil {
		c.err = unexpected(err)
		return 0, c.err
	}
	window := c.window()
	if i := bytes.IndexByte(window, '\n'); i >= 0 {
		window = window[:i+1]
	}
	n := copy(p, window)
	c.take(n)
	return n, nil
}

func (c *chunkReader) lines(p []byte) (n int, ok bool) {
	n, taken, ok := shortLines(p, c.window(), false)
	c.take(taken)
	return n, ok
}

// window is what is there of the chunk.
func (c *chunkReader) window() []byte {
	window, _ := c.s.br.Peek(int(min(int64(c.s.br.Buffered()), c.left))) // cannot fail: it is buffered
	return window
}

func (c *chunkReader) take(n int) {
	c.s.br.Discard(n)
	c.left -= int64(n)
}

// nextChunk waits for the next BDAT. NOOP may come between; RSET, QUIT and a
// new LHLO end the sequence.
func (c *chunkReader) nextChunk() error {
	for {
		cmd, err := c.s.readCommand()
		if err != nil {
			return unexpected(err)
		}
		switch cmd.verb {
		case "BDAT":
			size, last, ok := parseBDAT(cmd.args)
			if !ok {
				return errBadChunk
			}
			c.left, c.last = size, last
			return nil
		case "NOOP":
			c.s.say(replyOK)
		case "RSET", "QUIT", "LHLO":
			c.s.pending = &cmd
			return errAborted
		default:
			if c.s.bad++; c.s.bad > maxBadCommands {
				return errTooBad
			}
			c.s.say(replySequence)
		}
	}
}

var _ body = (*chunkReader)(nil)
var _ body = (*dotReader)(nil)
