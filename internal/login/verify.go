package login

import (
	"context"
	"errors"
	"fmt"

	"waypost/internal/auth"
)

// flight is a verification under way. A mail client opens several connections
// at once, all with one password: the first one hashes, the others wait for it.
type flight struct {
	done  chan struct{} // closed when right and err are set
	right bool
	err   error
}

// verify decides by the hash. For an unknown user it takes the same way, so
// that neither the answer nor its time tells whether the user exists.
func (g *Guard) verify(ctx context.Context, c claim) (Outcome, error) {
	right, err := g.fly(ctx, c)
	switch {
	case errors.Is(err, ErrThrottled):
		return OutcomeThrottled, err
	case errors.Is(err, ErrOverloaded):
		return OutcomeOverloaded, err
	case err != nil:
		return OutcomeUnavailable, err
	case right:
		return OutcomeVerified, nil
	case c.known:
		return OutcomeBadPassword, ErrBadCredentials
	}
	return OutcomeUnknownUser, ErrBadCredentials
}

// fly leads the verification of the claim, or joins the one under way.
func (g *Guard) fly(ctx context.Context, c claim) (bool, error) {
	for {
		f, leads, err := g.board(c)
		if err != nil {
			return false, err
		}
		if leads {
			return g.lead(ctx, c, f)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		if ended(f.err) {
			continue // the leader's client hung up; ours did not
		}
		if f.err == nil {
			g.settle(c, f.right)
		}
		return f.right, f.err
	}
}

func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (g *Guard) board(c claim) (f *flight, leads bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, flying := g.flights[c.seal]; flying {
		return f, false, nil
	}
	if !g.throttle.begin(c.account.User, c.where) {
		return nil, false, ErrThrottled
	}
	f = &flight{done: make(chan struct{})}
	g.flights[c.seal] = f
	return f, true, nil
}

// lead hashes, and settles before it lands: whoever comes after the flight must
// find its outcome in memory. It looks there once more itself, for it may have
// looked first while an earlier flight was still under way.
func (g *Guard) lead(ctx context.Context, c claim, f *flight) (bool, error) {
	defer func() {
		g.mu.Lock()
		delete(g.flights, c.seal)
		g.mu.Unlock()
		g.throttle.end(c.account.User, c.where)
		close(f.done)
	}()
	if now := g.now(); c.known && g.remembered.recall(c.account.User, c.seal, c.where.addr, now).password {
		g.remembered.trust(c.account.User, c.where.addr, now)
		f.right = true
		return true, nil
	}
	if f.right, f.err = g.hash(ctx, c); f.err == nil {
		g.settle(c, f.right)
	}
	return f.right, f.err
}

func (g *Guard) hash(ctx context.Context, c claim) (right bool, err error) {
	// An account without a hash has no password that could be right.
	if c.known && c.account.Hash != "" {
		right, err = g.hasher.Verify(ctx, c.account.Hash, c.password)
	} else {
		err = g.hasher.Burn(ctx, c.password)
	}
	switch {
	case errors.Is(err, auth.ErrOverloaded):
		return false, fmt.Errorf("%w: %w", ErrOverloaded, err)
	case err != nil:
		// A stored hash that cannot be verified is here too: it proves nothing
		// about the password, so the client must not be told to drop it.
		return false, fmt.Errorf("%w: verify: %w", ErrUnavailable, err)
	}
	return right, nil
}

func (g *Guard) settle(c claim, right bool) {
	now := g.now()
	if right {
		g.remembered.verified(c.account.User, c.seal, c.where.addr, now)
		return
	}
	g.throttle.failed(c.account.User, c.where, c.seal, now)
}
