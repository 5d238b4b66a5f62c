package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"waypost/backend/control"
	"waypost/backend/sftp"
	"waypost/director"
	"waypost/internal/cluster"
)

// paces bound how fast users' trees are sent to movers' targets. The kernel keeps
// the pace (SO_MAX_PACING_RATE, socket(7)), evenly and without a copy; it may be
// changed while a pass runs.
type paces struct {
	mu  sync.Mutex
	all map[director.User]*paceOf
}

type paceOf struct {
	rate  int64 // bytes a second of all connections together; 0 does not bound
	epoch director.Epoch
	conns map[*tls.Conn]bool
}

const (
	// minPace keeps a connection alive: a packet of 64 KiB that waits for its turn
	// does so by the pace it was sent with, and is not hurried by a faster one.
	minPace = 64 << 10
	// maxPaces bounds the users whose pace is remembered without a connection.
	maxPaces = 4096
)

// setPace is PathPace.
func (b *Server) setPace(ctx context.Context, _ cluster.Peer, req control.PaceRequest) (control.PaceReply, error) {
	name, err := director.ParseUser(string(req.User))
	if err != nil || req.BytesPerSecond < 0 {
		return control.PaceReply{}, refuse(control.CodeBad, "pace of %d bytes/s for %q", req.BytesPerSecond, req.User)
	}
	rate := req.BytesPerSecond
	if rate > 0 {
		rate = max(rate, minPace)
	}
	if err := b.paces.set(name, req.Epoch, rate); err != nil {
		return control.PaceReply{}, fmt.Errorf("pace of %s: %w", name, err)
	}
	return control.PaceReply{BytesPerSecond: rate}, nil
}

func (p *paces) set(u director.User, epoch director.Epoch, rate int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.of(u)
	if x.epoch > epoch {
		return nil // the word of a move that is over
	}
	x.rate, x.epoch = rate, epoch
	err := x.apply()
	p.forget(u)
	return err
}

// of finds or makes a user's. Called under mu.
func (p *paces) of(u director.User) *paceOf {
	x := p.all[u]
	if x == nil {
		x = &paceOf{conns: make(map[*tls.Conn]bool)}
		p.all[u] = x
	}
	return x
}

// forget drops what says nothing, and, of what nobody is connected for, anything
// beyond the bound. Called under mu.
func (p *paces) forget(u director.User) {
	if x := p.all[u]; len(x.conns) == 0 && x.rate == 0 {
		delete(p.all, u)
	}
	for other, x := range p.all {
		if len(p.all) <= maxPaces {
			return
		}
		if len(x.conns) == 0 && other != u {
			delete(p.all, other)
		}
	}
}

// apply shares the rate among the connections. Called under mu.
func (x *paceOf) apply() error {
	if len(x.conns) == 0 {
		return nil
	}
	each := unlimited
	if x.rate > 0 {
		each = uint64(max(x.rate/int64(len(x.conns)), minPace/4))
	}
	var errs []error
	for c := range x.conns {
		errs = append(errs, setPacing(c.NetConn(), each))
	}
	return errors.Join(errs...)
}

// unlimited is ~0, the kernel's word for no bound.
const unlimited uint64 = 1<<32 - 1

func setPacing(c net.Conn, rate uint64) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("%T has no pace", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, int(min(rate, unlimited)))
	})
	if errors.Is(err, net.ErrClosed) {
		return nil // the pass ends
	}
	return errors.Join(err, set)
}

// pacedConn is how the connection comes from the listener to who learns whose tree
// is asked for on it.
type pacedConn struct{}

// servePaced is the SFTP server's part of a connection; serve is the rest.
func (b *Server) servePaced(serve func(context.Context, *tls.Conn, cluster.Peer)) func(context.Context, *tls.Conn, cluster.Peer) {
	return func(ctx context.Context, c *tls.Conn, from cluster.Peer) {
		defer b.paces.leave(c)
		serve(context.WithValue(ctx, pacedConn{}, c), c, from)
	}
}

// openPaced is what the SFTP server asks.
func (b *Server) openPaced(ctx context.Context, from cluster.Peer, name director.User, epoch director.Epoch) (sftp.Tree, error) {
	tree, err := b.openTree(ctx, from, name, epoch)
	if err != nil {
		return nil, err
	}
	if c, ok := ctx.Value(pacedConn{}).(*tls.Conn); ok {
		if err := b.paces.join(name, epoch, c); err != nil {
			b.log.Warn("a copy is not held to its pace", "user", name, "error", err)
		}
	}
	return tree, nil
}

// join holds a connection to the pace of its move. What was said for an earlier move
// is over.
func (p *paces) join(u director.User, epoch director.Epoch, c *tls.Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.of(u)
	x.conns[c] = true
	if epoch > x.epoch {
		x.rate, x.epoch = 0, epoch
	}
	if x.rate == 0 {
		return nil
	}
	return x.apply()
}

// leave takes a connection away that ends. The others' share grows.
func (p *paces) leave(c *tls.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u, x := range p.all {
		if !x.conns[c] {
			continue
		}
		delete(x.conns, c)
		if x.rate > 0 {
			_ = x.apply() // it was kept before; a connection that failed ends by itself
		}
		p.forget(u)
		return
	}
}
