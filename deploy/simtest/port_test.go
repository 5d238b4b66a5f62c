package simtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"waypost/director"
)

// port is a process's way to the directory: each call is a seam before it and
// behind it, and may fail as a network does. A dead process's goes nowhere.
type port struct {
	w    *world
	who  string
	dead atomic.Bool
	// shy ports get no errors but those of a cut: the caches pause by chance after
	// others, which no seed would repeat.
	shy bool
}

var _ director.Store = (*port)(nil)

// before is the request on its way.
func (p *port) before(ctx context.Context, what string) error {
	for {
		if p.dead.Load() { // how far its goroutines still come is not the seed's affair
			return fmt.Errorf("%w: dead", director.ErrUnavailable)
		}
		if err := p.w.step(ctx, p.who, what); err != nil {
			return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
		}
		cut := p.w.cut[p.node()]
		switch {
		case p.dead.Load():
			return fmt.Errorf("%w: dead", director.ErrUnavailable)
		case cut && p.shy:
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
			}
		case cut, !p.shy && p.w.chaos && p.w.chance(40):
			return fmt.Errorf("%w: no way there", director.ErrUnavailable)
		default:
			return nil
		}
	}
}

// arrives is before for what a watch brings: it is late, and never lost.
func (p *port) arrives(ctx context.Context, what string) error {
	for {
		if p.dead.Load() {
			return errDown
		}
		if err := p.w.step(ctx, p.who, what); err != nil || !p.w.cut[p.node()] {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (p *port) node() string { n, _, _ := strings.Cut(p.who, "."); return n }

// behind is the answer on its way: what it says may be old when it arrives.
func (p *port) behind(ctx context.Context, what string) error {
	if p.dead.Load() {
		return fmt.Errorf("%w: dead", director.ErrUnavailable)
	}
	if err := p.w.step(ctx, p.who, what+" answered"); err != nil {
		return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	if p.dead.Load() {
		return fmt.Errorf("%w: dead", director.ErrUnavailable)
	}
	return nil
}

func (p *port) Get(ctx context.Context, key string) (director.Entry, error) {
	if err := p.before(ctx, "get "+key); err != nil {
		return director.Entry{}, err
	}
	e, err := p.w.store.Get(ctx, key)
	if err == nil {
		err = p.behind(ctx, "get")
	}
	return e, err
}

func (p *port) GetAll(ctx context.Context, keys []string) ([]director.Entry, error) {
	if err := p.before(ctx, "get "+strings.Join(keys, " ")); err != nil {
		return nil, err
	}
	es, err := p.w.store.GetAll(ctx, keys)
	if err == nil {
		err = p.behind(ctx, "get")
	}
	return es, err
}

func (p *port) List(ctx context.Context, prefix string, fn func(director.Entry) error) (int64, error) {
	if err := p.before(ctx, "list "+prefix); err != nil {
		return 0, err
	}
	var all []director.Entry
	rev, err := p.w.store.List(ctx, prefix, func(e director.Entry) error {
		all = append(all, e)
		return nil
	})
	slices.SortFunc(all, func(a, b director.Entry) int { return cmp.Compare(a.Key, b.Key) }) // as etcd does
	for _, e := range all {
		if err := fn(e); err != nil {
			return 0, err
		}
	}
	return rev, err
}

// Commit may lose the request, or the answer.
func (p *port) Commit(ctx context.Context, guards []director.Guard, ops []director.Op) (int64, bool, error) {
	what := "commit"
	for _, op := range ops {
		what += " " + op.Key
		if strings.HasPrefix(op.Key, director.PrefixLocation) {
			what += "=" + string(op.Value)
		}
	}
	if err := p.before(ctx, what); err != nil {
		return 0, false, err
	}
	if p.w.chaos && p.w.chance(30) {
		p.w.saw("unknown commit, not done")
		return 0, false, fmt.Errorf("%w: request lost", director.ErrUnknown)
	}
	rev, done, err := p.w.store.Commit(ctx, guards, ops)
	lost := p.w.chaos && p.w.chance(30)
	if err == nil {
		if err := p.behind(ctx, what); err != nil {
			return 0, false, fmt.Errorf("%w: %w", director.ErrUnknown, err)
		}
	}
	if err == nil && lost {
		p.w.saw("unknown commit, done")
		return 0, false, fmt.Errorf("%w: answer lost", director.ErrUnknown)
	}
	return rev, done, err
}

// What happens by the clock alone, and is no seam, is kept from the very moment of other
// things that do: what a watch tells every second, and the end of a lease.
const (
	aside  = 137 * time.Microsecond
	beyond = 61 * time.Microsecond
)

// Watch passes the store's revisions on, each when its turn comes.
func (p *port) Watch(ctx context.Context, prefix string, from int64) <-chan director.Batch {
	in, out := p.w.store.Watch(ctx, prefix, from), make(chan director.Batch)
	p.w.running.Go(func() {
		defer close(out)
		for b := range in {
			if p.pass(ctx, prefix, b, out) != nil {
				break
			}
		}
		for range in { // its goroutine ends with ctx
		}
	})
	return out
}

func (p *port) pass(ctx context.Context, prefix string, b director.Batch, out chan<- director.Batch) error {
	send := func(b director.Batch) error {
		select {
		case out <- b:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if len(b.Changes) == 0 {
		if err := sleep(ctx, aside); err != nil {
			return err
		}
		return send(b)
	}
	for len(b.Changes) > 0 {
		one := director.Batch{Revision: b.Changes[0].Rev}
		for len(b.Changes) > 0 && b.Changes[0].Rev == one.Revision {
			one.Changes, b.Changes = append(one.Changes, b.Changes[0]), b.Changes[1:]
		}
		if len(b.Changes) == 0 {
			one.Revision, one.Err = b.Revision, b.Err
		}
		if err := p.arrives(ctx, fmt.Sprintf("watch %s %d", prefix, one.Revision)); err != nil {
			return err
		}
		if err := send(one); err != nil {
			return err
		}
	}
	return nil
}

func (p *port) Grant(ctx context.Context, ttl time.Duration) (director.Lease, error) {
	if err := p.before(ctx, "grant"); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	l, err := p.w.store.Grant(ctx, ttl+beyond)
	if err != nil {
		stop()
		return nil, err
	}
	return lease{l, p, stop}, nil
}

// lease is one that a dead process does not give back; then, and when its
// revocation gets lost, it is kept no more, and expires.
type lease struct {
	director.Lease
	p    *port
	stop context.CancelFunc
}

func (l lease) Revoke(ctx context.Context) error {
	defer l.stop()
	if err := l.p.before(ctx, "revoke"); err != nil {
		return err
	}
	return l.Lease.Revoke(ctx)
}

func (p *port) Close() error { return nil }
