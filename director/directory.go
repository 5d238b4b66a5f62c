package director

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Directory is the typed view of a Store: each method is one linearizable read
// or one guarded transaction (R6). Safe for concurrent use.
type Directory struct {
	store Store
}

// New gives the typed view. It makes no call.
func New(s Store) *Directory { return &Directory{store: s} }

// Store is what the directory lies on, for caches that watch it.
func (d *Directory) Store() Store { return d.store }

// Init makes schema and era where they are absent, and refuses a store that
// another version of the schema wrote.
func (d *Directory) Init(ctx context.Context, newEra func() string) error {
	for range conflictTries {
		es, err := d.store.GetAll(ctx, []string{keySchema, keyEra})
		if err != nil {
			return err
		}
		if es[0].Rev != 0 {
			if string(es[0].Value) != SchemaVersion {
				return fmt.Errorf("directory schema is %q, this waypost reads %q: run the version that wrote it: %w", es[0].Value, SchemaVersion, ErrInvalid)
			}
			if es[1].Rev == 0 {
				// Both are written in one transaction: somebody has taken the
				// era away, and is restoring (R10).
				return fmt.Errorf("the directory has no era: it is being restored: %w", ErrUnavailable)
			}
			return nil
		}
		_, _, err = d.store.Commit(ctx,
			[]Guard{{keySchema, es[0].Rev}, {keyEra, es[1].Rev}},
			[]Op{{Key: keySchema, Value: []byte(SchemaVersion)}, {Key: keyEra, Value: []byte(newEra())}})
		if err != nil && !errors.Is(err, ErrUnknown) {
			return err
		}
	}
	return fmt.Errorf("initialise the directory: %w", ErrConflict)
}

// conflictTries bounds optimistic retries of one operation.
const conflictTries = 16

// Versioned is a value with the revision a guarded change compares.
type Versioned[T any] struct {
	Value T
	Rev   int64
}

// Location reads a user's record linearizably; ErrNotFound when there is none.
// A tombstone is a record.
func (d *Directory) Location(ctx context.Context, u User) (Versioned[Record], error) {
	return read(ctx, d.store, LocationKey(u), DecodeRecord)
}

// Account reads a user's account linearizably.
func (d *Directory) Account(ctx context.Context, u User) (Versioned[Account], error) {
	return read(ctx, d.store, AccountKey(u), DecodeAccount)
}

// Move reads a user's move journal linearizably: the one under way, else the
// receipt of the last one that has ended.
func (d *Directory) Move(ctx context.Context, u User) (Versioned[Move], error) {
	es, err := d.store.GetAll(ctx, []string{MoveKey(u), ReceiptKey(u)})
	if err != nil {
		return Versioned[Move]{}, fmt.Errorf("read the journal of %s: %w", u, err)
	}
	for _, e := range es {
		if e.Rev != 0 {
			m, err := DecodeMove(e.Value)
			return Versioned[Move]{m, e.Rev}, err
		}
	}
	return Versioned[Move]{}, fmt.Errorf("%s: %w", MoveKey(u), ErrNotFound)
}

// Backend reads a backend's record linearizably.
func (d *Directory) Backend(ctx context.Context, id BackendID) (Versioned[Backend], error) {
	return read(ctx, d.store, BackendKey(id), DecodeBackend)
}

// Domain reads a domain's record linearizably.
func (d *Directory) Domain(ctx context.Context, name string) (Versioned[Domain], error) {
	return read(ctx, d.store, DomainKey(name), DecodeDomain)
}

// Address reads an address record linearizably.
func (d *Directory) Address(ctx context.Context, local, domain string) (Versioned[Address], error) {
	return read(ctx, d.store, AddressKey(local, domain), DecodeAddress)
}

