package imap

import (
	"context"
	"errors"
	"sync"
	"time"

	"waypost/director"
	"waypost/internal/handoff"
)

// holder is a connection whose Close comes behind all that was written, whatever the peer still
// sends. The end of what is written after Hold goes out together with what follows it.
type holder interface{ Hold() }

// watches know the sessions, and ask for their ends when they must come. A goroutine for each
// would cost more memory than the session has otherwise, so there is one for each channel by
// which mailboxes move.
type watches struct {
	mu      sync.Mutex // guards what follows, and each session's watching
	live    map[*session]struct{}
	moves   map[<-chan struct{}]*move
	stopped bool // new sessions have to stop at once
}

// watching is a session's part of watches.
type watching struct {
	unhook func() bool
	cut    *time.Timer // closes the connection of a session that does not end; nil: none has to
	over   bool
}

// move is a channel that is waited on for its sessions. The last of them waits for the goroutine.
type move struct {
	sessions map[*session]struct{}
	unneeded chan struct{}
	done     chan struct{}
}

func newWatches() watches {
	return watches{live: make(map[*session]struct{}), moves: make(map[<-chan struct{}]*move)}
}

// watch asks for the session's end when it must come, until unwatch, and cuts the connection
// when it does not come in time. ctx is Serve's.
func (s *Server) watch(ctx context.Context, ss *session) {
	w := &s.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	ss.watching.unhook = context.AfterFunc(ctx, func() {
		why := endStopping
		if errors.Is(context.Cause(ctx), handoff.ErrKicked) {
			why = endKicked
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		ss.stopWithin(why, s.limits.Grace)
	})
	w.live[ss] = struct{}{}
	if w.stopped {
		ss.stopWithin(endStopping, s.limits.Grace)
	}
	if ss.moved == nil {
		return
	}
	m := w.moves[ss.moved]
	if m == nil {
		m = &move{sessions: make(map[*session]struct{}), unneeded: make(chan struct{}), done: make(chan struct{})}
		w.moves[ss.moved] = m
		go w.await(ss.moved, m, s.limits.Finish, s.opt.Stops)
	}
	m.sessions[ss] = struct{}{}
}

// await waits for a move. Who comes after it finds another one, which is over at once.
func (w *watches) await(moved <-chan struct{}, m *move, finish time.Duration, stops func() bool) {
	defer close(m.done)
	select {
	case <-moved:
	case <-m.unneeded:
		return
	}
	why := endMoving
	if stops != nil && stops() {
		why = endStopping
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moves[moved] == m {
		delete(w.moves, moved)
	}
	for ss := range m.sessions {
		ss.stopWithin(why, finish)
	}
}

// Sending counts the sessions of users whose command under way can neither end once the mailbox
// is fenced nor be carried elsewhere, and gives the most of what is left of the literals that
// their clients are in the middle of, in bytes: what a command may have besides is not known.
func (s *Server) Sending(users ...director.User) (sessions int, most int64) {
	asked := make(map[director.User]bool, len(users))
	for _, u := range users {
		asked[u] = true
	}
	w := &s.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	for ss := range w.live {
		if ss.data.Box == nil || !asked[ss.data.Box.User()] || !ss.c.lost.Load() {
			continue
		}
		sessions++
		most = max(most, ss.c.sending.Load())
	}
	return sessions, most
}

// unwatch ends watch.
func (s *Server) unwatch(ss *session) {
	w := &s.watches
	ss.watching.unhook()
	w.mu.Lock()
	delete(w.live, ss)
	ss.watching.over = true
	if ss.watching.cut != nil {
		ss.watching.cut.Stop()
	}
	m := w.moves[ss.moved]
	if m == nil {
		w.mu.Unlock()
		return
	}
	delete(m.sessions, ss)
	last := len(m.sessions) == 0
	if last {
		delete(w.moves, ss.moved)
		close(m.unneeded)
	}
	w.mu.Unlock()
	if last {
		<-m.done
	}
}

// stop has all sessions end.
func (w *watches) stop(grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for ss := range w.live {
		ss.stopWithin(endStopping, grace)
	}
}

// stopWithin asks for the session's end. The caller holds the mutex of watches.
func (s *session) stopWithin(why ending, wait time.Duration) {
	if s.watching.over {
		return
	}
	s.c.end(why)
	if s.watching.cut != nil {
		s.watching.cut.Reset(wait)
		return
	}
	s.watching.cut = time.AfterFunc(wait, func() {
		s.c.cut.Store(true)
		s.raw.Close()
	})
}
