package imap

import (
	"errors"
	"sync"
	"time"

	"waypost/backend/imap/fetch"
	"waypost/backend/mailbox"
)

// Paces of the watcher. It rests a multiple of the time that a look at the account took, so
// that an account with many folders, or many changes, has its share of the processor and no more.
const (
	restFactor = 4
	maxRest    = 5 * time.Second
	// batch is of how many folders is told before commands may run.
	batch = 64
)

// watcher tells a session what NOTIFY asked for while no command runs. There is one for a
// session that has used NOTIFY, and it ends with the session.
type watcher struct {
	kick chan struct{} // something happened in the session itself
	wg   sync.WaitGroup
	on   bool // the session's lock guards it
}

func newWatcher() *watcher { return &watcher{kick: make(chan struct{}, 1)} }

// start begins to watch. The caller holds the session's lock.
func (w *watcher) start(s *session) {
	if !w.on {
		w.on = true
		w.wg.Go(func() { w.run(s) })
	}
}

// wake has the watcher look again.
func (w *watcher) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// wait waits for the watcher's end, which the session's context has asked for.
func (w *watcher) wait() { w.wg.Wait() }

func (w *watcher) run(s *session) {
	for {
		next, on := s.notifyRound()
		if !on {
			return
		}
		rest := time.NewTimer(min(restFactor*next.took, maxRest))
		select {
		case <-s.ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
		select {
		case <-s.ctx.Done():
			return
		case <-w.kick:
		case <-next.account:
		case <-next.folder:
		case <-next.retry:
		}
	}
}

// wakes are what the watcher waits for; nil channels are for nothing.
type wakes struct {
	account, folder <-chan struct{}
	retry           <-chan time.Time
	took            time.Duration // the look that was had
}

// notifyRound tells what is to be told. It is off when the session is to end.
func (s *session) notifyRound() (next wakes, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func(began time.Time) { next.took = time.Since(began) }(time.Now())
	n := s.notify
	switch {
	case s.ctx.Err() != nil || s.stopping():
		return next, false
	case n == nil:
		return next, true
	}
	err := s.newsOfSelected(n, &next)
	if err == nil {
		err = s.newsOfOthers(n, &next)
	}
	var a *answer
	switch {
	case err == nil:
	case errors.Is(err, fetch.ErrBroken):
		// Inside of a literal: nothing may follow it.
		s.srv.metrics.failures.Inc()
		s.c.end(endIO)
		s.out.Discard()
		s.c.Conn.Close()
		return next, false
	case errors.As(err, &a) && a.code == "NOTIFICATIONOVERFLOW":
		s.overflow()
	case s.stopping() || s.out.Err() != nil:
		s.c.end(endGone)
		return next, false
	default:
		next.retry = time.After(retryAfter)
	}
	if err := s.say(); err != nil {
		s.c.end(endGone)
		return next, false
	}
	return next, true
}

// overflow ends all notifications (RFC 5465, Section 5.8).
func (s *session) overflow() {
	s.out.Raw("* OK [NOTIFICATIONOVERFLOW] too much to notify of").CRLF()
	s.notify = &notify{}
}

// newsOfSelected tells what happened in the selected folder.
func (s *session) newsOfSelected(n *notify, next *wakes) error {
	if s.view == nil || s.view.dead || n.selected == 0 {
		return nil
	}
	switch err := s.bring(n.telling(!n.delayed || n.idling)); {
	case err == nil:
		next.folder = s.view.folder.Changed(s.view.version)
		return nil
	case fenced(err):
		return s.end(endMoving)
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		return s.end(endFolder)
	default:
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
		return err
	}
}

// newsOfOthers tells what happened in the account.
func (s *session) newsOfOthers(n *notify, next *wakes) error {
	if len(n.groups) == 0 {
		return nil
	}
	select {
	case <-s.box.Done():
		return s.end(endMoving)
	default:
	}
	u, changed := s.box.Updates(n.since)
	next.account = changed
	select {
	case <-changed:
		if u.Version == n.since {
			// The mailbox ends: its channel is closed for good.
			next.account, next.retry = nil, time.After(time.Second)
		}
	default:
	}
	n.note(u)
	n.touched = n.touched || n.relist || len(n.pending) > 0
	if n.relist {
		undo := n.kept()
		if _, err := s.listNotified(n, false); err != nil {
			undo()
			return err
		}
		n.relist = false
	}
	told := 0
	for name := range n.pending {
		if told++; told > batch {
			next.retry = time.After(0)
			break
		}
		if err := s.newsOf(n, name); err != nil {
			return err
		}
		delete(n.pending, name)
	}
	return s.out.Err()
}

// note takes over what changed.
func (n *notify) note(u mailbox.Updates) {
	n.since = u.Version
	n.relist = n.relist || u.Listing || u.All
	if n.all&messageEvents == 0 {
		return
	}
	for _, name := range u.Folders {
		if n.events(name, true)&messageEvents != 0 {
			n.pending[name] = struct{}{}
		}
	}
	if u.All {
		for name, w := range n.folders {
			if w.access {
				n.pending[name] = struct{}{}
			}
		}
	}
}

// newsOf tells of one folder that is not selected.
func (s *session) newsOf(n *notify, name string) error {
	w := n.folders[name]
	if w == nil || !w.access {
		return nil
	}
	err := s.tellCounts(n, name, w, false)
	switch {
	case err == nil, errors.Is(err, mailbox.ErrNoFolder):
		return nil
	case fenced(err):
		return s.end(endMoving)
	}
	s.log.Warn("imap status for NOTIFY not read", "folder", name, "error", err)
	return err
}

// tellCounts writes the STATUS of a folder that is not selected, if it is another than was told,
// in what the client wants to know (RFC 5465, Sections 3.1 and 5.1 to 5.3); first is NOTIFY SET
// STATUS's.
func (s *session) tellCounts(n *notify, name string, w *known, first bool) error {
	wants := n.events(name, w.subscribed) & messageEvents
	if wants == 0 || !w.access || s.view != nil && !s.view.dead && s.view.name == name {
		return nil
	}
	folder, err := s.box.Folder(name)
	if err != nil {
		return err
	}
	st, err := folder.Status()
	if err != nil {
		return err
	}
	was, is := w.counts, countsOf(st)
	fresh := first || !w.counted || was.uidValidity != is.uidValidity ||
		was.uidNext != is.uidNext || was.messages != is.messages
	flags := wants&flagChange != 0 && (first || was.unseen >= 0 && was.unseen != is.unseen ||
		s.enabled.condstore && was.modSeq != is.modSeq)
	w.counts, w.counted = is, true
	if !fresh && !flags {
		return nil
	}
	items := statusItems{"UIDVALIDITY"}
	if fresh {
		items = append(items, "UIDNEXT", "MESSAGES")
	}
	if wants&flagChange != 0 {
		items = append(items, "UNSEEN")
	}
	if s.enabled.condstore || first && wants&flagChange != 0 {
		items = append(items, "HIGHESTMODSEQ")
	}
	s.writeStatus(name, st, items)
	return s.out.Err()
}
