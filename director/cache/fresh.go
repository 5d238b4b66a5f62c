package cache

import (
	"context"
	"errors"
	"fmt"

	"waypost/director"
)

// readAll reads keys linearizably and gives the state of the era they were
// read in, which is current then.
func (c *Client) readAll(ctx context.Context, keys []string) (*state, []director.Entry, error) {
	keys = append([]string{director.KeyEra}, keys...)
	for range eraTries {
		base := c.st.Load()
		call, cancel := context.WithTimeout(ctx, callLimit)
		es, err := c.store.GetAll(call, keys)
		cancel()
		if ctx.Err() == nil {
			c.note(err) // else it says nothing of the store
		}
		if err != nil {
			return nil, nil, err
		}
		if es[0].Rev == 0 {
			err := errNoEra()
			c.note(err)
			return nil, nil, err
		}
		if st, ok := c.adopt(base, string(es[0].Value)); ok {
			return st, es[1:], nil
		}
	}
	return nil, nil, fmt.Errorf("the era keeps changing: %w", director.ErrUnavailable)
}

// Fresh reads a user's record linearizably and brings it into the memory. What
// it returns is never older than what any call has returned before. Errors wrap
// ErrNotFound or ErrUnavailable.
func (c *Client) Fresh(ctx context.Context, u director.User) (director.Record, error) {
	for range eraTries {
		st, es, err := c.readAll(ctx, []string{director.LocationKey(u)})
		if err != nil {
			return director.Record{}, fmt.Errorf("fresh location of %s: %w", u, err)
		}
		r, err := c.learn(st, u, es[0])
		if c.st.Load() != st {
			continue // an era ended meanwhile; nothing of it is returned any more
		}
		if err != nil {
			return director.Record{}, fmt.Errorf("fresh location of %s: %w", u, err)
		}
		return r, nil
	}
	return director.Record{}, fmt.Errorf("fresh location of %s: the era keeps changing: %w", u, director.ErrUnavailable)
}

// FreshUser reads a user's record and account linearizably, as they were at one
// moment: who that record is of. The record is brought into the memory and is
// never older than what any call has returned before; the account is left to
// the watch to bring. exists is whether there is an account. A tombstone is a
// record. Errors as of Fresh.
func (c *Client) FreshUser(ctx context.Context, u director.User) (r director.Record, a director.Account, exists bool, err error) {
	fail := func(err error) (director.Record, director.Account, bool, error) {
		return director.Record{}, director.Account{}, false, fmt.Errorf("fresh user %s: %w", u, err)
	}
	for range eraTries {
		st, es, err := c.readAll(ctx, []string{director.LocationKey(u), director.AccountKey(u)})
		if err != nil {
			return fail(err)
		}
		r, err := c.learn(st, u, es[0])
		if c.st.Load() != st {
			continue // an era ended meanwhile
		}
		if err != nil {
			return fail(err)
		}
		if es[0].Rev != 0 {
			if read, err := director.DecodeRecord(es[0].Value); err != nil || read != r {
				continue // the watch was faster: the account may be of before
			}
		}
		if es[1].Rev == 0 {
			return r, director.Account{}, false, nil
		}
		if a, err = director.DecodeAccount(es[1].Value); err != nil {
			return fail(err)
		}
		return r, a, true, nil
	}
	return fail(fmt.Errorf("it keeps changing: %w", director.ErrUnavailable))
}

// learn takes what was read of a user into the memory and gives what is newest:
// the watch may have been faster than the read.
func (c *Client) learn(st *state, u director.User, e director.Entry) (director.Record, error) {
	if e.Rev == 0 {
		if r, known := st.location(u); known {
			return r, nil
		}
		return director.Record{}, director.ErrNotFound
	}
	r, err := director.DecodeRecord(e.Value)
	if err != nil {
		return director.Record{}, err
	}
	now, ok := st.putLocation(u, r)
	if !ok {
		return director.Record{}, fmt.Errorf("location record %q: %w", r, director.ErrInvalid)
	}
	c.dirty.Store(true)
	return now, nil
}

// WaitChange waits until the user's record has an epoch above after, and
// returns it; at once if it has one already. Callers with a deadline of their
// own should re-read then with Fresh (R11). Its error wraps ctx's.
func (c *Client) WaitChange(ctx context.Context, u director.User, after director.Epoch) (director.Record, error) {
	for {
		st := c.st.Load()
		r, w := st.await(u, after)
		if w == nil {
			if c.st.Load() != st {
				continue
			}
			return r, nil
		}
		select {
		case <-w.changed:
		case <-st.dropped:
		case <-c.ended:
			st.leave(u, w)
			return director.Record{}, fmt.Errorf("wait for %s to change: %w", u, errClosed())
		case <-ctx.Done():
		}
		st.leave(u, w)
		if err := ctx.Err(); err != nil {
			return director.Record{}, fmt.Errorf("wait for %s to change: %w", u, err)
		}
	}
}

// unavailable makes an error temporary that is not known to be permanent.
func unavailable(err error) error {
	if errors.Is(err, director.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
}
