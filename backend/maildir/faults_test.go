package maildir

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/vfs/crashfs"
)

// faults makes operations of a disk fail, from one on, so many.
type faults struct {
	skip, many atomic.Int64
	err        error
	struck     atomic.Bool
}

func (f *faults) set(disk *crashfs.FS) {
	disk.Fail(func(op crashfs.Op) error {
		if f.skip.Add(-1) >= 0 || f.many.Add(-1) < 0 {
			return nil
		}
		// A full disk can still be read, and gives room back.
		full := errors.Is(f.err, syscall.ENOSPC)
		if full && (!op.Changes() || op.Kind == crashfs.Remove) || op.Kind == crashfs.Lock || op.Kind == crashfs.Unlock || op.Kind == crashfs.Close {
			return nil
		}
		f.struck.Store(true)
		return f.err
	})
}

// strike runs steps with faults somewhere, and reports how many there were.
func strike(w *world, steps []worldStep, rng *rand.Rand) (hits int, err error) {
	for _, step := range steps {
		f := &faults{err: syscall.EIO}
		if rng.IntN(2) == 0 {
			f.err = syscall.ENOSPC
		}
		f.skip.Store(rng.Int64N(60))
		f.many.Store(1 + rng.Int64N(1+rng.Int64N(20)))
		f.set(w.disk)
		pending, err := w.do(step)
		w.disk.Fail(nil)
		if f.struck.Load() {
			hits++
		}
		// A journal that could not grow believes that for a while.
		excused := f.struck.Load() || errors.Is(err, mailbox.ErrNoSpace) || w.journal.Err() != nil
		if err != nil && (!excused || errors.Is(err, errWrongBytes)) {
			return hits, fmt.Errorf("%+v: %w", step, err)
		}
		// What is over is over: everything must be as it was told.
		err = w.mend(pending, rng)
		if err != nil && w.journal != nil && w.journal.Err() != nil {
			err = w.mend(pending, rng) // it has failed since, beside
		}
		if err != nil {
			return hits, fmt.Errorf("%+v: after faults %v: %w", step, f.err, err)
		}
	}
	return hits, nil
}

// mend is what a backend does about an Account that has doubts, and judges.
func (w *world) mend(pending under, rng *rand.Rand) error {
	broken := w.journal.Err() != nil
	for _, u := range w.users {
		broken = broken || u.account.Broken()
	}
	if broken {
		// The backend stops, and replays when it starts again.
		disk := w.disk.Kill()
		if rng.IntN(2) == 0 {
			disk = w.disk.Crash(rng)
		}
		w.letGo()
		before := *w
		*w = *w.onDisk(disk)
		return w.recover(&before, pending, rng, 0)
	}
	// What an error has left half done is there, and nobody promised that it lasts.
	for _, changes := range pending {
		if slices.ContainsFunc(changes, func(c *change) bool { return c.partial }) {
			if err := w.disk.SyncAll("/"); err != nil {
				return err
			}
		}
	}
	for _, u := range w.users {
		if u.account.Closed() { // an eviction that failed half way
			if err := w.open(u); err != nil {
				return err
			}
		} else if u.boxClosed() {
			u.box = u.account.Box(u.name, worldEpoch, nil)
		}
		u.account.mu.Lock()
		err := u.account.settle()
		u.account.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s: does not recover: %w", u.name, err)
		}
		if err := w.check(u, true, u.refused(pending[u])...); err != nil {
			return fmt.Errorf("%s: after %v: %w", u.name, names(pending[u]), err)
		}
	}
	return nil
}

func (u *worldUser) boxClosed() bool {
	_, err := u.box.Usage()
	return errors.Is(err, mailbox.ErrClosed)
}

// refused are the models after changes that were answered with an error: as
// before them, but for steps before the last one, which stay, and for those that
// may have come so far.
func (u *worldUser) refused(changes []*change) []*model {
	all := []*model{u.model}
	for _, c := range changes {
		var next []*model
		for _, m := range all {
			after := c.after(m)
			if !c.partial && len(c.stages) > 0 {
				after = after[1:] // not the whole
			}
			next = append(next, after...)
		}
		all = next
	}
	return all
}

func TestFaultsAnywhere(t *testing.T) {
	checks(t, "15")
	hits := 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt, 10, 60)
		seed := rapid.Uint64().Draw(rt, "seed")
		w, err := newWorld(seed, slog.New(slog.DiscardHandler), worldUsers...)
		if err != nil {
			rt.Fatal(err)
		}
		n, err := strike(w, steps, rand.New(rand.NewPCG(seed, 2)))
		hits += n
		w.disk.Kill()
		w.letGo()
		if err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d faults", hits)
}

// TestReplayLeavesOut: records of another epoch are the caller's to leave out,
// and a tree that is gone is not made again.
func TestReplayLeavesOut(t *testing.T) {
	w, err := newWorld(1, slog.New(slog.NewTextHandler(t.Output(), nil)), worldUsers...)
	must(t, err)
	u, gone := w.users[0], w.users[1]
	for _, s := range []worldStep{{"deliver", 0, 1}, {"append", 0, 2}, {"deliver", 1, 3}, {"both", 0, 0}} {
		_, err := w.do(s)
		must(t, err)
	}
	must(t, w.check(u, true, u.model))
	must(t, w.disk.RemoveAll(treePath(gone)))
	disk := w.disk.Kill()
	w.letGo()
	// As if nothing of this epoch were on the disk.
	for _, sub := range []string{"cur", "new"} {
		dir := treePath(u, maildirName, sub)
		must(t, disk.RemoveAll(dir))
		must(t, disk.Mkdir(dir, 0o700))
	}
	j, err := journal.Open(journal.Options{FS: disk, Dir: worldBase + "/journal", SegmentBytes: 64 << 10, Sync: worldBase})
	must(t, err)
	for _, epoch := range []director.Epoch{worldEpoch + 1, worldEpoch} {
		var r Replay
		must(t, j.Replay(func(rec journal.Record) error {
			if rec.User == "" || director.Epoch(rec.Epoch) != epoch {
				return nil
			}
			return r.Add(director.User(rec.User), rec)
		}))
		p := Replayer{FS: disk, Incoming: worldBase + "/incoming", Read: j.Read, Outbox: w.outbox, Log: w.log, Now: time.Now}
		for _, x := range w.users {
			must(t, p.Apply(&r, x.name, rootOf(worldBase, x.name)))
		}
		if _, err := disk.Lstat(treePath(gone)); !errors.Is(err, syscall.ENOENT) {
			t.Fatalf("a tree that was gone is back: %v", err)
		}
		sum, err := countFolder(disk, treePath(u, maildirName))
		must(t, err)
		same(t, fmt.Sprint("messages at epoch ", epoch), sum.Messages > 0, epoch == worldEpoch)
	}
	must(t, j.Start())
	must(t, j.Close())
}
