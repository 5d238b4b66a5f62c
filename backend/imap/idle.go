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
		watcher.Go(func() { s.watchFolder(quit) })
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

// watchFolder tells what happens in the selected folder until quit is closed. That the
// session must end, its goroutine learns.
func (s *session) watchFolder(quit <-chan struct{}) {
	for {
		changed, retry, on := s.news(quit)
		if !on {
			return
		}
		select {
		case <-quit:
			return
		case <-changed:
		case <-retry:
		}
	}
}

// news brings the client up to date and gives what to wait for.
func (s *session) news(quit <-chan struct{}) (changed <-chan struct{}, retry <-chan time.Time, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-quit:
		return nil, nil, false
	default:
	}
	if s.view == nil || s.view.dead {
		return nil, nil, true
	}
	switch err := s.bring(s.notify.telling(true)); {
	case err == nil:
	case fenced(err):
		s.c.end(endMoving)
		return nil, nil, false
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		s.c.end(endFolder)
		return nil, nil, false
	default:
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
		return nil, time.After(retryAfter), true
	}
	if err := s.say(); err != nil {
		s.c.end(endGone)
		return nil, nil, false
	}
	return s.view.folder.Changed(s.view.version), nil, true
}
