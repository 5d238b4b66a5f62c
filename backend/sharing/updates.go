package sharing

import (
	"context"
	"reflect"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const (
	// maxWatched bounds the owners whose mailboxes one Box keeps open to tell what
	// happens in them. What others share is told as far as folders come and go.
	maxWatched = 64
	// lookEvery is how often it is looked who shares what.
	lookEvery = 5 * time.Second
)

// Updates is mailbox.Box's. From its first call on the mailboxes of those are watched
// who share something.
func (b *Box) Updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	b.mu.Lock()
	if !b.watching && !b.over {
		b.watching = true
		b.tasks.Go(func() { b.watch(b.ctx) })
	}
	defer b.mu.Unlock()
	u, wait := b.feed.Since(since)
	if b.over {
		return u, closed()
	}
	return u, wait
}

// watched is an owner who shares something.
type watched struct {
	names []string // that the viewer may list
	epoch director.Epoch
	box   mailbox.Box // nil: not watched
	fresh bool        // box was just opened
	since uint64
	wait  <-chan struct{}
	list  <-chan struct{} // closed when the owner's list is another
}

// watch tells b.feed what happens with the owners, until ctx ends.
func (b *Box) watch(ctx context.Context) {
	owners := map[director.User]*watched{}
	defer func() {
		for _, w := range owners {
			w.close()
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if b.look(owners) {
			b.tell(func() { b.feed.Listing() })
		}
		cases := []reflect.SelectCase{receive(ctx.Done()), receive(tick.C)}
		for owner, w := range owners {
			if w.list != nil {
				cases = append(cases, receive(w.list))
			}
			if w.box == nil {
				continue
			}
			b.read(owner, w)
			cases = append(cases, receive(w.wait), receive(w.box.Done()))
		}
		if i, _, _ := reflect.Select(cases); i == 0 {
			return
		}
	}
}

func receive(c any) reflect.SelectCase {
	return reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)}
}

func (w *watched) close() {
	if w.box != nil {
		w.box.Close()
		w.box = nil
	}
}

func (b *Box) tell(what func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what()
}

// look finds who shares what now, and tells whether that is other than before.
func (b *Box) look(owners map[director.User]*watched) (other bool) {
	here := make(map[director.User]bool)
	for _, owner := range b.src.Others(b.viewer) {
		st, err := b.state(owner)
		if err != nil {
			continue
		}
		here[owner] = true
		names, _ := b.visible(owner)
		w := owners[owner]
		if w == nil {
			w = &watched{}
			owners[owner] = w
			other = other || len(names) > 0
		}
		other = other || !slices.Equal(w.names, names)
		w.names, w.list = names, st.owned.changed
		if len(names) == 0 || w.epoch != st.epoch || w.box != nil && ended(w.box.Done()) {
			w.close()
		}
		w.epoch = st.epoch
	}
	open := 0
	for owner, w := range owners {
		if !here[owner] {
			w.close()
			delete(owners, owner)
			other = other || len(w.names) > 0
		} else if w.box != nil {
			open++
		}
	}
	for owner, w := range owners {
		if w.box == nil && len(w.names) > 0 && open < maxWatched {
			if box, err := b.src.Open(owner, w.epoch); err == nil {
				w.box, w.since, w.fresh = box, 0, true
				open++
			}
		}
	}
	return other
}

// read takes over what changed in an owner's mailbox; at first that may be all.
func (b *Box) read(owner director.User, w *watched) {
	var u mailbox.Updates
	u, w.wait = w.box.Updates(w.since)
	u.All = u.All || w.fresh
	w.since, w.fresh = u.Version, false
	b.tell(func() {
		for _, name := range w.names {
			if u.All || slices.Contains(u.Folders, name) {
				b.feed.Messages(join(owner, name))
			}
		}
	})
}
