// Package linktest is for tests of protocols over a link.Link: a connection that takes
// hand-offs, without the frames. It owns nothing, and nothing of it survives.
package linktest

import (
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Checkpoint is what a session has said of itself.
type Checkpoint struct {
	Consumed, Sent uint64
	State          []byte // with its tip
}

// Carrier is a connection as a backend sees that of a proxy: after a hand-off the client's
// own goes on, whatever is done with the Carrier.
type Carrier struct {
	net.Conn
	// Made is told of each checkpoint.
	Made chan Checkpoint

	// Points: the other end knows of points.
	Points bool

	mu        sync.Mutex // guards what follows
	state     []byte
	base, tip []byte
}

// New gives a Carrier over the client's connection.
func New(c net.Conn) *Carrier { return &Carrier{Conn: c, Made: make(chan Checkpoint, 100)} }

// CanHandOff is frames.Stream's.
func (c *Carrier) CanHandOff() bool { return true }

// HandOff is frames.Stream's.
func (c *Carrier) HandOff(state []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
	return nil
}

// Checkpoint is frames.Stream's.
func (c *Carrier) Checkpoint(consumed, sent uint64, state []byte) error {
	c.Made <- Checkpoint{consumed, sent, state}
	return nil
}

// CanPoint is frames.Stream's.
func (c *Carrier) CanPoint() bool { return c.Points }

// Point is frames.Stream's.
func (c *Carrier) Point(consumed, sent uint64, state, tip []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state != nil {
		c.base, c.tip = state, nil
	}
	if tip != nil {
		c.tip = tip
	}
	c.Made <- Checkpoint{consumed, sent, slices.Concat(c.base, c.tip)}
	return nil
}

// State is what the session was handed off with; nil if it was not.
func (c *Carrier) State() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Carrier) unless(do func() error) error {
	if c.State() != nil {
		return os.ErrClosed
	}
	return do()
}

// Close implements net.Conn.
func (c *Carrier) Close() error { return c.unless(c.Conn.Close) }

// SetDeadline implements net.Conn.
func (c *Carrier) SetDeadline(t time.Time) error {
	return c.unless(func() error { return c.Conn.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn.
func (c *Carrier) SetReadDeadline(t time.Time) error {
	return c.unless(func() error { return c.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn.
func (c *Carrier) SetWriteDeadline(t time.Time) error {
	return c.unless(func() error { return c.Conn.SetWriteDeadline(t) })
}
