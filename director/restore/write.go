package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"waypost/director"
)

// batch is how many keys one transaction changes, at most; the store takes 128.
const batch = 100

// shut takes the era away: nothing that is guarded changes from here on, and no
// cache believes what it reads. The schema stays, or is written: without it a
// director would take the store for a new one.
func (r *run) shut(ctx context.Context) error {
	for range 16 {
		es, err := r.Store.GetAll(ctx, []string{keySchema, director.KeyEra})
		if err != nil {
			return err
		}
		schema, era := es[0], es[1]
		if schema.Rev != 0 && string(schema.Value) != director.SchemaVersion {
			return fmt.Errorf("schema is %q, this waypost writes %q: %w", schema.Value, director.SchemaVersion, director.ErrInvalid)
		}
		if schema.Rev != 0 && era.Rev == 0 {
			return nil // closed already
		}
		ops := []director.Op{{Key: keySchema, Value: []byte(director.SchemaVersion)}}
		if era.Rev != 0 {
			ops = append(ops, director.Op{Key: director.KeyEra, Delete: true})
		}
		_, _, err = r.Store.Commit(ctx, []director.Guard{{Key: keySchema, Rev: schema.Rev}, {Key: director.KeyEra, Rev: era.Rev}}, ops)
		if err != nil && !errors.Is(err, director.ErrUnknown) {
			return err
		}
	}
	return fmt.Errorf("the era keeps changing: %w", director.ErrConflict)
}

// writer writes decisions in transactions of many.
type writer struct {
	run    *run
	guards []director.Guard
	ops    []director.Op
}

func (w *writer) user(ctx context.Context, u director.User, d Decision) error {
	if d.Verdict == None {
		return nil
	}
	if account := director.AccountKey(u); d.Record.State == director.Deleted {
		w.run.dead[account] = true
		if w.run.revs[account] != 0 {
			if err := w.op(ctx, director.Op{Key: account, Delete: true}); err != nil {
				return err
			}
		}
	}
	return w.put(ctx, director.LocationKey(u), d.Record.Encode())
}

func (w *writer) put(ctx context.Context, key string, value []byte) error {
	return w.op(ctx, director.Op{Key: key, Value: value})
}

func (w *writer) op(ctx context.Context, op director.Op) error {
	w.guards = append(w.guards, director.Guard{Key: op.Key, Rev: w.run.revs[op.Key]})
	w.ops = append(w.ops, op)
	if len(w.ops) < batch {
		return nil
	}
	return w.flush(ctx)
}

// flush writes what has come together. Everything else that could change these keys
// needs the era, so a guard that fails is another restore.
func (w *writer) flush(ctx context.Context) error {
	guards, ops := w.guards, w.ops
	w.guards, w.ops = nil, nil
	if len(ops) == 0 || w.run.DryRun {
		return nil
	}
	_, done, err := w.run.Store.Commit(ctx, guards, ops)
	if errors.Is(err, director.ErrUnknown) {
		return fmt.Errorf("it is not known what was written: run it again: %w", err)
	}
	if err == nil && !done {
		err = fmt.Errorf("somebody else writes to the directory: %w", director.ErrConflict)
	}
	return err
}

// open writes the rest, ends all moves, which are over by what was decided, and sets
// a new era.
func (r *run) open(ctx context.Context) error {
	w := &writer{run: r}
	if err := r.others(ctx, w); err != nil {
		return err
	}
	for _, prefix := range []string{director.PrefixMove, director.PrefixMoveOwner} {
		var gone []director.Op
		_, err := r.Store.List(ctx, prefix, func(e director.Entry) error {
			gone = append(gone, director.Op{Key: e.Key, Delete: true})
			return nil
		})
		for len(gone) > 0 && err == nil {
			n := min(len(gone), batch)
			_, _, err = r.Store.Commit(ctx, nil, gone[:n])
			gone = gone[n:]
		}
		if err != nil {
			return err
		}
	}
	r.report.Era = r.NewEra()
	_, done, err := r.Store.Commit(ctx, []director.Guard{{Key: director.KeyEra}}, []director.Op{{Key: director.KeyEra, Value: []byte(r.report.Era)}})
	if errors.Is(err, director.ErrUnknown) || err == nil && !done {
		e, rerr := r.Store.Get(ctx, director.KeyEra)
		if rerr == nil && string(e.Value) == r.report.Era {
			return nil
		}
		return errors.Join(err, rerr, fmt.Errorf("the era was not set by this restore: %w", director.ErrConflict))
	}
	return err
}

// others writes what is imported and no record of a user, the disks as they are
// (R9), and the addresses of backends that the store did not know.
func (r *run) others(ctx context.Context, w *writer) error {
	want := map[string][]byte{}
	for key, value := range r.Import {
		if !strings.HasPrefix(key, director.PrefixLocation) && !r.dead[key] {
			want[key] = value
		}
	}
	for id, node := range r.Nodes {
		b := director.Backend{Version: 1, Kind: director.KindWaypost, State: director.BackendActive, Weight: 100, Node: node}
		value, err := json.Marshal(b)
		if err != nil {
			return err
		}
		if _, known := want[director.BackendKey(id)]; !known {
			want[director.BackendKey(id)] = value
		}
	}
	for id, disk := range r.disks {
		value, err := json.Marshal(disk)
		if err != nil {
			return err
		}
		want[director.IncarnationKey(id)] = value
	}
	for key, value := range want {
		rev := r.revs[key]
		if !strings.HasPrefix(key, director.PrefixAccount) { // those were read
			e, err := r.Store.Get(ctx, key)
			if err != nil {
				return err
			}
			rev = e.Rev
		}
		if rev != 0 && !r.newer[key] {
			continue // what the store has is not older
		}
		r.report.Imported++
		if err := w.put(ctx, key, value); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}
