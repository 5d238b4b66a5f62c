package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/cluster"
)

func serving(e director.Epoch) fence.Fence { return fence.Fence{State: fence.Serving, Epoch: e} }
func gone(e director.Epoch) fence.Fence    { return fence.Fence{State: fence.Gone, Epoch: e} }

// TestMove: every line of the protocol between two backends, and what requests
// of stale and early epochs get on the way.
func TestMove(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "Subject: one\r\n\r\n1\r\n"))
	ctx := context.Background()
	session, err := r.nodes["b1"].Open(ctx, alice, "b1", rec.Epoch)
	r.must(err)
	defer session.Close()
	m, busy := r.toSealed("b2", "m1")
	select {
	case <-session.Done():
	case <-time.After(10 * time.Second):
		t.Error("the freeze did not end the session")
	}
	if _, err := session.Folders(); !errors.Is(err, mailbox.ErrFrozen) {
		t.Errorf("a session of a frozen user: %v", err)
	}
	if err := r.deliver("b1", rec.Epoch, "d2", "x\r\n"); !errors.Is(err, mailbox.ErrFrozen) {
		t.Errorf("delivery to a frozen user: %v", err)
	}
	if err := r.deliver("b2", busy.Epoch+1, "d2", "x\r\n"); err == nil {
		t.Error("the target took mail before the flip")
	}
	after := r.flip(m, busy)
	r.must(r.deliver("b2", after.Epoch, "d3", "Subject: two\r\n\r\n2\r\n"))
	r.must(r.deliver("b2", after.Epoch, "d1", "Subject: one\r\n\r\n1\r\n")) // known, from b1
	if n := r.count("b2", after.Epoch); n != 2 {
		t.Errorf("%d messages at the new home", n)
	}
	if err := r.deliver("b1", rec.Epoch, "d4", "x\r\n"); !errors.Is(err, mailbox.ErrStale) {
		t.Errorf("delivery to the old home: %v", err)
	}
	r.fenceIs("b1", gone(after.Epoch))
	r.finish(m, after)
	// And back: the old home's stale state is no hindrance.
	m, busy = r.toSealed("b1", "m2")
	back := r.flip(m, busy)
	if n := r.count("b1", back.Epoch); n != 2 {
		t.Errorf("%d messages after moving back", n)
	}
	r.fenceIs("b2", gone(back.Epoch))
}

// TestRollback: a move that is rolled back leaves the source serving at the
// next epoch and the target without a trace.
func TestRollback(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	_, busy := r.toSealed("b2", "m1")
	back, err := r.dir.Rollback(context.Background(), alice, busy)
	r.must(err)
	r.must(r.deliver("b1", back.Epoch, "d2", "y\r\n"))
	if n := r.count("b1", back.Epoch); n != 2 {
		t.Errorf("%d messages", n)
	}
	r.fenceIs("b2", gone(back.Epoch))
	if ok, err := exists(r.nodes["b2"].disk.staging(alice)); ok || err != nil {
		t.Errorf("staging is left: %v", err)
	}
}

// TestGivenUpBeforeBusy: no record changes, and the staging goes all the same.
func TestGivenUpBeforeBusy(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	m, _ := r.plan("b2", "m1")
	_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	r.must(r.pull(m, false))
	m.Phase = director.PhaseUndone
	r.must(r.dir.Advance(context.Background(), m, rec, nil))
	_, err = call[control.FenceReply](r, r.mover, "b2", control.PathLook, control.LookRequest{User: alice})
	r.must(err)
	r.fenceIs("b2", gone(m.Epoch+1))
	if ok, err := exists(r.nodes["b2"].disk.staging(alice)); ok || err != nil {
		t.Errorf("staging is left: %v", err)
	}
	m, busy := r.toSealed("b2", "m2")
	r.flip(m, busy)
}

// TestDeleteAndRecreate: the next person of that name begins empty, at the
// epoch after the tombstone, also on the same backend; nothing addressed to the
// former one is taken.
func TestDeleteAndRecreate(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "former\r\n"))
	tomb, err := r.dir.DeleteUser(context.Background(), alice)
	r.must(err)
	r.fenceIs("b1", gone(tomb.Epoch))
	again := r.create("b1")
	if again.Epoch != tomb.Epoch+1 {
		t.Errorf("re-created at %d after %d", again.Epoch, tomb.Epoch)
	}
	if n := r.count("b1", again.Epoch); n != 0 {
		t.Errorf("the next person sees %d messages of the former", n)
	}
	for _, e := range []director.Epoch{rec.Epoch, tomb.Epoch} {
		if err := r.deliver("b1", e, "d2", "x\r\n"); !errors.Is(err, mailbox.ErrStale) {
			t.Errorf("a request at epoch %d: %v", e, err)
		}
	}
}

// TestMissingTree: a record without a tree or fence never becomes an empty
// mailbox: an empty mailbox makes clients delete their copies.
func TestMissingTree(t *testing.T) {
	r := newRig(t, "b1")
	rec := director.Record{Home: "b1", Epoch: 1, State: director.Active}
	r.must(r.dir.CreateUser(context.Background(), alice, rec, director.Account{}))
	if err := r.deliver("b1", 1, "d1", "x\r\n"); !errors.Is(err, mailbox.ErrRefused) {
		t.Errorf("a user without a fence: %v", err)
	}
	if ok, _ := exists(r.nodes["b1"].disk.live(alice)); ok {
		t.Error("a mailbox was made")
	}
}

