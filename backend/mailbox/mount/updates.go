package mount

import (
	"context"
	"reflect"
	"slices"

	"waypost/backend/mailbox"
)

// maxPast is how many versions are remembered, to tell what came after them. A
// session waits from one to the next.
const maxPast = 64

// merged is a channel that is closed when one of others is.
type merged struct {
	from []<-chan struct{}
	to   chan struct{}
}

// Updates is mailbox.Box's. The version is the sum of those of all Boxes: as none
// of these falls, it stands for just one of each.
func (b *box) Updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, known := b.past[since]
	if !known {
		was = make([]uint64, len(b.mounts))
	}
	all := mailbox.Updates{All: !known && since != 0}
	now := make([]uint64, len(b.mounts))
	waits := make([]<-chan struct{}, len(b.mounts))
	for i, m := range b.mounts {
		var u mailbox.Updates
		u, waits[i] = m.Box.Updates(was[i])
		now[i] = u.Version
		all.Version += u.Version
		all.Listing = all.Listing || u.Listing
		all.All = all.All || u.All
		for _, name := range u.Folders {
			if name = m.outer(name); i > 0 || !b.hidden(name) {
				all.Folders = append(all.Folders, name)
			}
		}
	}
	slices.Sort(all.Folders)
	if len(all.Folders) > mailbox.MaxUpdates {
		all.Folders, all.All = nil, true
	}
	b.remember(all.Version, now)
	return all, b.merge(waits)
}

// remember keeps what a version stands for. mu is held.
func (b *box) remember(version uint64, of []uint64) {
	if _, known := b.past[version]; known {
		return
	}
	b.past[version] = of
	b.order = append(b.order, version)
	if len(b.order) > maxPast {
		delete(b.past, b.order[0])
		b.order = b.order[1:]
	}
}

// merge gives a channel that is closed when one of from is, or the Box ends. As
// long as they are the same it is the same, with one goroutine. mu is held.
func (b *box) merge(from []<-chan struct{}) <-chan struct{} {
	if b.merged.to != nil && slices.Equal(b.merged.from, from) {
		return b.merged.to
	}
	to := make(chan struct{})
	if b.over || b.ctx.Err() != nil {
		close(to)
		return to
	}
	b.merged = merged{from: from, to: to}
	// What there was before ends as well: one of its channels was closed.
	b.tasks.Go(func() {
		defer close(to)
		waitAny(b.ctx, from)
	})
	return to
}

// waitAny waits until one of channels is closed; false if ctx ended first.
func waitAny(ctx context.Context, channels []<-chan struct{}) bool {
	cases := []reflect.SelectCase{{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())}}
	for _, c := range channels {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
	}
	chosen, _, _ := reflect.Select(cases)
	return chosen > 0
}
