package feed

import (
	"context"
	"time"
)

// Poller is the goroutine that looks at what others may have changed, for the sake of
// those who wait. It ends by itself when there is nobody any more.
type Poller struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// Poll calls look each time that every has passed, until it reports false or Stop is called.
func Poll(every time.Duration, look func() bool) *Poller {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Poller{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer cancel()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !look() {
				return
			}
		}
	}()
	return p
}

// Stop ends it and waits until it has ended; a lock that look takes must not be held.
func (p *Poller) Stop() {
	p.cancel()
	<-p.ended
}
