package link

import (
	"bytes"
	"sync"
	"time"

	"waypost/internal/handoff"
)

// handOffer is a connection that takes hand-offs: a frames.Stream.
type handOffer interface {
	CanHandOff() bool
	HandOff(state []byte) error
	Checkpoint(consumed, sent uint64, state []byte) error
	CanPoint() bool
	Point(consumed, sent uint64, state, tip []byte) error
}

// silence is how long a client says nothing before its session is worth a checkpoint.
const silence = time.Second

// Checkpoints tell proxies where sessions of a server are whose clients are silent, so that
// they go on after a crash of the backend: those that have no Points. One goroutine does it for all of them; it runs
// while there are any, and the last one waits for it. The zero value is ready, and safe
// for concurrent use.
type Checkpoints struct {
	// After is how long a client must be silent; 1 s. It is set before the first session.
	After time.Duration

	mu    sync.Mutex // guards what follows
	spots map[*spot]struct{}
	stop  chan struct{}
	done  chan struct{}
}

// spot is a session as Checkpoints see it.
type spot struct {
	conn  handOffer
	state func() []byte

	// mu is held while the session is looked at: it does not go on meanwhile.
	mu sync.Mutex
	// since is when the client became silent; zero while the session works, or once there
	// was a checkpoint.
	since          time.Time
	received, sent uint64
}

// rest begins a silence: the session is where state finds it, and stays there until work.
func (s *spot) rest(received, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.received, s.sent = time.Now(), uint64(received), uint64(sent)
}

func (s *spot) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
}

// checkpoint makes one if it is due. It is lost with the connection, and so is the need.
func (s *spot) checkpoint(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() || s.since.After(before) {
		return
	}
	s.since = time.Time{}
	if state := s.state(); state != nil {
		_ = s.conn.Checkpoint(s.received, s.sent, state)
	}
}

// Points are checkpoints that go out with the answers: the whole state with one of them, and then
// what has changed since.
type Points struct {
	// Base gives the session's state as it is between two commands; not ok: it is too much, or
	// too early, and is asked for again. AppendTip appends what has changed since, or may have.
	Base      func() (base handoff.Base, ok bool)
	AppendTip func(dst []byte) []byte

	base           handoff.Base
	made           bool
	tip            []byte // the last one
	received, sent int64  // at the last one
}

// point makes the checkpoint of a session that rests, once what is buffered is sent, which is done
// next, and reports that there is one.
func (l *Link) point() bool {
	p := &l.opt.Points
	if l.spot == nil || p.Base == nil || !l.spot.conn.CanPoint() {
		return false
	}
	received, sent := l.received, l.Sent+int64(l.Out.n)
	at := func(state, tip []byte) bool {
		return l.spot.conn.Point(uint64(received), uint64(sent), state, tip) == nil
	}
	switch {
	case p.made && p.received == received && p.sent == sent:
		return true
	case !p.made:
		base, ok := p.Base()
		if !ok || !at(base.Sealed, nil) {
			return false
		}
		base.Sealed = nil // it is long gone
		p.base, p.made = base, true
	default:
		var room [128]byte
		tip := p.AppendTip(room[:0])
		if bytes.Equal(tip, p.tip) {
			if !at(nil, nil) {
				return false
			}
			break
		}
		if !at(nil, p.base.AppendTip(nil, tip)) {
			return false
		}
		p.tip = append(p.tip[:0], tip...)
	}
	p.received, p.sent = received, sent
	return true
}

func (c *Checkpoints) add(s *spot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spots == nil {
		c.spots = make(map[*spot]struct{})
	}
	c.spots[s] = struct{}{}
	if c.stop == nil {
		c.stop, c.done = make(chan struct{}), make(chan struct{})
		go c.run(c.stop, c.done)
	}
}

func (c *Checkpoints) remove(s *spot) {
	c.mu.Lock()
	delete(c.spots, s)
	if len(c.spots) > 0 {
		c.mu.Unlock()
		return
	}
	stop, done := c.stop, c.done
	c.stop = nil
	c.mu.Unlock()
	close(stop)
	<-done
}

func (c *Checkpoints) run(stop, done chan struct{}) {
	defer close(done)
	after := c.After
	if after <= 0 {
		after = silence
	}
	tick := time.NewTicker(after)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			for _, s := range c.all() {
				s.checkpoint(now.Add(-after))
			}
		}
	}
}

func (c *Checkpoints) all() []*spot {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*spot, 0, len(c.spots))
	for s := range c.spots {
		all = append(all, s)
	}
	return all
}
