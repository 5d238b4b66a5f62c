package frames

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"waypost/internal/wire"
)

// Errors of a Client.
var (
	// ErrPlain: the backend is an older one, which takes a connection for each
	// session.
	ErrPlain = errors.New("the backend does not speak frames")
	// ErrRetired: no more streams are opened on this connection.
	ErrRetired = errors.New("the connection takes no more sessions")
	// ErrUnneeded is why a connection ends that has no sessions, or was closed.
	ErrUnneeded = errors.New("not needed any more")
)

// maxStream is after how many streams a connection is retired.
const maxStream = 1<<32 - 2

// Client is a proxy's end of a connection. It is safe for concurrent use.
type Client struct {
	*link
	opening sync.Mutex // held while OPEN or RESUME is sent
	work    sync.WaitGroup
}

// Dial begins frames on conn, a new connection to a backend, which it takes over. It
// is ErrPlain for a backend that does not know them; conn is closed then, and after
// any other error.
func Dial(ctx context.Context, conn net.Conn, opt Options) (*Client, error) {
	c := &Client{link: newLink(conn, conn, opt, true)}
	if err := c.begin(ctx); err != nil {
		_ = conn.Close() // the failure is what counts
		return nil, err
	}
	c.work.Go(func() { c.fail(reason(c.link.read(c.handle))) })
	c.work.Go(c.keep)
	return c, nil
}

func (c *Client) begin(ctx context.Context) error {
	if err := c.conn.SetDeadline(time.Now().Add(c.opt.Write)); err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) }) // closed: nothing to end
	err := wire.Write(c.conn, wire.Hello{Version: wire.VersionFrames, Protocol: wire.ProtocolFrames, HandOff: c.opt.HandOff})
	var w wire.Welcome
	if err == nil {
		err = wire.Read(c.br, &w)
	}
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	switch {
	case err != nil:
		return fmt.Errorf("begin of frames: %w", err)
	case w.Version != wire.VersionFrames:
		return fmt.Errorf("%w: %s: %s", ErrPlain, w.Status, w.Text)
	case w.Status != wire.StatusOK:
		return fmt.Errorf("begin of frames: %s: %s", w.Status, w.Text)
	}
	c.carry = c.opt.HandOff && w.HandOff
	return c.conn.SetDeadline(time.Time{})
}

// keep shows the backend that we live, and ends a connection that is not needed.
func (c *Client) keep() {
	tick := time.NewTicker(c.opt.Ping)
	defer tick.Stop()
	for {
		select {
		case <-c.finished:
			return
		case <-c.emptied:
		case <-tick.C:
			_ = c.send(TypePing, 0, nil, nil) // its failure ends the connection
		}
		if c.unneeded() {
			c.fail(ErrUnneeded)
			return
		}
	}
}

// unneeded tells whether there is no stream and need not be one; then there will be
// none.
func (c *Client) unneeded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) > 0 || !c.retired && time.Since(c.changed) < c.opt.Idle {
		return false
	}
	c.retired = true
	return true
}

func (c *Client) handle(h Header, _ []byte) error {
	if h.Type == TypeGoAway {
		c.retire()
	}
	return nil
}

// Usable tells whether streams can be opened.
func (c *Client) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.retired
}

// Streams is how many sessions the connection has now.
func (c *Client) Streams() int { return c.streamCount() }

// Retire lets the sessions go on that there are, and then closes the connection.
func (c *Client) Retire() { c.retire() }

// Close ends the connection with its sessions.
func (c *Client) Close() {
	c.fail(ErrUnneeded)
	c.work.Wait()
}

// welcome is the answer that Open waits for.
type welcome struct {
	wire.Welcome
	err error
}

// Open opens a session. The Stream is nil unless the answer's status is ok. ErrRetired,
// ErrPeerClosed and ErrLost mean that another connection may do better.
func (c *Client) Open(ctx context.Context, h wire.Hello) (*Stream, wire.Welcome, error) {
	text, err := encodeHello(h, c.carry)
	if err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("open: %w", err)
	}
	s, answer, err := c.begun(TypeOpen, text)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	got := c.answer(ctx, answer)
	if got.err == nil && got.Status == wire.StatusOK {
		return s, got.Welcome, nil
	}
	_ = s.Close() // it has not begun
	if got.err != nil {
		got.err = fmt.Errorf("open: %w", got.err)
	}
	return nil, got.Welcome, got.err
}

// answer waits for WELCOME, or what comes in its place.
func (c *Client) answer(ctx context.Context, answer <-chan welcome) welcome {
	select {
	case got := <-answer:
		return got
	case <-ctx.Done():
		return welcome{err: context.Cause(ctx)}
	}
}

// begun sends OPEN or RESUME. Streams come in the order of their numbers, so that the
// backend knows which have been.
func (c *Client) begun(t Type, hello []byte) (*Stream, chan welcome, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	c.mu.Lock()
	if c.retired || c.last >= maxStream {
		c.retired = true
		c.mu.Unlock()
		return nil, nil, ErrRetired
	}
	answer := make(chan welcome, 1)
	s := c.add(c.last + 1)
	s.answer = answer
	c.mu.Unlock()
	if err := c.send(t, s.id, nil, hello); err != nil {
		return nil, nil, err
	}
	return s, answer, nil
}

// welcomed is WELCOME; mu is held.
func (s *Stream) welcomed(payload []byte) error {
	w, err := decodeWelcome(payload)
	if err != nil || s.answer == nil {
		return fmt.Errorf("WELCOME: %w", errors.Join(ErrProtocol, err))
	}
	s.answered(welcome{Welcome: w})
	return nil
}

// answered tells Open, if it still waits; mu is held.
func (s *Stream) answered(w welcome) {
	if s.answer != nil {
		s.answer <- w // there is room for the one answer
		s.answer = nil
	}
}

// Done is closed when the connection has ended, be it by Close; Err tells why.
func (c *Client) Done() <-chan struct{} { return c.finished }

// Err is nil while the connection lasts.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
