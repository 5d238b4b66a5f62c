package maildir

import (
	"time"
	"waypost/backend/mailbox/feed"
)

// pollInterval is how often folders that somebody waits for are looked at, for
// the sake of changes by others. Own changes are told at once.
const pollInterval = 3 * time.Second

// watch starts the poller if there is none. a.mu is held.
func (a *Account) watch() {
	if a.poll == nil {
		a.poll = feed.Poll(pollInterval, a.look)
	}
}

// look wakes those who wait for folders that have changed. It reports false,
// and the poller has to end, when nobody waits.
func (a *Account) look() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := a.feed.Waiting()
	for _, f := range a.folders {
		if a.feed.Waiting() && f.disturbed() {
			a.feed.Messages(f.name)
			waiting = true
		}
		if f.wait == nil {
			continue
		}
		waiting = true
		if f.stale || f.outdated() {
			f.wake()
		}
	}
	if !waiting {
		a.poll = nil
	}
	return waiting
}
