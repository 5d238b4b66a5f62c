package director

import (
	"context"
	"errors"
	"fmt"
)

// Limit bounds what movers do at once. Zero fields do not bound.
type Limit struct {
	// BytesPerSecond is shared by all moves that it counts for.
	BytesPerSecond int64 `json:"bytes_per_second,omitempty"`
	// Moves are those under way: begun, and not ended.
	Moves int `json:"moves,omitempty"`
}

// Limits is the key limits: what bounds all moves together, and those that leave
// or enter a backend. Movers watch it; a change counts for moves under way as well,
// but takes none of them back.
type Limits struct {
	Version int `json:"v"`
	Limit
	Backends map[BackendID]Limit `json:"backends,omitempty"`
}

// Validate says what is wrong.
func (l Limit) Validate() error {
	if l.BytesPerSecond < 0 || l.Moves < 0 {
		return fmt.Errorf("limit of %d bytes/s and %d moves: not below 0: %w", l.BytesPerSecond, l.Moves, ErrInvalid)
	}
	return nil
}

// DecodeLimits reads a stored Limits.
func DecodeLimits(b []byte) (Limits, error) { return decode[Limits]("limits", b) }

// Limits reads the limits of moves linearizably; the zero value where none were set.
func (d *Directory) Limits(ctx context.Context) (Versioned[Limits], error) {
	v, err := read(ctx, d.store, KeyLimits, DecodeLimits)
	if errors.Is(err, ErrNotFound) {
		return Versioned[Limits]{}, nil
	}
	return v, err
}

// SetLimit replaces one limit and gives all: that of a backend, or, where it is
// empty, the one of all moves together. ErrNotFound for an unknown backend; a zero
// limit of a backend is forgotten.
func (d *Directory) SetLimit(ctx context.Context, id BackendID, change func(*Limit)) (Limits, error) {
	if id != "" {
		if _, err := d.Backend(ctx, id); err != nil {
			return Limits{}, fmt.Errorf("limit moves: %w", err)
		}
	}
	var all Limits
	err := update(ctx, d, KeyLimits, DecodeLimits, func(l Limits, _ bool) (Limits, bool, error) {
		one := l.Limit
		if id != "" {
			one = l.Backends[id]
		}
		change(&one)
		if err := one.Validate(); err != nil {
			return l, true, err
		}
		switch {
		case id == "":
			l.Limit = one
		case one == Limit{}:
			delete(l.Backends, id)
		default:
			if l.Backends == nil {
				l.Backends = make(map[BackendID]Limit)
			}
			l.Backends[id] = one
		}
		l.Version = valueVersion
		all = l
		return l, true, nil
	})
	return all, err
}
