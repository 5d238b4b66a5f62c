package imap

import (
	"sync"
	"time"
)

const (
	// checkpointEvery is how often sessions that have changed are looked at, and how long at least a
	// session's change waits: one that ends soon has no checkpoint.
	checkpointEvery = time.Second
	// checkpointBytes is how much state a session's checkpoints may cost a second, about.
	checkpointBytes = 32 << 10
)

// checkpoints has sessions make theirs, after each change and at rest, so that a crash of the
// backend does not end them: all, where the other end does not know of points, else those that
// could not be made at once. There is one timer for all of them, and none while nothing has changed.
type checkpoints struct {
	mu      sync.Mutex // guards what follows, and each session's queued
	waiting map[*session]struct{}
	timer   *time.Timer // nil: nobody waits
}

// queued is a session's part of checkpoints.
type queued struct {
	since time.Time // when it began to wait
	after time.Time // not before this time; the session's lock guards it
	over  bool
	// read and written are the bytes that the last checkpoint stands for. The session's lock guards
	// them.
	read, written int64
}

// changed is called when the session has settled, or has told something meanwhile.
func (s *session) changed() {
	c := &s.srv.checkpoints
	if s.carrier == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, waits := c.waiting[s]; waits || s.queued.over {
		return
	}
	if c.waiting == nil {
		c.waiting = make(map[*session]struct{})
	}
	s.queued.since = time.Now()
	c.waiting[s] = struct{}{}
	if c.timer == nil {
		c.timer = time.AfterFunc(checkpointEvery, s.srv.checkpoint)
	}
}

// remove is called at a session's end.
func (c *checkpoints) remove(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.queued.over = true
	delete(c.waiting, s)
	if len(c.waiting) == 0 && c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// due takes out the sessions whose time has come. Where there are any, Shutdown waits for the
// caller, as for a session.
func (s *Server) due(now time.Time) (all []*session) {
	c := &s.checkpoints
	c.mu.Lock()
	defer c.mu.Unlock()
	for ss := range c.waiting {
		if now.Sub(ss.queued.since) >= checkpointEvery {
			all = append(all, ss)
			delete(c.waiting, ss)
		}
	}
	if len(all) > 0 {
		s.sessions.Add(1) // none of them has left
	}
	return all
}

// checkpoint is called by the timer.
func (s *Server) checkpoint() {
	now := time.Now()
	due := s.due(now)
	if len(due) > 0 {
		defer s.sessions.Done()
	}
	busy := due[:0]
	for _, ss := range due {
		if !ss.checkpoint(now) {
			busy = append(busy, ss)
		}
	}
	c := &s.checkpoints
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ss := range busy {
		if !ss.queued.over {
			c.waiting[ss] = struct{}{}
		}
	}
	switch {
	case len(c.waiting) == 0:
		c.timer = nil
	case c.timer == nil:
		c.timer = time.AfterFunc(checkpointEvery, s.checkpoint)
	default:
		c.timer.Reset(checkpointEvery)
	}
}

// checkpoint makes one if the session is at rest, and reports that it need not be asked again
// before it changes.
func (s *session) checkpoint(now time.Time) (done bool) {
	if !s.mu.TryLock() {
		return false // a command runs, perhaps for long
	}
	defer s.mu.Unlock()
	if s.base.tips {
		return s.pointLate(now)
	}
	if now.Before(s.queued.after) {
		return false
	}
	s.c.rmu.Lock()
	if s.c.closed || s.c.why != endNone {
		s.c.rmu.Unlock()
		return true
	}
	if !s.c.resting || s.out.Buffered() > 0 {
		s.c.rmu.Unlock()
		return false
	}
	read, written := s.c.read.Load(), s.c.written.Load()
	pending, waited := s.c.pending(nil), s.waited(now)
	s.c.rmu.Unlock()
	q := &s.queued
	if q.read == read && q.written == written {
		return true
	}
	state := s.seal(pending, waited)
	q.after = now.Add(checkpointEvery * time.Duration(len(state)) / checkpointBytes)
	if len(state) > maxCarried {
		return true
	}
	s.c.Conn.SetWriteDeadline(time.Now().Add(s.srv.limits.Write))
	if err := s.carrier.Checkpoint(uint64(read), uint64(written), state); err != nil {
		// What keeps it from going on, the session meets, too.
		s.log.Debug("imap checkpoint not made", "error", err)
		return true
	}
	q.read, q.written = read, written
	return true
}
