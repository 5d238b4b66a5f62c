package rebalance

import (
	"context"
	"fmt"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// A client in the middle of a long message would lose its connection by the freeze: the message
// can neither end there nor be carried along. Before the user is marked busy the move waits for it,
// for a bounded time.

// Listening is a Backend that tells of such clients; one of an older version does not, and is not
// waited for.
type Listening interface {
	Sending(ctx context.Context, u director.User) (control.SendingReply, error)
}

// unsent waits until nobody is in the middle of a long message, or patience is over. It tells how
// long that took; 0: nobody was.
func (c *copying) unsent(ctx context.Context, source Backend, patience time.Duration) (took time.Duration, err error) {
	l, ok := source.(Listening)
	if !ok {
		return 0, nil
	}
	begun := time.Now()
	defer func() { c.s.metrics.sending.Add(took.Seconds()) }()
	for time.Since(begun) < patience {
		r, known := c.sending(ctx, l)
		if !known || r.Sessions == 0 {
			break
		}
		c.say(ctx, reason{"sending", sendingText(r)})
		pause(ctx, c.s.cfg.SendingEvery)
		took = time.Since(begun)
		if ctx.Err() != nil {
			return took, ctx.Err()
		}
		c.tries.progress() // to wait is no failure
	}
	if took > 0 {
		c.say(ctx, reason{})
	}
	return took, nil
}

// sending asks the source. Who does not answer is not waited for: whether it is there at all is for
// the freeze to find out.
func (c *copying) sending(ctx context.Context, l Listening) (r control.SendingReply, known bool) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	r, err := l.Sending(ctx, c.move.User)
	if err != nil {
		c.s.log.Debug("not known who is sending", "user", c.move.User, "backend", string(c.move.Source), "error", err)
	}
	return r, err == nil
}

func sendingText(r control.SendingReply) string {
	size := "a long message"
	if mb := (r.Bytes + 999_999) / 1_000_000; mb > 0 {
		size = fmt.Sprintf("a long message, %d MB to come", mb)
	}
	if r.Sessions == 1 {
		return "a client is in the middle of sending " + size
	}
	return fmt.Sprintf("%d clients are in the middle of sending %s", r.Sessions, size)
}
