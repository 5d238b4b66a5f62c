package mx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"waypost/director"
	"waypost/internal/lmtp"
	"waypost/internal/wire"
	"waypost/mx/spool"
)

// slots bounds how many tries of the spool are at one home, so that a home that
// hangs does not take them all.
type slots struct {
	limit int
	mu    sync.Mutex
	used  map[director.BackendID]int
}

func newSlots(concurrency int) *slots {
	return &slots{limit: max(1, concurrency/2), used: map[director.BackendID]int{}}
}

func (s *slots) take(id director.BackendID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[id] >= s.limit {
		return false
	}
	s.used[id]++
	return true
}

func (s *slots) give(id director.BackendID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[id]--; s.used[id] == 0 {
		delete(s.used, id)
	}
}

// try is one attempt to deliver a spool entry. A 250 was given for it, so
// nothing here refuses: homes are told XACCEPTED.
type try struct {
	srv *Server
	a   spool.Attempt
	log *slog.Logger
	res spool.Result
	// tried: some home's turn came.
	tried bool
	// stale are the records that homes called stale in this attempt.
	stale map[director.User]director.Record
}

// retry delivers a spool entry as far as it goes now: all recipients of one
// home in one transaction.
func (srv *Server) retry(ctx context.Context, a spool.Attempt) spool.Result {
	t := &try{srv: srv, a: a, log: srv.log.With("delivery", a.Envelope.ID), stale: map[director.User]director.Record{}}
	t.res = spool.Result{Dead: map[director.User]string{}, Later: map[director.User]spool.Later{}}
	open := a.Envelope.Recipients
	for round := 0; round < maxRounds && len(open) > 0 && ctx.Err() == nil; round++ {
		groups := map[director.BackendID][]spool.Recipient{}
		for _, r := range open {
			home := r.Home
			if rec, known, _ := srv.dir.Location(r.User); known {
				home = rec.Home
			}
			groups[home] = append(groups[home], r)
		}
		open = nil
		for home, rs := range groups {
			open = append(open, t.home(ctx, home, rs)...)
		}
	}
	for _, r := range open {
		t.later(r.User, "", errRestless)
	}
	level := slog.LevelInfo
	if !t.tried {
		level = slog.LevelDebug // a spool that waits for its turn is no event
	}
	t.log.Log(ctx, level, "spool entry tried", "attempt", a.Attempts+1, "delivered", len(t.res.Done), "dead", len(t.res.Dead),
		"left", len(a.Envelope.Recipients)-len(t.res.Done)-len(t.res.Dead))
	return t.res
}

// maxRounds bounds how often one attempt follows users who turn out to live
// elsewhere.
const maxRounds = 3

var errRestless = errors.New("the record keeps changing")

// placed is a recipient with the record it is sent by.
type placed struct {
	spool.Recipient
	rec director.Record
}

func (t *try) later(u director.User, home director.BackendID, why error) {
	t.res.Later[u] = spool.Later{Home: home, Error: why.Error()}
}

// locate gives the record if the user can be delivered to now. The memory is
// enough only for the very record by which the mail was accepted: a home that
// has that epoch no more refuses it. All else is decided by one linearizable
// read of location and account (R12), so nobody is called gone, or another
// person, from memory.
func (t *try) locate(ctx context.Context, r spool.Recipient) (director.Record, bool) {
	rec, known, _ := t.srv.dir.Location(r.User)
	_, wasStale := t.stale[r.User]
	if known && rec.State == director.Active && rec.Epoch == r.Epoch && !wasStale && t.a.Attempts == 0 {
		return rec, true
	}
	ctx, cancel := context.WithTimeout(ctx, t.srv.cfg.DirectoryTimeout)
	defer cancel()
	now, acct, exists, err := t.srv.dir.FreshUser(ctx, r.User)
	switch {
	case errors.Is(err, director.ErrNotFound):
		t.bury(r, "the user is gone")
	case err != nil && known && rec.State == director.Active && rec.Epoch == r.Epoch && !wasStale:
		return rec, true // the directory is away, and this is still safe
	case err != nil:
		t.later(r.User, r.Home, err)
	case now.State == director.Deleted:
		t.bury(r, "the user is gone")
	case exists && !t.samePerson(r, now, acct):
		t.bury(r, "the user was deleted and another made of the same name")
	case now.State == director.Busy:
		t.later(r.User, now.Home, errors.New("the user is being moved"))
	default:
		return now, true
	}
	return now, false
}

// samePerson tells whether the account of now is of whom the mail was accepted
// for. Where that account was not known: one that was made later is not.
func (t *try) samePerson(r spool.Recipient, now director.Record, acct director.Account) bool {
	switch {
	case now.Epoch == r.Epoch: // a tombstone would have raised it
		return true
	case r.AccountCreated.IsZero():
		return !acct.Created.After(t.a.Envelope.Received)
	}
	return acct.Created.Equal(r.AccountCreated)
}

// bury leaves a dead letter: never to a bounce, always to the operator.
func (t *try) bury(r spool.Recipient, why string) {
	t.srv.met.deadLetters.Inc()
	t.log.Error("ALARM: dead letter: accepted mail has no recipient any more", "user", r.User, "reason", why)
	t.res.Dead[r.User] = why
}

