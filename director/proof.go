package director

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Proof is what remains of a move that was done: the source may purge the tree it
// let go only where the tree's manifest has this very digest, and an undo finds
// its way back by it. A later move that is undone does not hide it, as it does the
// receipt.
type Proof struct {
	// Epoch is the record's before the move, as in Move.
	Epoch  Epoch     `json:"epoch"`
	Source BackendID `json:"source"`
	Target BackendID `json:"target"`
	// Receipt is the digest of the manifest both sides agreed on, in hex.
	Receipt  string    `json:"receipt"`
	Finished time.Time `json:"finished"`
}

// Proofs is proof/<user>: the user's last moves that were done, the newest last.
type Proofs struct {
	Version int     `json:"v"`
	Done    []Proof `json:"done"`
}

// maxProofs bounds a user's proofs: more moves than this within a grace period
// leave trash that only an operator may purge.
const maxProofs = 16

// DecodeProofs reads stored Proofs.
func DecodeProofs(b []byte) (Proofs, error) { return decode[Proofs]("proofs", b) }

// withProof adds m's, once.
func (p Proofs) withProof(m Move) Proofs {
	one := Proof{Epoch: m.Epoch, Source: m.Source, Target: m.Target, Receipt: m.Receipt, Finished: m.Finished}
	if n := len(p.Done); n > 0 && p.Done[n-1].Epoch == one.Epoch {
		return p
	}
	p.Version = valueVersion
	p.Done = append(p.Done, one)
	if extra := len(p.Done) - maxProofs; extra > 0 {
		p.Done = p.Done[extra:]
	}
	return p
}

// Of finds the proof of the move whose busy epoch was busy, made from source.
func (p Proofs) Of(source BackendID, busy Epoch) (Proof, bool) {
	for _, one := range p.Done {
		if one.Source == source && one.Epoch+1 == busy {
			return one, true
		}
	}
	return Proof{}, false
}

// Proofs reads the proofs of a user's moves linearizably. A receipt from before
// there were proofs counts as one. None is no error.
func (d *Directory) Proofs(ctx context.Context, u User) (Proofs, error) {
	es, err := d.store.GetAll(ctx, []string{ProofKey(u), ReceiptKey(u)})
	if err != nil {
		return Proofs{}, fmt.Errorf("read the proofs of %s: %w", u, err)
	}
	var p Proofs
	if es[0].Rev != 0 {
		if p, err = DecodeProofs(es[0].Value); err != nil {
			return p, fmt.Errorf("%s: %w", ProofKey(u), err)
		}
	}
	if es[1].Rev != 0 {
		m, err := DecodeMove(es[1].Value)
		if err != nil {
			return p, fmt.Errorf("%s: %w", ReceiptKey(u), err)
		}
		if m.Phase == PhaseDone {
			p = p.withProof(m)
		}
	}
	return p, nil
}

// LastMove gives the proof of the move that brought u to its home as it is now:
// what an undo takes back and a verification goes by. ErrNotFound without one,
// ErrConflict while a move is under way.
func (d *Directory) LastMove(ctx context.Context, u User) (Proof, Record, error) {
	loc, err := d.Location(ctx, u)
	if err != nil {
		return Proof{}, Record{}, err
	}
	switch m, err := d.Move(ctx, u); {
	case err == nil && !m.Value.Phase.Finished():
		return Proof{}, loc.Value, fmt.Errorf("a move of %s to %s is %s: %w", u, m.Value.Target, m.Value.Phase, ErrConflict)
	case err != nil && !errors.Is(err, ErrNotFound):
		return Proof{}, loc.Value, err
	}
	p, err := d.Proofs(ctx, u)
	if err != nil {
		return Proof{}, loc.Value, err
	}
	if loc.Value.State != Active {
		return Proof{}, loc.Value, fmt.Errorf("the record of %s is %q: %w", u, loc.Value, ErrConflict)
	}
	n := len(p.Done)
	if n == 0 || p.Done[n-1].Target != loc.Value.Home {
		return Proof{}, loc.Value, fmt.Errorf("no move brought %s to %s: %w", u, loc.Value.Home, ErrNotFound)
	}
	return p.Done[n-1], loc.Value, nil
}
