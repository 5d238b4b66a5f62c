package prelogin

import (
	"context"
	"fmt"
	"time"
)

// Converse has one take command after command, until it says that a login has
// succeeded and been answered, which is nil, or gives an error, which is Converse's.
// After Limits.Commands without either it is ErrLimits.
func (c *Conn) Converse(ctx context.Context, one func(context.Context) (done bool, err error)) error {
	for range c.limits.Commands {
		if done, err := one(ctx); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("%d commands without a login: %w", c.limits.Commands, ErrLimits)
}

// Refuse has a refused login answered. One that counts as a failed attempt is
// answered after Limits.FailureDelay, and after Limits.Failures of them the error is
// both ErrFailures and ErrLimits. answer is told whether the server has begun to stop
// meanwhile: then what it says is that, not that the password was wrong.
func (c *Conn) Refuse(ctx context.Context, counts bool, answer func(stopping bool) error) error {
	stopping := false
	if counts {
		c.failures++
		stopping = delay(ctx, c.limits.FailureDelay) != nil
	}
	if err := answer(stopping); err != nil {
		return err
	}
	if c.failures >= c.limits.Failures {
		return fmt.Errorf("%d %w: %w", c.failures, ErrFailures, ErrLimits)
	}
	return nil
}

// delay waits for d, or for the end of ctx, whose error it then returns.
func delay(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
