package maildir

import "waypost/backend/mailbox"

// Updates is mailbox.Box's. It takes no fence: a Box that is over says so by its
// Done.
func (b *box) Updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	a := b.a
	a.mu.Lock()
	defer a.mu.Unlock()
	u, wait := a.feed.Since(since)
	if a.closed || b.closed {
		done := make(chan struct{})
		close(done)
		return u, done
	}
	a.watch()
	return u, wait
}

// disturbed tells, once until the folder is scanned again, that others have changed it.
func (f *folder) disturbed() bool {
	if !f.loaded || f.noted {
		return false
	}
	now, err := f.stamps()
	f.noted = f.stale || err != nil || now != f.seen.stamps
	return f.noted
}
