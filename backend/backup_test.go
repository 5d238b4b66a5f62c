package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"waypost/backend/backup"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
)

// client is a control client of a backend, as an operator's.
func (r *rig) client(id director.BackendID) *control.Client {
	return control.NewClient(r.admin, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
}

func (r *rig) archive() *backup.Archive {
	r.t.Helper()
	a, err := backup.Create(filepath.Join(r.t.TempDir(), "backups"))
	r.must(err)
	r.t.Cleanup(func() { a.Close() })
	return a
}

func (r *rig) take(a *backup.Archive, id director.BackendID) backup.Took {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	took, err := a.Take(ctx, r.client(id), alice, nil)
	r.must(err)
	return took
}

// bring puts the newest generation to a backend.
func (r *rig) bring(a *backup.Archive, id director.BackendID) backup.Generation {
	r.t.Helper()
	g, err := a.Read(alice, 0)
	r.must(err)
	_, err = g.Bring(context.Background(), r.client(id), false, nil)
	r.must(err)
	return g
}

// inbox is what a client would keep of INBOX.
type inbox struct {
	validity, next uint32
	modSeq         uint64
	uids           map[uint32]uint64 // mod-sequences
}

func (r *rig) inbox(id director.BackendID, epoch director.Epoch) inbox {
	r.t.Helper()
	box, err := r.nodes[id].Open(context.Background(), alice, id, epoch)
	r.must(err)
	defer box.Close()
	f, err := box.Folder("INBOX")
	r.must(err)
	s, err := f.Snapshot()
	r.must(err)
	in := inbox{validity: s.UIDValidity, next: uint32(s.UIDNext), modSeq: uint64(s.HighestModSeq), uids: map[uint32]uint64{}}
	for i := range s.Messages.Len() {
		m := s.Messages.At(i)
		in.uids[uint32(m.UID)] = uint64(m.ModSeq)
	}
	return in
}

func (r *rig) deliverN(id director.BackendID, epoch director.Epoch, from, n int) {
	r.t.Helper()
	for i := from; i < from+n; i++ {
		r.must(r.deliver(id, epoch, fmt.Sprintf("d%d", i), fmt.Sprintf("Subject: %d\r\n\r\nbody %d\r\n", i, i)))
	}
}

// after fails unless a restored INBOX is one that a client which knew it as seen
// takes for the same, and finds all changes in (RFC 9051, Section 2.3.1.1; RFC
// 7162, Section 3.1.1).
func (in inbox) after(t *testing.T, seen inbox) {
	t.Helper()
	if in.validity != seen.validity {
		t.Errorf("UIDVALIDITY %d, was %d", in.validity, seen.validity)
	}
	if in.next <= seen.next+1<<19 || in.modSeq <= seen.modSeq {
		t.Errorf("UIDNEXT %d after %d, HIGHESTMODSEQ %d after %d: no jump", in.next, seen.next, in.modSeq, seen.modSeq)
	}
	for uid, modSeq := range in.uids {
		if _, had := seen.uids[uid]; !had && uid < seen.next {
			t.Errorf("UID %d is given a second time", uid)
		}
		if modSeq <= seen.modSeq {
			t.Errorf("the change of UID %d is not seen: %d after %d", uid, modSeq, seen.modSeq)
		}
	}
}

// TestBackupIsIncremental: what a generation has is not sent again, whatever its
// flags are by now; a run that was broken off goes on; damage is found.
func TestBackupIsIncremental(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.deliverN("b1", rec.Epoch, 0, 20)
	r.inbox("b1", rec.Epoch) // numbers them
	a := r.archive()
	first := r.take(a, "b1")
	if first.Messages != 20 || first.CopiedFiles < 20 || first.Generation != 1 || first.Epoch != rec.Epoch {
		t.Errorf("first: %+v", first)
	}
	if again := r.take(a, "b1"); again.CopiedFiles != 0 || again.Messages != 20 || again.Layout != first.Layout {
		t.Errorf("again: %+v", again)
	}
	r.deliverN("b1", rec.Epoch, 20, 3)
	third := r.take(a, "b1")
	if third.Messages != 23 || third.CopiedFiles < 3 || third.CopiedFiles > 8 {
		t.Errorf("third: %+v", third)
	}
	if ids, err := os.ReadDir(r.nodes["b1"].disk.snapshots()); err != nil {
		t.Error(err)
	} else if len(ids) > 1 {
		t.Errorf("%d snapshots are left", len(ids))
	}
	problems := func() (n int) {
		t.Helper()
		r.must(a.Verify(context.Background(), alice, func(v backup.Verified) error { n += len(v.Problems); return nil }))
		return n
	}
	if n := problems(); n != 0 {
		t.Errorf("%d problems", n)
	}
	g, err := a.Read(alice, 0)
	r.must(err)
	for _, e := range g.Entries {
		if manifest.IsMessage(string(e.Path)) {
			r.must(os.WriteFile(filepath.Join(g.Tree, string(e.Path)), []byte("rot"), 0o600))
			break
		}
	}
	if problems() == 0 {
		t.Error("damage was not found")
	}
	removed, err := a.Keep(alice, 1)
	if gens, _ := a.Generations(alice); err != nil || removed != 2 || len(gens) != 1 {
		t.Errorf("%d removed, %v are left (%v)", removed, gens, err)
	}
}

// TestBackupGoesOn: what a run that was broken off has fetched is not fetched again.
func TestBackupGoesOn(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.deliverN("b1", rec.Epoch, 0, 10)
	r.inbox("b1", rec.Epoch)
	a := r.archive()
	first := r.take(a, "b1")
	gens := filepath.Dir(func() string { g, err := a.Read(alice, 0); r.must(err); return filepath.Dir(g.Tree) }())
	// As if the last rename had not come, and a file had not been whole.
	r.must(os.Rename(filepath.Join(gens, "000001"), filepath.Join(gens, ".partial")))
	cur := filepath.Join(gens, ".partial", "tree", "Maildir", "cur")
	files, err := os.ReadDir(cur)
	r.must(err)
	r.must(os.Rename(filepath.Join(cur, files[0].Name()), filepath.Join(cur, ".waypost-put-1")))
	r.must(os.Rename(filepath.Join(cur, files[1].Name()), filepath.Join(cur, files[1].Name()+"F")))
	again := r.take(a, "b1")
	if again.Generation != 1 || again.Layout != first.Layout || again.Contents != first.Contents {
		t.Errorf("%+v after %+v", again, first)
	}
	if again.SharedFiles != 9 {
		t.Errorf("%d messages of 9 were used again", again.SharedFiles)
	}
	r.must(a.Verify(context.Background(), alice, func(v backup.Verified) error {
		if len(v.Problems) > 0 {
			t.Errorf("generation %d: %v", v.Generation, v.Problems)
		}
		return nil
	}))
}

// TestBackupUnderLoad: each generation has every message that was acknowledged
// before it began, and is consistent in itself, while mail comes.
func TestBackupUnderLoad(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	a := r.archive()
	stop, ended := make(chan struct{}), make(chan struct{})
	var acked atomic.Int64
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := r.deliver("b1", rec.Epoch, fmt.Sprintf("load%d", i), fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)); err != nil {
				t.Errorf("delivery beside a backup: %v", err)
				return
			}
			acked.Add(1)
			if i%7 == 0 {
				r.inbox("b1", rec.Epoch)
			}
		}
	}()
	var last backup.Took
	var before int64
	for range 6 {
		begun := acked.Load()
		eventually(t, "more mail came", func() error {
			if acked.Load() < begun+20 {
				return errors.New("not yet")
			}
			return nil
		})
		before = acked.Load()
		if last = r.take(a, "b1"); last.Messages < before {
			t.Errorf("%d messages of %d", last.Messages, before)
		}
	}
	close(stop)
	<-ended
	r.must(a.Verify(context.Background(), alice, func(v backup.Verified) error {
		if len(v.Problems) > 0 {
			t.Errorf("generation %d: %v", v.Generation, v.Problems)
		}
		return nil
	}))
	r.nodes["b1"].stop()
	r.must(r.dir.PutBackend(context.Background(), "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendLost; return nil }))
	_, err := r.bring(a, "b2").Seal(context.Background(), r.client("b2"))
	r.must(err)
	next, err := r.dir.Reassign(context.Background(), alice, rec, "b2")
	r.must(err)
	if n := r.count("b2", next.Epoch); int64(n) != last.Messages {
		t.Errorf("%d messages restored of %d", n, last.Messages)
	}
}

// TestRestoreLost: the user of a lost home lives on from the backup, at the same
// UIDVALIDITY and ahead of all that clients were told. The lost home, when it comes
// back, serves nobody, and neither does it start while it is said to be lost.
func TestRestoreLost(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.deliverN("b1", rec.Epoch, 0, 5)
	r.inbox("b1", rec.Epoch)
	a := r.archive()
	r.take(a, "b1")
	r.deliverN("b1", rec.Epoch, 5, 2)
	seen := r.inbox("b1", rec.Epoch)
	ctx := context.Background()

	r.bring(a, "b2")
	g, err := a.Read(alice, 0)
	r.must(err)
	if _, err := g.Seal(ctx, r.client("b2")); !control.IsCode(err, control.CodeFence) {
		t.Fatalf("sealed while the home is not lost: %v", err)
	}
	old := r.nodes["b1"]
	declared := make(chan struct{})
	go func() { defer close(declared); <-old.lost }()
	r.must(r.dir.PutBackend(ctx, "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendLost; return nil }))
	select {
	case <-declared:
	case <-time.After(20 * time.Second):
		t.Fatal("a backend that is declared lost goes on")
	}
	old.ignore()

	for range 2 { // a lost answer is asked for again
		reply, err := g.Seal(ctx, r.client("b2"))
		r.must(err)
		if reply.State != string(fence.Sealed) || reply.Epoch != rec.RestoreEpoch() {
			t.Fatalf("sealed as %+v", reply)
		}
	}
	next, err := r.dir.Reassign(ctx, alice, rec, "b2")
	r.must(err)
	r.inbox("b2", next.Epoch).after(t, seen)
	if n := r.count("b2", next.Epoch); n != 5 {
		t.Errorf("%d messages were restored", n)
	}
	r.must(r.deliver("b2", next.Epoch, "d3", "known\r\n")) // an mx did not hear the answer
	r.must(r.deliver("b2", next.Epoch, "d6", "spooled\r\n"))
	if n := r.count("b2", next.Epoch); n != 6 {
		t.Errorf("%d messages after the spool was emptied", n)
	}

	if _, err := r.tryStart(old.cfg); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("a lost backend started: %v", err)
	}
	r.must(r.dir.PutBackend(ctx, "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendActive; return nil }))
	r.start(old.cfg)
	for _, e := range []director.Epoch{rec.Epoch, next.Epoch} {
		if err := r.deliver("b1", e, "d9", "x\r\n"); !errors.Is(err, mailbox.ErrRefused) && !errors.Is(err, mailbox.ErrStale) {
			t.Errorf("the lost home took mail at epoch %d: %v", e, err)
		}
	}
	if f := r.nodes["b1"].fenceOf(alice); f != serving(rec.Epoch) {
		t.Errorf("the lost home's fence was touched: %s", f)
	}
}

// TestRestoreMissing: a home whose disk does not have the user any more gets it
// from the backup, by the record as it is.
func TestRestoreMissing(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.deliverN("b1", rec.Epoch, 0, 3)
	r.inbox("b1", rec.Epoch)
	a := r.archive()
	r.take(a, "b1")
	seen := r.inbox("b1", rec.Epoch)
	b := r.nodes["b1"]
	b.stop()
	r.must(os.RemoveAll(b.disk.live(alice)))
	r.must(os.Remove(b.disk.in("fences", alice)))
	r.start(b.cfg)
	if err := r.deliver("b1", rec.Epoch, "d9", "x\r\n"); !errors.Is(err, mailbox.ErrRefused) {
		t.Errorf("a user without a fence: %v", err)
	}
	_, err := r.bring(a, "b1").Seal(context.Background(), r.client("b1"))
	r.must(err)
	_, err = call[control.FenceReply](r, r.admin, "b1", control.PathLook, control.LookRequest{User: alice})
	r.must(err)
	r.inbox("b1", rec.Epoch).after(t, seen)
}

// TestSealOfARestoreBrokenOff: between the rename and the fence. What is staging then may be
// another's by now: it is not sealed unseen, and all is put anew.
func TestSealOfARestoreBrokenOff(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.deliverN("b1", rec.Epoch, 0, 3)
	a := r.archive()
	r.take(a, "b1")
	b := r.nodes["b1"]
	b.stop()
	r.must(os.RemoveAll(b.disk.live(alice)))
	r.must(os.Remove(b.disk.in("fences", alice)))
	r.start(b.cfg)
	b = r.nodes["b1"]
	g := r.bring(a, "b1")
	fences := filepath.Dir(b.disk.in("fences", alice))
	r.must(os.RemoveAll(fences))
	r.must(os.WriteFile(fences, nil, 0o600)) // no fence can be written
	if reply, err := g.Seal(context.Background(), r.client("b1")); err == nil {
		t.Fatalf("sealed as %+v without a fence", reply)
	}
	r.must(os.Remove(fences))
	r.must(os.RemoveAll(b.disk.staging(alice)))
	_, err := g.Seal(context.Background(), r.client("b1"))
	r.must(err)
	_, err = call[control.FenceReply](r, r.admin, "b1", control.PathLook, control.LookRequest{User: alice})
	r.must(err)
	if n := r.count("b1", rec.Epoch); n != 3 {
		t.Errorf("%d messages were restored", n)
	}
}

// TestExchange: a user who is served gets the backup's messages back, and keeps
// what came since, unless that is not wanted; the old tree is in the trash.
func TestExchange(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact %v", exact), func(t *testing.T) {
			r := newRig(t, "b1", "b2")
			rec := r.create("b1")
			r.deliverN("b1", rec.Epoch, 0, 5)
			r.inbox("b1", rec.Epoch)
			a := r.archive()
			r.take(a, "b1")
			r.deliverN("b1", rec.Epoch, 5, 2)
			seen := r.inbox("b1", rec.Epoch)
			ctx := context.Background()
			g := r.bring(a, "b1")
			r.must(g.Ready(ctx, r.client("b1")))
			req := control.RestoreExchangeRequest{User: alice, Epoch: rec.Epoch + 1, Digest: g.Layout, Taken: g.Taken, Exact: exact}
			if _, err := call[control.RestoreExchanged](r, r.admin, "b1", control.PathRestoreExchange, req); !control.IsCode(err, control.CodeEpoch) {
				t.Fatalf("exchanged under a user who is not held: %v", err)
			}
			busy, err := r.dir.Hold(ctx, alice, rec, "b2")
			r.must(err)
			did, err := call[control.RestoreExchanged](r, r.admin, "b1", control.PathRestoreExchange, req)
			r.must(err)
			next, err := r.dir.Rollback(ctx, alice, busy)
			r.must(err)
			now := r.inbox("b1", next.Epoch)
			want := 7
			if exact {
				want = 5
			}
			if len(now.uids) != want || did.Kept != want-5 {
				t.Errorf("%d messages, %d kept", len(now.uids), did.Kept)
			}
			now.after(t, inbox{validity: seen.validity, next: seen.next, modSeq: seen.modSeq, uids: seen.uids})
			if ok, err := exists(filepath.Join(r.nodes["b1"].disk.trash(alice, busy.Epoch), "tree")); !ok || err != nil {
				t.Errorf("the old tree is not in the trash: %v", err)
			}
			if ok, err := exists(r.nodes["b1"].disk.restoring(alice)); ok || err != nil {
				t.Errorf("the restore is left: %v", err)
			}
			u, err := call[control.UsageReply](r, r.admin, "b1", control.PathUsage, control.UserRequest{User: alice})
			r.must(err)
			if u.Messages != int64(want) {
				t.Errorf("quota counts %d messages of %d", u.Messages, want)
			}
		})
	}
}

// TestExchangeBrokenOff: a start after a crash at any point of an exchange has one
// tree or the other, and the other one is not lost.
func TestExchangeBrokenOff(t *testing.T) {
	d := disk{t.TempDir()}
	tree, live := d.restoringTree(alice), d.live(alice)
	for _, swapped := range []bool{false, true} {
		for _, dir := range []string{d.trashRoot(), filepath.Dir(tree), filepath.Dir(live)} {
			if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.MkdirAll(tree, 0o700), os.MkdirAll(live, 0o700)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(tree)
		if err != nil {
			t.Fatal(err)
		}
		mark := fmt.Sprintf(`{"ino":%d,"epoch":8}`, inode(info))
		if err := os.WriteFile(d.restoreSwap(alice), []byte(mark), 0o600); err != nil {
			t.Fatal(err)
		}
		if swapped {
			third := filepath.Join(d.root, "third")
			if err := errors.Join(os.Rename(tree, third), os.Rename(live, tree), os.Rename(third, live)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := d.settleExchange(alice); err != nil {
				t.Fatal(err)
			}
		}
		inTrash, err := exists(filepath.Join(d.trash(alice, 8), "tree"))
		left, err2 := exists(tree)
		if err != nil || err2 != nil || inTrash != swapped || left == swapped {
			t.Errorf("swapped %v: in the trash %v, restored tree there %v", swapped, inTrash, left)
		}
	}
}

func inode(info os.FileInfo) uint64 {
	st, _ := info.Sys().(*syscall.Stat_t)
	return st.Ino
}