// home delivers to the recipients who are thought to be at one home, and gives
// those who are to be looked for again.
func (t *try) home(ctx context.Context, id director.BackendID, rs []spool.Recipient) (again []spool.Recipient) {
	// First of all: what waits for a slow home costs the directory nothing.
	if !t.srv.slots.take(id) {
		for _, r := range rs {
			t.later(r.User, id, errors.New("waiting for a turn at this home"))
		}
		if len(t.res.Later) == len(t.a.Envelope.Recipients) {
			t.res.Soon = time.Second
		}
		return nil
	}
	defer t.srv.slots.give(id)
	t.tried = true
	var ps []placed
	for _, r := range rs {
		if r.Refused != "" {
			t.bury(r, r.Refused)
			continue
		}
		switch rec, ok := t.locate(ctx, r); {
		case !ok:
		case rec.Home != id:
			again = append(again, r) // the memory knows it by now
		default:
			ps = append(ps, placed{r, rec})
		}
	}
	if len(ps) == 0 {
		return again
	}
	stale, err := t.transfer(ctx, id, ps, false)
	if errors.Is(err, errReused) {
		stale, err = t.transfer(ctx, id, ps, true)
	}
	if err != nil {
		t.log.Info("spool entry waits for its home", "home", id, "err", err)
		t.all(ps, err)
	}
	return append(again, stale...)
}

func (t *try) all(ps []placed, why error) {
	for _, p := range ps {
		t.later(p.User, p.rec.Home, why)
	}
}

// errReused: a connection that was idle broke before anything was sent by it.
var errReused = errors.New("idle connection had ended")

// transfer is one LMTP transaction. With an error nobody was delivered to, or
// it is not known who.
func (t *try) transfer(ctx context.Context, id director.BackendID, ps []placed, fresh bool) ([]spool.Recipient, error) {
	e := t.a.Envelope
	addr, _ := netip.ParseAddrPort(e.Client)
	c, err := t.srv.homes.get(ctx, id, client{addr, e.Helo}, fresh)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	rcpts, ps := t.writable(c, ps)
	mail, replies, err := c.MailRcpt(t.sender(), mailParams(c.kind, e.ID, e.Size, e.EightBit, e.UTF8), rcpts)
	switch {
	case err != nil && c.reused:
		c.Close()
		return nil, errReused
	case err == nil && !mail.OK():
		err = fmt.Errorf("home answers %s", mail)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	accepted, stale, more := t.accepted(c, ps, replies)
	if len(accepted) == 0 {
		if c.Reset() == nil && stop() {
			t.srv.homes.put(c)
		} else {
			c.Close()
		}
		return stale, nil
	}
	ends, err := t.send(c)
	before := len(t.res.Done)
	for i, p := range accepted {
		switch {
		case i >= len(ends):
			t.later(p.User, id, orErr(err, errStall))
		case ends[i].OK():
			t.res.Done = append(t.res.Done, p.User)
		default:
			t.later(p.User, id, errors.New(ends[i].String()))
		}
	}
	if more && len(t.res.Done) > before {
		// It was the number alone, and the others are on their way already.
		t.res.Soon = 10 * time.Millisecond
	}
	if err == nil && stop() {
		t.srv.homes.put(c)
	} else {
		c.Close()
	}
	return stale, nil
}

// writable gives the RCPTs, and their recipients; who has an address that no
// command can carry stays, and keeps nobody else from it.
func (t *try) writable(c *conn, ps []placed) (rcpts []lmtp.Recipient, kept []placed) {
	for _, p := range ps {
		to := rcptTo(c.kind, p.User, p.Folder, p.rec, true, "")
		if err := lmtp.CheckAddress(to.To); err != nil {
			t.later(p.User, c.id, err)
			continue
		}
		rcpts, kept = append(rcpts, to), append(kept, p)
	}
	return rcpts, kept
}

// sender is the reverse-path. One that cannot be written is left out: the mail
// was accepted, and nothing is ever sent back.
func (t *try) sender() string {
	if err := lmtp.CheckAddress(t.a.Envelope.Sender); err != nil {
		t.log.Warn("delivered with an empty sender", "err", err)
		return ""
	}
	return t.a.Envelope.Sender
}

// accepted sorts the replies to the RCPTs. more: the home takes only so many at
// once.
func (t *try) accepted(c *conn, ps []placed, replies []lmtp.Reply) (accepted []placed, stale []spool.Recipient, more bool) {
	for i, p := range ps {
		r := replies[i]
		switch {
		case r.OK():
			accepted = append(accepted, p)
		case c.kind == director.KindWaypost && wire.ReplyWord(r.Text) == wire.WordStale:
			t.srv.met.staleOnce.Inc()
			if t.stale[p.User] == p.rec {
				t.srv.alarmStale(t.log, p.User, p.rec)
				t.later(p.User, c.id, errStaleTwice)
				continue
			}
			t.stale[p.User] = p.rec
			stale = append(stale, p.Recipient)
		default:
			t.later(p.User, c.id, errors.New(r.String()))
		}
	}
	more = len(accepted) > 0 && len(accepted) < len(ps) && replies[len(ps)-1].Enhanced == "4.5.3"
	return accepted, stale, more
}

// send streams the message from the spool.
func (t *try) send(c *conn) ([]lmtp.Reply, error) {
	msg, err := t.a.Open()
	if err != nil {
		return nil, err
	}
	defer msg.Close()
	c.SetTimeout(t.srv.cfg.StallTimeout)
	w, err := c.Data()
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(w, msg)
	if err != nil {
		return nil, err
	}
	if n != t.a.Envelope.Size {
		return nil, fmt.Errorf("message in the spool has %d bytes, not %d", n, t.a.Envelope.Size)
	}
	return w.Finish()
}
