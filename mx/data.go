package mx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/emersion/go-smtp"

	"waypost/internal/lmtp"
	"waypost/mx/spool"
)

// Sizes of the pieces a message is passed on in: the first is small, because
// most messages are.
const (
	firstPiece = 4 << 10
	nextPiece  = 16 << 10
)

// bodyFault is why a message is not taken; poison ends the connection.
type bodyFault struct {
	reply  *smtp.SMTPError
	poison bool
}

// deliver takes the message from r, streams it to all homes and the draft, and
// gives the one answer. bare tells whether the connection saw a bare CR or LF.
func (t *transaction) deliver(r io.Reader, bare func() bool) (reply *smtp.SMTPError, poison bool) {
	draft := t.srv.spool.Draft()
	defer draft.Discard()
	live := make(map[*leg]bool, len(t.legs))
	t.dropIdle()
	for _, l := range t.legs {
		l.start(t.srv.cfg.StallTimeout)
		live[l] = true
	}
	legs := slices.Collect(maps.Values(t.legs))
	cut := context.AfterFunc(t.srv.ctx, func() {
		for _, l := range legs {
			l.Close()
		}
	})
	defer cut()
	start := time.Now()
	fault := t.pump(r, draft, live, bare)
	if fault != nil {
		for l := range live {
			l.abort()
		}
		t.join()
		t.srv.met.messages.WithLabelValues("refused").Inc()
		t.log.Info("message refused", "bytes", draft.Size(), "err", fault.reply)
		return fault.reply, fault.poison
	}
	streamed := time.Now()
	// Before any home can commit: a message that will not fit into the spool
	// is then nobody's, and the sender's next try makes no duplicates.
	held, err := t.reserve(draft)
	if err != nil {
		for l := range live {
			l.abort()
		}
		t.join()
		return t.noSpace(draft, 0, err), false
	}
	for l := range live {
		l.finish()
	}
	t.collect()
	reply = t.settle(draft, held)
	t.srv.met.seconds.WithLabelValues("stream").Observe(streamed.Sub(start).Seconds())
	t.srv.met.seconds.WithLabelValues("commit").Observe(time.Since(streamed).Seconds())
	return reply, false
}

// dropIdle leaves out the homes that accepted nobody.
func (t *transaction) dropIdle() {
	for id, l := range t.legs {
		if len(l.rcpts) > 0 {
			continue
		}
		delete(t.legs, id)
		if err := l.Reset(); err != nil {
			l.Close()
			continue
		}
		t.srv.homes.put(l.conn)
	}
}

// join waits for all legs; their connections are closed.
func (t *transaction) join() {
	for _, l := range t.legs {
		l.wait()
	}
}

// pump copies the message until its end, or until it is at fault.
func (t *transaction) pump(r io.Reader, draft *spool.Draft, live map[*leg]bool, bare func() bool) *bodyFault {
	t.pass([]byte(t.received()), draft, live)
	var lines lineCheck
	var received receivedCount
	buf := make([]byte, firstPiece)
	for {
		n, err := r.Read(buf)
		b := buf[:n] // the legs keep it
		if n < len(buf)/2 {
			b = bytes.Clone(b)
		} else {
			buf = make([]byte, nextPiece)
		}
		if !lines.ok(b) || bare() {
			return &bodyFault{replyBare, true}
		}
		if received.add(b) > maxReceived {
			return &bodyFault{replyLoop, false}
		}
		if n > 0 {
			t.pass(b, draft, live)
		}
		switch {
		case err == io.EOF && !lines.ended():
			return &bodyFault{replyBare, true}
		case err == io.EOF:
			return nil
		case err != nil:
			return readFault(err)
		}
	}
}

// readFault is the answer to a message that broke off. Only a message that is
// too large leaves a connection of use, and an aborted BDAT, which go-smtp
// reports after it has answered.
func readFault(err error) *bodyFault {
	var se *smtp.SMTPError
	switch {
	case err == smtp.ErrDataTooLarge:
		return &bodyFault{smtp.ErrDataTooLarge, false}
	case errors.Is(err, smtp.ErrDataReset):
		return &bodyFault{replyBroken, false}
	case errors.Is(err, smtp.ErrTooLongLine):
		return &bodyFault{replyLongLine, true}
	case errors.As(err, &se):
		return &bodyFault{se, true}
	}
	return &bodyFault{replyBroken, true}
}

// pass hands a piece to the draft and to all homes that keep up. A draft that
// fails is no harm yet: it may not be needed.
func (t *transaction) pass(b []byte, draft *spool.Draft, live map[*leg]bool) {
	draft.Write(b)
	for l := range live {
		if l.send(b, t.srv.cfg.StallTimeout) {
			continue
		}
		delete(live, l)
		l.abort()
		t.log.Warn("home dropped from the message", "home", l.id)
	}
}

