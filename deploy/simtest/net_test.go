package simtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"waypost/internal/frames"
)

// network has the connections between clients, proxies and backends. What is written
// comes to the other side when its turn comes, and a write waits for nobody.
type network struct {
	w     *world
	n     int
	moved time.Time // when bytes last came somewhere
	links []*cable  // that are not over
}

// cable is a connection; its ends are near, of who made it, and far.
type cable struct {
	name      string
	near, far *end
}

// end is one end of a connection.
type end struct {
	name          string
	local, remote net.Addr
	peer          *end

	mu      sync.Mutex // protects what follows
	in      []byte     // has come, and was not read
	out     []byte     // is on its way
	ended   bool       // nothing comes behind in
	closing bool       // nothing is written behind out
	closed  bool       // on this side
	framed  bool       // sessions share the connection
	greeted bool       // its first line has gone
	failed  error
	news    chan struct{} // closed and replaced when reads are to look again
	more    chan struct{} // holds one: there is something on its way
	by, wby time.Time     // deadlines
	timer   *time.Timer
}

// connect makes a connection. Who does has the turn.
func (n *network) connect(from, to string, address net.Addr) (near, far *end) {
	n.n++
	c := &cable{name: fmt.Sprintf("%s>%s.%d", from, to, n.n)}
	make1 := func(name string, local, remote net.Addr) *end {
		return &end{name: name, local: local, remote: remote, news: make(chan struct{}), more: make(chan struct{}, 1)}
	}
	server := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 143}
	c.near, c.far = make1(c.name, address, server), make1(fmt.Sprintf("%s<%s.%d", from, to, n.n), server, address)
	c.near.framed = !strings.HasPrefix(from, "c")
	c.far.framed = c.near.framed
	c.near.peer, c.far.peer = c.far, c.near
	n.links = append(n.links, c)
	for _, e := range []*end{c.near, c.far} {
		n.w.running.Go(func() { n.carry(e) })
	}
	return c.near, c.far
}

// carry takes what an end writes to the other one, in turns.
func (n *network) carry(e *end) {
	for {
		<-e.more
		if !e.pending() {
			continue // it went along with what was before
		}
		// When all ends, it goes on in turns, without lateness.
		_ = n.w.step(n.w.ctx, e.name, "bytes")
		n.moved = time.Now()
		p, closing, failed := e.next()
		if failed == nil {
			e.peer.arrive(p, closing)
		}
		if closing || failed != nil {
			return
		}
	}
}

// next takes what comes in one turn: all that was written, but of what sessions share one
// frame: who hears of it is to have done what that makes him do before the next one comes.
func (e *end) next() (p []byte, over bool, failed error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.out)
	if e.framed && n > 0 {
		if line := bytes.IndexByte(e.out, '\n'); !e.greeted && line >= 0 {
			n, e.greeted = line+1, true
		} else if h, err := frames.ParseHeader(e.out[:min(n, frames.HeaderBytes)]); e.greeted && err == nil {
			n = min(n, frames.HeaderBytes+int(h.Length))
		}
	}
	p, e.out = e.out[:n:n], e.out[n:]
	over = e.closing && len(e.out) == 0
	if len(e.out) > 0 {
		e.tell()
	}
	return p, over, e.failed
}

// pending tells whether there is something on its way.
func (e *end) pending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.out) > 0 || e.closing
}

func (e *end) arrive(p []byte, over bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil && !e.closed {
		e.in, e.ended = append(e.in, p...), e.ended || over
	}
	e.wake()
}

// wake has reads look again. The caller holds mu.
func (e *end) wake() {
	close(e.news)
	e.news = make(chan struct{})
}

// fail breaks this end: what it wrote and what it was to read is lost.
func (e *end) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return
	}
	e.failed, e.in, e.out, e.closing = err, nil, nil, true
	e.wake()
	e.tell()
}

// tell has carry look. The caller holds mu.
func (e *end) tell() {
	select {
	case e.more <- struct{}{}:
	default:
	}
}

// Read implements net.Conn.
func (e *end) Read(p []byte) (int, error) {
	for {
		e.mu.Lock()
		news := e.news
		switch {
		case e.closed:
			defer e.mu.Unlock()
			return 0, net.ErrClosed
		case e.failed != nil:
			defer e.mu.Unlock()
			return 0, e.failed
		case !e.by.IsZero() && !time.Now().Before(e.by):
			defer e.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(e.in) > 0:
			defer e.mu.Unlock()
			n := copy(p, e.in)
			e.in = e.in[n:]
			return n, nil
		case e.ended:
			defer e.mu.Unlock()
			return 0, io.EOF
		}
		e.mu.Unlock()
		<-news
	}
}

// Write implements net.Conn.
func (e *end) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failed != nil:
		return 0, e.failed
	case e.closing:
		return 0, net.ErrClosed
	case !e.wby.IsZero() && !time.Now().Before(e.wby):
		return 0, os.ErrDeadlineExceeded
	}
	e.out = append(e.out, p...)
	e.tell()
	return len(p), nil
}

// Close implements net.Conn: what was written still comes.
func (e *end) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	e.closed, e.closing, e.in = true, true, nil
	if e.timer != nil {
		e.timer.Stop()
	}
	e.wake()
	e.tell()
	return nil
}

// SetReadDeadline implements net.Conn.
func (e *end) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return net.ErrClosed
	}
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if e.by = t; !t.IsZero() {
		e.timer = time.AfterFunc(time.Until(t), func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.wake()
		})
	}
	e.wake()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (e *end) SetWriteDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return net.ErrClosed
	}
	e.wby = t
	return nil
}

// SetDeadline implements net.Conn.
func (e *end) SetDeadline(t time.Time) error {
	_ = e.SetWriteDeadline(t) // which fails as the other does
	return e.SetReadDeadline(t)
}

// LocalAddr implements net.Conn.
func (e *end) LocalAddr() net.Addr { return e.local }

// RemoteAddr implements net.Conn.
func (e *end) RemoteAddr() net.Addr { return e.remote }

// alive are the connections whose name pick likes and that nobody has ended.
func (n *network) alive(pick func(*cable) bool) (all []*cable) {
	live := n.links[:0]
	for _, c := range n.links {
		if c.near.over() && c.far.over() {
			continue
		}
		live = append(live, c)
		if pick(c) {
			all = append(all, c)
		}
	}
	n.links = live
	return all
}

func (e *end) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closing
}

// cut breaks a connection for one of its sides, or for both.
func (c *cable) cut(near, far bool) {
	if near {
		c.near.fail(syscall.ECONNRESET)
	}
	if far {
		c.far.fail(syscall.ECONNRESET)
	}
}
