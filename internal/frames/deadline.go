package frames

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// SetDeadline, SetReadDeadline and SetWriteDeadline implement net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.read, &s.rcond, t) }

// SetWriteDeadline implements net.Conn. It bounds the wait for the other side to
// consume; the network has bounds of its own.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.write, &s.wcond, t) }

func (s *Stream) setDeadline(d *deadline, c *sync.Cond, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("set deadline: %w", net.ErrClosed)
	}
	now := time.Now()
	d.at, d.passed = t, !t.IsZero() && !t.After(now)
	switch {
	case d.passed:
		c.Broadcast()
		d.stop()
	case t.IsZero():
		d.stop()
	case d.timer == nil:
		d.fires = t
		d.timer = time.AfterFunc(t.Sub(now), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.closed && d.due(time.Now()) {
				c.Broadcast()
			}
		})
	case d.fires.IsZero() || t.Before(d.fires):
		d.fires = t
		d.timer.Reset(t.Sub(now))
	}
	return nil
}

// deadline is a time at which somebody must not wait any more. It is mostly set anew long
// before: then the timer is left to fire, and waits on.
type deadline struct {
	at     time.Time // zero: none
	passed bool
	timer  *time.Timer
	fires  time.Time // when the timer does; zero: it does not
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.fires = time.Time{}
	}
}

// due is for the timer, which may fire although the deadline was set anew: then it waits on.
func (d *deadline) due(now time.Time) bool {
	d.fires = time.Time{}
	switch {
	case d.at.IsZero():
	case !now.Before(d.at):
		d.passed = true
	default:
		d.fires = d.at
		d.timer.Reset(d.at.Sub(now))
	}
	return d.passed
}
