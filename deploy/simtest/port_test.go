//go:build !race

package simtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"waypost/director"
)

// port is a process's way to the directory: each call is a seam before it and
// behind it, and may fail as a network does. A dead process's goes nowhere.
type port struct {
	w    *world
	who  string
	dead bool
	// shy ports get no errors but those of a cut: the caches pause by chance after
	// others, which no seed would repeat.
	shy bool
}

var _ director.Store = (*port)(nil)

// before is the request on its way.
func (p *port) before(ctx context.Context, what string) error {
	for {
		if err := p.w.step(ctx, p.who, what); err != nil {
			return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
		}
		cut := p.w.cut[p.node()]
		switch {
		case p.dead:
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
	if err := p.w.step(ctx, p.who, what+" answered"); err != nil {
		return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	if p.dead {
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
	return p.w.store.List(ctx, prefix, fn)
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

// Watch passes the store's batches on, each when its turn comes.
func (p *port) Watch(ctx context.Context, prefix string, from int64) <-chan director.Batch {
	in, out := p.w.store.Watch(ctx, prefix, from), make(chan director.Batch)
	p.w.running.Go(func() {
		defer close(out)
		for b := range in {
			if len(b.Changes) > 0 {
				if p.arrives(ctx, fmt.Sprintf("watch %s %d", prefix, b.Revision)) != nil {
					break
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
		for range in { // its goroutine ends with ctx
		}
	})
	return out
}

func (p *port) Grant(ctx context.Context, ttl time.Duration) (director.Lease, error) {
	if err := p.before(ctx, "grant"); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	l, err := p.w.store.Grant(ctx, ttl)
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
