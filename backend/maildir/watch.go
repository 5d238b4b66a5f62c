package maildir

import (
	"context"
	"time"
)

// pollInterval is how often folders that somebody waits for are looked at, for
// the sake of changes by others. Own changes are told at once.
const pollInterval = 3 * time.Second

// poller is the goroutine that looks. It belongs to the Account, and ends by
// itself when nobody waits any more.
type poller struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// stop ends the goroutine and waits for it. a.mu must not be held.
func (p *poller) stop() {
	p.cancel()
	<-p.ended
}

// watch starts the poller if there is none. a.mu is held.
func (a *Account) watch() {
	if a.poll != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &poller{cancel: cancel, ended: make(chan struct{})}
	a.poll = p
	go func() {
		defer close(p.ended)
		defer cancel()
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !a.look() {
				return
			}
		}
	}()
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
