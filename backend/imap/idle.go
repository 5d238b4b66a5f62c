package imap

import (
	"errors"
	"strings"
	"sync"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// retryAfter is how long IDLE waits before it reads a folder again that could
// not be read.
const retryAfter = 10 * time.Second

// idle implements RFC 2177 (RFC 9051, Section 6.3.13).
func (s *session) idle(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	if s.p.Grant() {
		s.c.waited = s.way.waited // it goes on
	} else {
		s.way.Granted++
		s.out.Raw("+ idling").CRLF() // which goes out with the checkpoint, before the read
	}
	quit := make(chan struct{})
	var watcher sync.WaitGroup
	if s.view != nil && s.notify == nil {
		now := s.look() // what happened before goes out with "+ idling"
		watcher.Go(func() { s.watchFolder(now, quit) })
	}
	if s.notify != nil {
		// RFC 5465, Section 4: the same is told as without IDLE, and what is gone, too.
		s.notify.idling = true
		s.watcher.wake()
	}
	s.locked = false
	s.mu.Unlock()
	s.c.relax()
	// As a command's line: what is not DONE may announce a literal, which must not run.
	err := s.p.Next()
	done := err == nil && strings.EqualFold(strings.TrimSpace(string(s.p.Line())), "DONE")
	close(quit)
	watcher.Wait()
	s.mu.Lock()
	s.locked = true
	if s.notify != nil {
		s.notify.idling = false
	}
	switch {
	case err != nil:
		return err
	case !done:
		return syntax.Syntax("expected DONE")
	}
	return nil
}

// outlook is what IDLE waits for: a change of the folder, or the time to read it again.
type outlook struct {
	changed <-chan struct{}
	retry   <-chan time.Time
	over    bool // there is nothing to wait for
}

// watchFolder tells what happens in the selected folder from now on until quit is closed. That the
// session must end, its goroutine learns.
func (s *session) watchFolder(now outlook, quit <-chan struct{}) {
	for !now.over {
		select {
		case <-quit:
			return
		case <-now.changed:
		case <-now.retry:
		}
		s.mu.Lock()
		select {
		case <-quit:
			now.over = true
		default:
			now = s.look()
		}
		s.mu.Unlock()
	}
}

// look brings the client up to date. The caller holds the lock.
func (s *session) look() outlook {
	if s.view == nil || s.view.dead {
		return outlook{}
	}
	switch err := s.bring(s.notify.telling(true)); {
	case err == nil:
	case fenced(err):
		s.c.end(endMoving)
		return outlook{over: true}
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		s.c.end(endFolder)
		return outlook{over: true}
	default:
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
		return outlook{retry: time.After(retryAfter)}
	}
	if err := s.say(); err != nil {
		s.c.end(endGone)
		return outlook{over: true}
	}
	return outlook{changed: s.view.folder.Changed(s.view.version)}
}
