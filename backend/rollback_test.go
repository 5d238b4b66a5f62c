package backend

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"waypost/backend/fence"
	"waypost/backend/mailbox"
)

// TestRolledBackDisk is R9 from end to end: an older image of a disk serves nobody
// until the operator accepts it; then UIDs and mod-sequences are ahead of all that
// clients were told, and users who have moved away stay away.
func TestRolledBackDisk(t *testing.T) {
	for _, moved := range []bool{false, true} {
		r := newRig(t, "b1", "b2")
		rec := r.create("b1")
		r.deliverN("b1", rec.Epoch, 0, 4)
		r.inbox("b1", rec.Epoch)
		b := r.nodes["b1"]
		b.stop()
		image := t.TempDir()
		r.must(os.CopyFS(image, os.DirFS(b.cfg.Data)))
		r.start(b.cfg)
		r.deliverN("b1", rec.Epoch, 4, 3)
		seen := r.inbox("b1", rec.Epoch)
		if moved {
			m, busy := r.toSealed("b2", "m1")
			rec = r.flip(m, busy)
			r.must(r.deliver("b2", rec.Epoch, "d9", "at the new home\r\n"))
			r.finish(m, rec)
		}
		r.nodes["b1"].stop()
		r.must(errors.Join(os.RemoveAll(b.cfg.Data), os.CopyFS(b.cfg.Data, os.DirFS(image))))

		if _, err := r.tryStart(b.cfg); !errors.Is(err, errRolledBack) {
			t.Fatalf("a rolled-back disk started: %v", err)
		}
		did, err := AcceptRollback(b.cfg.Data, slog.New(slog.DiscardHandler))
		r.must(err)
		if len(did.Users) != 1 || time.Since(did.Taken) > time.Hour {
			t.Errorf("%+v", did)
		}
		r.start(b.cfg)
		if !moved {
			r.inbox("b1", rec.Epoch).after(t, seen)
			if n := r.count("b1", rec.Epoch); n != 4 {
				t.Errorf("%d messages", n)
			}
		} else {
			r.fenceIs("b1", gone(rec.Epoch))
			if n := r.count("b2", rec.Epoch); n != 8 {
				t.Errorf("%d messages at the new home", n)
			}
			if err := r.deliver("b1", rec.Epoch-2, "d8", "x\r\n"); !errors.Is(err, mailbox.ErrStale) {
				t.Errorf("the old home took mail: %v", err)
			}
		}
		// It is accepted once: the mark is gone, and the count goes on.
		r.nodes["b1"].stop()
		if ok, err := exists(r.nodes["b1"].disk.rollbackMark()); ok || err != nil {
			t.Errorf("the mark is left: %v", err)
		}
		r.start(b.cfg)
	}
}

// TestRolledBackMissing: a user who had moved to the rolled-back disk since is
// refused, and comes back from a backup.
func TestRolledBackMissing(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b2")
	b := r.nodes["b1"]
	b.stop()
	image := t.TempDir()
	r.must(os.CopyFS(image, os.DirFS(b.cfg.Data)))
	r.start(b.cfg)
	r.deliverN("b2", rec.Epoch, 0, 3)
	m, busy := r.toSealed("b1", "m1")
	rec = r.flip(m, busy)
	seen := r.inbox("b1", rec.Epoch)
	r.finish(m, rec)
	a := r.archive()
	r.take(a, "b1")
	r.nodes["b1"].stop()
	r.must(errors.Join(os.RemoveAll(b.cfg.Data), os.CopyFS(b.cfg.Data, os.DirFS(image))))
	_, err := AcceptRollback(b.cfg.Data, slog.New(slog.DiscardHandler))
	r.must(err)
	r.start(b.cfg)
	if err := r.deliver("b1", rec.Epoch, "d9", "x\r\n"); !errors.Is(err, mailbox.ErrRefused) {
		t.Errorf("mail for a user whose mailbox is not there: %v", err)
	}
	reply, err := r.bring(a, "b1").Seal(context.Background(), r.client("b1"))
	r.must(err)
	if reply.State != string(fence.Sealed) || reply.Epoch != rec.Epoch-1 {
		t.Errorf("%+v", reply)
	}
	r.inbox("b1", rec.Epoch).after(t, seen)
}