// TestCrashInAdopt: the rename was done and the fence was not.
func TestCrashInAdopt(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	m, busy := r.toSealed("b2", "m1")
	b2 := r.nodes["b2"]
	b2.stop()
	r.must(claim(b2.disk.staging(alice), b2.disk.live(alice)))
	after := r.flip(m, busy)
	r.start(b2.cfg)
	r.fenceIs("b2", serving(after.Epoch))
	if n := r.count("b2", after.Epoch); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// TestCrashInDiscard: one of the renames into the trash was done; the start
// finishes it (R9), under the same name.
func TestCrashInDiscard(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	m, busy := r.toSealed("b2", "m1")
	b1 := r.nodes["b1"]
	b1.stop()
	dir := b1.disk.trash(alice, busy.Epoch)
	r.must(os.MkdirAll(dir, 0o700))
	r.must(claim(b1.disk.manifest(alice), filepath.Join(dir, "manifest")))
	after := r.flip(m, busy)
	r.start(b1.cfg)
	r.fenceIs("b1", gone(after.Epoch))
	eventually(t, "the tree is swept", func() error {
		for _, f := range []string{"tree/Maildir", "manifest", "swept"} {
			if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestExtraMessage: a message that somebody put past the fence is delivered to
// the new home before the old tree may go; then it goes.
func TestExtraMessage(t *testing.T) {
	r := newRig(t, "b2")
	r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", TrashGrace: time.Millisecond})
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	m, busy := r.toSealed("b2", "m1")
	extra := filepath.Join(r.nodes["b1"].disk.live(alice), "Maildir", "new", "1.M1P1.byhand,S=9,W=10")
	r.must(os.WriteFile(extra, []byte("by hand\n\n"), 0o600))
	after := r.flip(m, busy)
	eventually(t, "the extra message is at the new home", func() error {
		if n := r.count("b2", after.Epoch); n != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	r.finish(m, after)
	eventually(t, "the old tree is purged", func() error {
		es, err := os.ReadDir(r.nodes["b1"].disk.trashRoot())
		if err == nil && len(es) > 0 {
			r.nodes["b1"].janitor.wake()
			err = errors.New("not yet: " + es[0].Name())
		}
		return err
	})
}

// TestTakenBack: a busy user without a live mover is returned to active (R7).
func TestTakenBack(t *testing.T) {
	r := newRig(t, "b2")
	r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", OwnerGrace: time.Millisecond})
	r.create("b1")
	lease, err := r.store.Grant(t.Context(), time.Minute)
	r.must(err)
	_, err = r.dir.Claim(t.Context(), alice, "r1", lease.ID())
	r.must(err)
	_, busy := r.toSealed("b2", "m1")
	r.must(r.dir.Release(t.Context(), alice, "r1", lease.ID()))
	r.fenceIs("b1", serving(busy.Epoch+1))
	v, err := r.dir.Location(context.Background(), alice)
	r.must(err)
	if v.Value.State != director.Active || v.Value.Home != "b1" {
		t.Errorf("record %s", v.Value)
	}
}

// TestOtherDisk: a disk that is older than the directory's memory, or another
// one, serves nobody (R9).
func TestOtherDisk(t *testing.T) {
	r := newRig(t, "b1")
	b1 := r.nodes["b1"]
	b1.stop()
	old, err := os.ReadFile(filepath.Join(b1.cfg.Data, "disk.json"))
	r.must(err)
	r.start(b1.cfg).stop()
	r.must(os.WriteFile(filepath.Join(b1.cfg.Data, "disk.json"), old, 0o600))
	if _, err := r.tryStart(b1.cfg); !errors.Is(err, errRolledBack) {
		t.Errorf("a rolled-back disk: %v", err)
	}
	other := b1.cfg
	other.Data = t.TempDir()
	if _, err := r.tryStart(other); !errors.Is(err, errRolledBack) {
		t.Errorf("an empty disk: %v", err)
	}
}

// TestWhoMayCall: certificates decide.
func TestWhoMayCall(t *testing.T) {
	r := newRig(t, "b1")
	r.create("b1")
	proxy := r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	mx := r.identity(cluster.Peer{Role: cluster.RoleMX, ID: "mx1"})
	for name, id := range map[string]*cluster.Identity{"proxy": proxy, "mx": mx, "director": r.admin} {
		if _, err := call[control.ManifestSummary](r, id, "b1", control.PathFreeze, control.MoveRequest{User: alice, Epoch: 2}); err == nil {
			t.Errorf("a %s may freeze", name)
		} else if name == "director" && !control.IsCode(err, control.CodeForbidden) {
			t.Errorf("director: %v", err)
		}
	}
	if _, err := call[control.FenceReply](r, r.mover, "b1", control.PathPrepare, control.PrepareRequest{User: alice}); !control.IsCode(err, control.CodeForbidden) {
		t.Errorf("a mover may prepare: %v", err)
	}
	if _, err := call[control.Manifest](r, r.mover, "b1", control.PathManifest, control.ManifestRequest{User: alice, Epoch: 2}); !control.IsCode(err, control.CodeForbidden) {
		t.Errorf("a mover may read manifests: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, proto := range []string{cluster.ProtoSession, cluster.ProtoSFTP, cluster.ProtoControl} {
		c, err := mx.Dial(ctx, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, proto)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an mx may speak %s: %v", proto, err)
		}
		c.Close()
	}
}

// TestUncleanStop: what a killed backend has acknowledged and a power cut has
// taken from its trees comes back from the journal, once.
func TestUncleanStop(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	for _, id := range []string{"d1", "d2"} {
		r.must(r.deliver("b1", rec.Epoch, id, id+"\r\n"))
	}
	b1 := r.nodes["b1"]
	image := filepath.Join(t.TempDir(), "image")
	r.must(os.CopyFS(image, os.DirFS(b1.cfg.Data)))
	maildir := filepath.Join(b1.disk.live(alice), "Maildir")
	maildir = filepath.Join(image, strings.TrimPrefix(maildir, b1.cfg.Data))
	r.must(os.RemoveAll(filepath.Join(maildir, "new")))
	r.must(os.Mkdir(filepath.Join(maildir, "new"), 0o700))
	r.must(os.WriteFile(filepath.Join(maildir, "maildirsize"), []byte("0S,0C\n999 9\n"), 0o600))
	b1.stop()

	cfg := b1.cfg
	cfg.Data = image
	r.start(cfg)
	r.must(r.deliver("b1", rec.Epoch, "d1", "again\r\n"))
	if n := r.count("b1", rec.Epoch); n != 2 {
		t.Errorf("%d messages after the replay, not 2", n)
	}
	got, err := call[control.UsageReply](r, r.admin, "b1", control.PathUsage, control.UserRequest{User: alice})
	if err != nil || got.Messages != 2 {
		t.Errorf("usage after the replay: %+v, %v", got, err)
	}
}

// TestFailedStartIsClean: a start that cannot listen leaves the disk, journal and
// lock, as a clean stop does.
func TestFailedStartIsClean(t *testing.T) {
	r := newRig(t, "b1")
	r.create("b1")
	b1 := r.nodes["b1"]
	b1.stop()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	defer taken.Close()
	cfg := b1.cfg
	cfg.Listen = taken.Addr().String()
	if _, err := r.tryStart(cfg); err == nil {
		t.Fatal("two listen at one address")
	}
	if again := r.start(b1.cfg); !again.journal.Clean() {
		t.Error("the journal is as after a kill")
	}
}

// TestQuotaWarning: a user whose mailbox fills finds a message about it.
func TestQuotaWarning(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.must(r.dir.UpdateAccount(context.Background(), alice, func(a *director.Account) error {
		a.QuotaMessages = 10
		return nil
	}))
	b1 := r.nodes["b1"]
	eventually(t, "the quota is known", func() error {
		if l, ok := b1.limit(alice); !ok || l.Messages != 10 {
			return errors.New("not yet")
		}
		return nil
	})
	for i := range 8 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprintf("d%d", i), "x\r\n"))
	}
	eventually(t, "the warning is there", func() error {
		if n := r.count("b1", rec.Epoch); n != 9 {
			return fmt.Errorf("%d messages", n)
		}
		return nil
	})
}

// TestBrokenMailboxEndsSessions: a mailbox that is closed under a session, for
// want of a sync, ends it; it does not linger, answering errors for ever.
func TestBrokenMailboxEndsSessions(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	box, err := r.nodes["b1"].Open(context.Background(), alice, "b1", rec.Epoch)
	r.must(err)
	defer box.Close()
	u := r.nodes["b1"].use(alice)
	defer r.nodes["b1"].release(u)
	u.mu.Lock()
	err = u.closeAccount()
	u.mu.Unlock()
	r.must(err)
	select {
	case <-box.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
}

// TestRefusedWhileServing: a fence that contradicts the directory serves
// nobody, not even who asks at its very epoch (R4).
func TestRefusedWhileServing(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	// A directory that went wrong: another home without a freeze.
	wrong := director.Record{Home: "b2", Epoch: rec.Epoch + 2, State: director.Active}
	_, _, err := r.store.Commit(context.Background(), nil, []director.Op{{Key: director.LocationKey(alice), Value: wrong.Encode()}})
	r.must(err)
	eventually(t, "b1 refuses", func() error {
		if err := r.deliver("b1", rec.Epoch, "d2", "x\r\n"); !errors.Is(err, mailbox.ErrRefused) {
			return errors.Join(errors.New("not yet"), err)
		}
		return nil
	})
	r.fenceIs("b1", serving(rec.Epoch))
}

// TestFenceWord: the word of the contract is the fence's own.
func TestFenceWord(t *testing.T) {
	if control.FenceServing != string(fence.Serving) {
		t.Error("backend/control and backend/fence name serving differently")
	}
}