func read[T any](ctx context.Context, s Store, key string, dec func([]byte) (T, error)) (Versioned[T], error) {
	e, err := s.Get(ctx, key)
	if err != nil {
		return Versioned[T]{}, fmt.Errorf("read %s: %w", key, err)
	}
	if e.Rev == 0 {
		return Versioned[T]{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	v, err := dec(e.Value)
	if err != nil {
		return Versioned[T]{}, fmt.Errorf("%s: %w", key, err)
	}
	return Versioned[T]{v, e.Rev}, nil
}

// change is the one way to change the directory: read keys and the era at one
// revision, let decide make the ops, commit guarded by all that was read.
// A lost race reads and decides again. An unknown result does the same, so
// decide must recognise its own change and return no ops then.
func (d *Directory) change(ctx context.Context, keys []string, decide func([]Entry) ([]Op, error)) error {
	keys = append([]string{keyEra}, keys...)
	unknown := false
	for range conflictTries {
		es, err := d.store.GetAll(ctx, keys)
		if err != nil {
			if unknown {
				return fmt.Errorf("%w: %w", ErrUnknown, err)
			}
			return err
		}
		if es[0].Rev == 0 {
			return fmt.Errorf("the directory has no era: it was never initialised, or is being restored: %w", ErrUnavailable)
		}
		ops, err := decide(es[1:])
		if err != nil && unknown {
			// Ours may have been made, and another one on top of it.
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		if err != nil || len(ops) == 0 {
			return err
		}
		guards := make([]Guard, len(es))
		for i, e := range es {
			guards[i] = Guard{e.Key, e.Rev}
		}
		_, done, err := d.store.Commit(ctx, guards, ops)
		switch {
		case err == nil && done:
			return nil
		case err != nil && !errors.Is(err, ErrUnknown):
			return err
		case err != nil:
			unknown = true
		}
	}
	err := fmt.Errorf("after %d tries: %w", conflictTries, ErrConflict)
	if unknown {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// CreateUser publishes a user whose mailbox its home has prepared (R12), with
// its account. ErrExists if the user is there; ErrConflict if the tombstone is
// not the one that was prepared for: epoch must be prev's epoch + 1.
func (d *Directory) CreateUser(ctx context.Context, u User, rec Record, acct Account) error {
	acct.Version = valueVersion
	err := d.change(ctx, []string{LocationKey(u), AccountKey(u), DomainKey(u.Domain())}, func(es []Entry) ([]Op, error) {
		if es[2].Rev == 0 {
			return nil, fmt.Errorf("domain %s: %w", u.Domain(), ErrNotFound)
		}
		var prev *Record
		if es[0].Rev != 0 {
			r, err := DecodeRecord(es[0].Value)
			if err != nil {
				return nil, err
			}
			if r == rec && es[1].Rev != 0 && string(es[1].Value) == string(encode(acct)) {
				return nil, nil // our own change, seen after an unknown result
			}
			if r.State != Deleted {
				return nil, ErrExists
			}
			prev = &r
		}
		next, err := Create(prev, rec.Home)
		if err != nil {
			return nil, err
		}
		if next != rec {
			return nil, fmt.Errorf("prepared for %q, would be %q: %w", rec, next, ErrConflict)
		}
		return []Op{{Key: es[0].Key, Value: next.Encode()}, {Key: es[1].Key, Value: encode(acct)}}, nil
	})
	if err != nil {
		return fmt.Errorf("create user %s: %w", u, err)
	}
	return nil
}

// GiveAccount gives an account to a user who has a record and none, as a directory leaves
// them that was made anew from the backends' fences. It gives the record. ErrExists if there is an
// account, ErrNotFound without a record or with a tombstone.
func (d *Directory) GiveAccount(ctx context.Context, u User, acct Account) (rec Record, err error) {
	acct.Version = valueVersion
	err = d.change(ctx, []string{LocationKey(u), AccountKey(u), DomainKey(u.Domain())}, func(es []Entry) ([]Op, error) {
		if es[0].Rev == 0 || es[2].Rev == 0 {
			return nil, ErrNotFound
		}
		if rec, err = DecodeRecord(es[0].Value); err != nil {
			return nil, err
		}
		switch {
		case es[1].Rev != 0 && string(es[1].Value) == string(encode(acct)):
			return nil, nil // our own change, seen after an unknown result
		case es[1].Rev != 0:
			return nil, ErrExists
		case rec.State == Deleted:
			return nil, ErrNotFound
		}
		return []Op{{Key: es[1].Key, Value: encode(acct)}}, nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("account of user %s: %w", u, err)
	}
	return rec, nil
}

// DeleteUser leaves the tombstone and removes account, receipt and proofs.
// Refused with ErrConflict while a move is on its way.
func (d *Directory) DeleteUser(ctx context.Context, u User) (Record, error) {
	var final Record
	var first *Record
	err := d.change(ctx, []string{LocationKey(u), AccountKey(u), MoveKey(u), ReceiptKey(u), ProofKey(u)}, func(es []Entry) ([]Op, error) {
		if es[0].Rev == 0 {
			return nil, ErrNotFound
		}
		r, err := DecodeRecord(es[0].Value)
		if err != nil {
			return nil, err
		}
		if r.State == Deleted {
			if first != nil && r.Epoch == first.Epoch+1 {
				return nil, nil
			}
			return nil, ErrNotFound
		}
		if first != nil && r.Epoch != first.Epoch {
			// It may be the next person of that name by now.
			return nil, fmt.Errorf("record is %q, was %q: %w", r, *first, ErrConflict)
		}
		first = &r
		if es[2].Rev != 0 {
			return nil, fmt.Errorf("a move is on its way; delete when it has ended: %w", ErrConflict)
		}
		if final, err = r.Delete(); err != nil {
			return nil, err
		}
		return []Op{{Key: es[0].Key, Value: final.Encode()}, {Key: es[1].Key, Delete: true}, {Key: es[3].Key, Delete: true}, {Key: es[4].Key, Delete: true}}, nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("delete user %s: %w", u, err)
	}
	return final, nil
}

// Rollback returns a busy record to active at its home: what a home backend
// does by R7. It is guarded on exactly rec; ErrConflict when the record is
// another by now, which the caller then obeys.
func (d *Directory) Rollback(ctx context.Context, u User, rec Record) (Record, error) {
	next, err := rec.Rollback()
	if err != nil {
		return Record{}, err
	}
	err = d.change(ctx, []string{LocationKey(u)}, func(es []Entry) ([]Op, error) {
		if es[0].Rev == 0 {
			return nil, ErrNotFound
		}
		r, err := DecodeRecord(es[0].Value)
		switch {
		case err != nil:
			return nil, err
		case r == next:
			return nil, nil
		case r != rec:
			return nil, fmt.Errorf("record is %q: %w", r, ErrConflict)
		}
		return []Op{{Key: es[0].Key, Value: next.Encode()}}, nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("roll back %s: %w", u, err)
	}
	return next, nil
}

// Update changes one JSON value under guard. change gets the value as it is
// (zero and exists false when absent) and returns what it shall be; returning
// keep false with a nil error deletes it.
func update[T any](ctx context.Context, d *Directory, key string, dec func([]byte) (T, error), change func(v T, exists bool) (T, bool, error)) error {
	err := d.change(ctx, []string{key}, func(es []Entry) ([]Op, error) {
		var v T
		var err error
		if es[0].Rev != 0 {
			if v, err = dec(es[0].Value); err != nil {
				return nil, err
			}
		}
		v, keep, err := change(v, es[0].Rev != 0)
		switch {
		case err != nil:
			return nil, err
		case !keep:
			return []Op{{Key: key, Delete: true}}, nil
		}
		b := encode(v)
		if string(b) == string(es[0].Value) {
			return nil, nil
		}
		return []Op{{Key: key, Value: b}}, nil
	})
	if err != nil {
		return fmt.Errorf("change %s: %w", key, err)
	}
	return nil
}

// UpdateAccount changes an existing account; ErrNotFound without one.
func (d *Directory) UpdateAccount(ctx context.Context, u User, change func(*Account) error) error {
	return update(ctx, d, AccountKey(u), DecodeAccount, func(a Account, exists bool) (Account, bool, error) {
		if !exists {
			return a, true, ErrNotFound
		}
		err := change(&a)
		a.Version = valueVersion
		return a, true, err
	})
}

// PutBackend writes a backend's record; change sees the zero value when new.
func (d *Directory) PutBackend(ctx context.Context, id BackendID, change func(b *Backend, exists bool) error) error {
	if err := ValidBackendID(id); err != nil {
		return err
	}
	return update(ctx, d, BackendKey(id), DecodeBackend, func(b Backend, exists bool) (Backend, bool, error) {
		err := change(&b, exists)
		b.Version = valueVersion
		return b, true, err
	})
}

// PutIncarnation records a backend's start; it never lowers the count and
// never takes another disk's name: ErrConflict then (R9).
func (d *Directory) PutIncarnation(ctx context.Context, id BackendID, next Incarnation) error {
	return update(ctx, d, IncarnationKey(id), decodeIncarnation, func(have Incarnation, exists bool) (Incarnation, bool, error) {
		if exists && (have.Disk != next.Disk || have.Count > next.Count) {
			return have, true, fmt.Errorf("disk %s start %d, but the directory has seen disk %s start %d: %w", next.Disk, next.Count, have.Disk, have.Count, ErrConflict)
		}
		return next, true, nil
	})
}

// Incarnation reads what PutIncarnation wrote; ErrNotFound before the first.
func (d *Directory) Incarnation(ctx context.Context, id BackendID) (Incarnation, error) {
	v, err := read(ctx, d.store, IncarnationKey(id), decodeIncarnation)
	return v.Value, err
}

func decodeIncarnation(b []byte) (Incarnation, error) { return decode[Incarnation]("incarnation", b) }

// CreateDomain adds a domain; ErrExists if it is there.
func (d *Directory) CreateDomain(ctx context.Context, name string, now time.Time) error {
	if err := ValidDomain(name); err != nil {
		return err
	}
	return update(ctx, d, DomainKey(name), DecodeDomain, func(v Domain, exists bool) (Domain, bool, error) {
		if exists && !v.Created.Equal(now) {
			return v, true, ErrExists
		}
		return Domain{Version: valueVersion, Created: now}, true, nil
	})
}

// DeleteDomain removes a domain; the caller has seen that it has no users.
func (d *Directory) DeleteDomain(ctx context.Context, name string) error {
	return update(ctx, d, DomainKey(name), DecodeDomain, func(v Domain, exists bool) (Domain, bool, error) {
		return v, false, nil
	})
}

// PutAddress sets what an address means; the domain must exist.
func (d *Directory) PutAddress(ctx context.Context, local, domain string, a Address) error {
	if local != CatchAll {
		if err := validLocal(local); local == "" || err != nil {
			return fmt.Errorf("address %s@%s: %w", local, domain, ErrInvalid)
		}
	}
	if _, err := d.Domain(ctx, domain); err != nil {
		return err
	}
	return update(ctx, d, AddressKey(local, domain), DecodeAddress, func(Address, bool) (Address, bool, error) {
		a.Version = valueVersion
		return a, true, nil
	})
}

// DeleteAddress removes an address record; ErrNotFound without one.
func (d *Directory) DeleteAddress(ctx context.Context, local, domain string) error {
	if _, err := d.Address(ctx, local, domain); err != nil {
		return err
	}
	return update(ctx, d, AddressKey(local, domain), DecodeAddress, func(a Address, _ bool) (Address, bool, error) {
		return a, false, nil
	})
}