// collect waits for the homes' answers and sets what became of each recipient.
func (t *transaction) collect() {
	for _, l := range t.legs {
		replies, err := l.wait()
		if err != nil {
			l.Close()
		} else {
			t.srv.homes.put(l.conn)
		}
		for i, r := range l.rcpts {
			if i < len(replies) {
				t.judge(r, replies[i])
			} else {
				t.setLater(r, "dropped", orErr(err, errStall))
			}
		}
	}
	t.legs = nil
}

func orErr(err, other error) error {
	if err == nil {
		return other
	}
	return err
}

// judge reads a home's answer after the message. Whatever is not final is for
// later; the home may have delivered and the answer be lost, which the
// delivery id makes no harm.
func (t *transaction) judge(r *recipient, reply lmtp.Reply) {
	switch {
	case reply.OK():
		r.status = accepted
	case reply.Permanent() && permanent(passOn(reply)):
		r.status, r.reply, r.cause = refused, passOn(reply), reply.String()
	default:
		t.setLater(r, "commit", errors.New(reply.String()))
	}
}

// settle gives the answer to the message, and makes it true: whoever has it
// not is in the spool before the sender hears 250.
func (t *transaction) settle(draft *spool.Draft, held *reservation) *smtp.SMTPError {
	var left []*recipient
	var never *recipient
	delivered, waiting := 0, 0
	for _, r := range t.order {
		switch {
		case r.status == accepted:
			delivered++
		case r.status == later:
			waiting++
			left = append(left, r)
		case r.dead != "":
			left = append(left, r)
		case r.leg != nil: // refused after it was accepted at RCPT
			never = r
			left = append(left, r)
		}
	}
	waiting += len(t.out.rcpts)
	size := draft.Size()
	if delivered+waiting == 0 {
		held.cancel(t)
	}
	if delivered+waiting == 0 && never == nil {
		return replyNoMail
	}
	if delivered+waiting == 0 {
		t.srv.met.messages.WithLabelValues("rejected").Inc()
		t.log.Info("message rejected by all homes", "bytes", size, "err", never.cause)
		return never.reply
	}
	if len(left) > 0 {
		if err := t.spool(draft, held, left); err != nil {
			held.cancel(t)
			return t.noSpace(draft, delivered, err)
		}
	}
	if held.out != nil {
		held.out.Commit()
	}
	t.srv.met.messages.WithLabelValues("accepted").Inc()
	t.srv.met.bytes.Add(float64(size))
	t.log.Info("message accepted", "from", t.sender, "client", t.from.addr.String(), "rcpts", len(t.rcpts), "bytes", size, "delivered", delivered, "spooled", len(left), "outside", len(t.out.rcpts))
	return answer(250, "2.0.0", "Accepted as "+t.id)
}

// traceInfo is what the Received line tells of the connection.
type traceInfo struct {
	esmtp, secure, auth bool
	date                time.Time
}

// received makes our trace line (RFC 5321, Section 4.4; the protocol names of
// RFC 3848 and RFC 6531, Section 4.3).
func (t *transaction) received() string {
	ip := t.from.addr.Addr().Unmap()
	literal := ip.String()
	if ip.Is6() {
		literal = "IPv6:" + ip.WithZone("").String()
	}
	s := fmt.Sprintf("Received: from %s ([%s])\r\n\tby %s with %s id %s", traceName(t.from.helo), literal, t.srv.cfg.Hostname, t.protocol(), t.id)
	if len(t.rcpts) == 1 && traceName(t.rcpts[0]) == t.rcpts[0] {
		s += "\r\n\tfor <" + t.rcpts[0] + ">"
	}
	return s + ";\r\n\t" + t.trace.date.Format("Mon, 02 Jan 2006 15:04:05 -0700") + "\r\n"
}

func (t *transaction) protocol() string {
	p := "SMTP"
	switch {
	case t.utf8:
		p = "UTF8SMTP"
	case t.trace.esmtp:
		p = "ESMTP"
	}
	if !t.trace.esmtp {
		return p
	}
	if t.trace.secure {
		p += "S"
	}
	if t.trace.auth {
		p += "A"
	}
	return p
}

// traceName makes a client's word fit for a header: printable ASCII without
// what would end or comment the word.
func traceName(s string) string {
	const limit = 255
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s) && i < limit; i++ {
		if c := s[i]; c > ' ' && c < 0x7f && c != '(' && c != ')' && c != '<' && c != '>' && c != ';' && c != '\\' && c != '"' && c != ',' {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return "unknown"
	}
	return string(out)
}
