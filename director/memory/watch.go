package memory

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"waypost/director"
)

const (
	// batchLimit is about how many changes one batch has.
	batchLimit = 1000
	// progressEvery is how often a watch without changes tells its revision.
	progressEvery = time.Second
)

// Watch implements director.Store. from 0 is "from now on". Progress is told
// at the start, once a second, and after changes of other prefixes.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan director.Batch {
	ch := make(chan director.Batch, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		ch <- director.Batch{Err: fmt.Errorf("%w: the store is closed", director.ErrUnavailable)}
		close(ch)
		return ch
	}
	if from == 0 {
		from = s.rev + 1
	}
	w := &watch{s: s, prefix: prefix, next: from, breakGen: s.breakGen, ch: ch}
	s.running.Go(func() { w.run(ctx) })
	return ch
}

// watch is one watch; its goroutine alone uses it.
type watch struct {
	s        *Store
	prefix   string
	next     int64 // the first revision not sent yet
	told     int64 // the last revision told
	breakGen int
	ch       chan<- director.Batch
}

func (w *watch) run(ctx context.Context) {
	defer close(w.ch)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	tell := true
	for {
		b, ok, wake := w.look(tell)
		tell = false
		if ok {
			select {
			case w.ch <- b:
			case <-ctx.Done():
				return
			case <-w.s.closed:
				return
			}
			if b.Err != nil {
				return
			}
			continue // there may be more than one batch
		}
		select {
		case <-wake:
		case <-tick.C:
			tell = true
		case <-ctx.Done():
			return
		case <-w.s.closed:
			return
		}
	}
}

// look takes the next batch out of the history, and the channel that is closed
// when there is more to see. tell asks for progress even if nothing is new.
func (w *watch) look(tell bool) (b director.Batch, ok bool, wake <-chan struct{}) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	wake = s.wake
	switch {
	case w.breakGen != s.breakGen:
		return director.Batch{Err: s.breakErr}, true, wake
	case s.down || s.paused:
		return b, false, wake
	case w.next <= s.compacted:
		err := fmt.Errorf("watch %q: revision %d is compacted away", w.prefix, w.next)
		return director.Batch{Revision: s.rev, Err: err}, true, wake
	}
	b.Revision = s.rev
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].Rev >= w.next })
	for ; i < len(s.history); i++ {
		c := s.history[i]
		if len(b.Changes) >= batchLimit && c.Rev != s.history[i-1].Rev {
			b.Revision = s.history[i-1].Rev
			break
		}
		if strings.HasPrefix(c.Key, w.prefix) {
			if !c.Deleted {
				c.Value = clone(c.Value)
			}
			b.Changes = append(b.Changes, c)
		}
	}
	w.next = max(w.next, b.Revision+1)
	news := len(b.Changes) > 0 || b.Revision > w.told || tell
	w.told = b.Revision
	return b, news, wake
}
