package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"waypost/director"
	"waypost/internal/frames"
)

const (
	// linkSessions is how many sessions share a connection to a backend before
	// another one is made, and maxLinks how many there are of those: a connection's
	// encryption is work for one core, and its loss ends its sessions.
	linkSessions = 100
	maxLinks     = 8
	// plainFor is how long a backend that speaks no frames is not asked again: it may
	// be upgraded.
	plainFor = time.Minute
)

// errLinksClosed: the proxy is shutting down.
var errLinksClosed = errors.New("connections to backends are closed")

// links are the connections to backends that sessions share. Each has a goroutine,
// which close waits for.
type links struct {
	dial func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error)
	log  *slog.Logger
	opt  frames.Options
	base context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu  sync.Mutex // protects what follows
	all map[linkKey]*trunk
}

// linkKey is a backend at an address: one that moved is another one.
type linkKey struct {
	id   director.BackendID
	addr string
}

// trunk has all connections to one backend.
type trunk struct {
	clients []client
	dialing *dialing  // nil: none is being made
	plain   time.Time // no frames are tried before
}

// client is a connection, and when it began to be made.
type client struct {
	*frames.Client
	began time.Time
}

// dialing is a connection being made.
type dialing struct {
	began  time.Time
	done   chan struct{} // closed when the rest is set
	client *frames.Client
	err    error
}

func newLinks(dial func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error), log *slog.Logger, opt frames.Options) *links {
	l := &links{dial: dial, log: log, opt: opt, all: map[linkKey]*trunk{}}
	l.base, l.stop = context.WithCancel(context.Background())
	return l
}

// get gives a connection that takes another session, and that was begun after a time:
// one from before a loss may be lost as well. frames.ErrPlain means that the backend
// wants a connection for each.
func (l *links) get(ctx context.Context, id director.BackendID, addr string, after time.Time) (*frames.Client, error) {
	for {
		best, d, err := l.find(linkKey{id, addr}, after)
		if best != nil || err != nil {
			return best, err
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !d.began.Before(after) {
			return d.client, d.err
		}
	}
}

// find gives a connection that there is, or one being made.
func (l *links) find(key linkKey, after time.Time) (*frames.Client, *dialing, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base.Err() != nil {
		return nil, nil, errLinksClosed
	}
	t := l.all[key]
	if t == nil {
		t = new(trunk)
		l.all[key] = t
	}
	if time.Now().Before(t.plain) {
		return nil, nil, frames.ErrPlain
	}
	best, usable := t.best(after)
	if t.dialing == nil && (best == nil || usable < maxLinks && best.Streams() >= linkSessions) {
		d := &dialing{began: time.Now(), done: make(chan struct{})}
		t.dialing = d
		l.work.Go(func() { l.run(key, t, d) })
	}
	return best, t.dialing, nil
}

// best is the one with the fewest sessions of those that take more.
func (t *trunk) best(after time.Time) (best *frames.Client, usable int) {
	for _, c := range t.clients {
		if !c.Usable() || c.began.Before(after) {
			continue
		}
		usable++
		if best == nil || c.Streams() < best.Streams() {
			best = c.Client
		}
	}
	return best, usable
}

// run is the life of a connection.
func (l *links) run(key linkKey, t *trunk, d *dialing) {
	conn, err := l.dial(l.base, key.id, key.addr)
	var c *frames.Client
	if err == nil {
		c, err = frames.Dial(l.base, conn, l.opt)
	}
	l.mu.Lock()
	t.dialing = nil
	switch {
	case err == nil:
		t.clients = append(t.clients, client{c, d.began})
	case errors.Is(err, frames.ErrPlain):
		t.plain = time.Now().Add(plainFor)
	case len(t.clients) == 0:
		delete(l.all, key)
	}
	d.client, d.err = c, err
	close(d.done)
	l.mu.Unlock()
	if err != nil {
		return
	}
	select {
	case <-c.Done():
	case <-l.base.Done():
	}
	l.mu.Lock()
	for i := range t.clients {
		if t.clients[i].Client == c {
			t.clients = append(t.clients[:i:i], t.clients[i+1:]...)
			break
		}
	}
	if len(t.clients) == 0 && t.dialing == nil {
		delete(l.all, key)
	}
	l.mu.Unlock()
	c.Close()
	if err := c.Err(); errors.Is(err, frames.ErrUnneeded) {
		l.log.Debug("connection to a backend closed", "backend", string(key.id))
	} else {
		l.log.Info("connection to a backend ended", "backend", string(key.id), "reason", err)
	}
}

// close ends all, with the sessions that are left.
func (l *links) close() {
	l.mu.Lock()
	l.stop()
	l.mu.Unlock()
	l.work.Wait()
}
