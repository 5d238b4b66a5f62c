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
	// stale are the records that homes called stale in this attempt.
	stale map[director.User]director.Record
}

// retry delivers a spool entry as far as it goes now: all recipients of one
// home in one transaction.
func (srv *Server) retry(ctx context.Context, a spool.Attempt) spool.Result {
	t := &try{srv: srv, a: a, log: srv.log.With("delivery", a.Envelope.ID), stale: map[director.User]director.Record{}}
	t.res = spool.Result{Dead: map[director.User]string{}, Later: map[director.User]spool.Later{}}
	open := a.Envelope.Recipients
	for round := 0; round < 2 && len(open) > 0 && ctx.Err() == nil; round++ {
		groups := map[director.BackendID][]placed{}
		for _, r := range open {
			if rec, ok := t.locate(ctx, r, round > 0); ok {
				groups[rec.Home] = append(groups[rec.Home], placed{r, rec})
			}
		}
		open = nil
		for home, ps := range groups {
			open = append(open, t.home(ctx, home, ps)...)
		}
	}
	for _, r := range open {
		t.later(r.User, t.stale[r.User].Home, errStaleTwice)
	}
	t.log.Info("spool entry tried", "attempt", a.Attempts+1, "delivered", len(t.res.Done), "dead", len(t.res.Dead),
		"left", len(a.Envelope.Recipients)-len(t.res.Done)-len(t.res.Dead))
	return t.res
}

// placed is a recipient with the record it is sent by.
type placed struct {
	spool.Recipient
	rec director.Record
}

func (t *try) later(u director.User, home director.BackendID, why error) {
	t.res.Later[u] = spool.Later{Home: home, Error: why.Error()}
}

// locate gives the record if the user can be delivered to now. It reads
// linearizably whenever the memory would not have it delivered: whoever waits
// re-reads by itself (R11), and nobody is called gone from memory (R12).
func (t *try) locate(ctx context.Context, r spool.Recipient, fresh bool) (director.Record, bool) {
	rec, known, _ := t.srv.dir.Location(r.User)
	if fresh || !known || rec.State != director.Active || t.a.Attempts > 0 {
		ctx, cancel := context.WithTimeout(ctx, t.srv.cfg.DirectoryTimeout)
		defer cancel()
		now, err := t.srv.dir.Fresh(ctx, r.User)
		switch {
		case errors.Is(err, director.ErrNotFound):
			t.bury(r, "the user is gone")
			return now, false
		case err == nil:
			rec = now
		case !known || rec.State == director.Deleted:
			t.later(r.User, r.Home, err)
			return rec, false
		}
	}
	switch {
	case rec.State == director.Deleted:
		t.bury(r, "the user is gone")
		return rec, false
	case rec.State == director.Busy:
		t.later(r.User, rec.Home, errors.New("the user is being moved"))
		return rec, false
	}
	if a, _, ok := t.srv.dir.Account(r.User); ok && !r.AccountCreated.IsZero() && !a.Created.Equal(r.AccountCreated) {
		t.bury(r, "the user was deleted and another made of the same name")
		return rec, false
	}
	return rec, true
}

// bury leaves a dead letter: never to a bounce, always to the operator.
func (t *try) bury(r spool.Recipient, why string) {
	t.srv.met.deadLetters.Inc()
	t.log.Error("ALARM: dead letter: accepted mail has no recipient any more", "user", r.User, "reason", why)
	t.res.Dead[r.User] = why
}

// home delivers to the recipients at one home, and gives those it calls stale.
func (t *try) home(ctx context.Context, id director.BackendID, ps []placed) (stale []spool.Recipient) {
	if !t.srv.slots.take(id) {
		t.all(ps, errors.New("waiting for a turn at this home"))
		if len(t.res.Later) == len(t.a.Envelope.Recipients) {
			t.res.Soon = time.Second
		}
		return nil
	}
	defer t.srv.slots.give(id)
	stale, err := t.transfer(ctx, id, ps, false)
	if errors.Is(err, errReused) {
		stale, err = t.transfer(ctx, id, ps, true)
	}
	if err != nil {
		t.log.Info("spool entry waits for its home", "home", id, "err", err)
		t.all(ps, err)
	}
	return stale
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
	rcpts := make([]lmtp.Recipient, len(ps))
	for i, p := range ps {
		rcpts[i] = rcptTo(c.kind, p.User, p.Folder, p.rec, true)
	}
	mail, replies, err := c.MailRcpt(e.Sender, mailParams(c.kind, e.ID, e.Size, e.EightBit, e.UTF8), rcpts)
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
	accepted, stale := t.accepted(c, ps, replies)
	if len(accepted) == 0 {
		if c.Reset() == nil && stop() {
			t.srv.homes.put(c)
		} else {
			c.Close()
		}
		return stale, nil
	}
	ends, err := t.send(c)
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
	if err == nil && stop() {
		t.srv.homes.put(c)
	} else {
		c.Close()
	}
	return stale, nil
}

// accepted sorts the replies to the RCPTs.
func (t *try) accepted(c *conn, ps []placed, replies []lmtp.Reply) (accepted []placed, stale []spool.Recipient) {
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
	// A home that takes only so many at once gets the others right after.
	if len(accepted) > 0 && len(accepted) < len(ps) && replies[len(ps)-1].Enhanced == "4.5.3" {
		t.res.Soon = 10 * time.Millisecond
	}
	return accepted, stale
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
