package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
)

// verify asks b2 about alice's last move.
func (r *rig) verify(id director.BackendID) (v control.Verified, found []control.Finding, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, _, err := r.dir.LastMove(ctx, alice)
	r.must(err)
	c := control.NewClient(r.admin, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
	err = c.Verify(ctx, control.VerifyRequest{User: alice, Epoch: p.Epoch + 1, Digest: p.Receipt}, func(l control.CheckLine) error {
		if l.Finding != nil {
			found = append(found, *l.Finding)
		}
		if l.Verified != nil {
			v = *l.Verified
		}
		return nil
	})
	return v, found, err
}

// moved is alice on b2 with n messages, moved from b1.
func moved(t *testing.T, n int) (*rig, director.Move, director.Record) {
	t.Helper()
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range n {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i)))
	}
	r.count("b1", rec.Epoch) // numbered
	m, busy := r.toSealed("b2", "m1")
	after := r.flip(m, busy)
	r.fenceIs("b2", serving(after.Epoch))
	r.fenceIs("b1", gone(after.Epoch))
	r.finish(m, after)
	return r, m, after
}

// inboxFiles gives the files of alice's INBOX at a backend.
func (r *rig) inboxFiles(root string) (files []string) {
	r.t.Helper()
	for _, dir := range []string{"cur", "new"} {
		es, err := os.ReadDir(filepath.Join(root, "Maildir", dir))
		r.must(err)
		for _, e := range es {
			files = append(files, filepath.Join(root, "Maildir", dir, e.Name()))
		}
	}
	return files
}

// TestVerify: right after a move all is the same; what the user does since is known
// for what it is; what is lost or altered is told.
func TestVerify(t *testing.T) {
	r, _, after := moved(t, 6)
	v, found, err := r.verify("b2")
	if err != nil || v.Messages != 6 || v.Same != 6 || len(found) != 0 {
		t.Fatalf("%+v, %v, %v", v, found, err)
	}
	box, err := r.nodes["b2"].Open(t.Context(), alice, "b2", after.Epoch)
	r.must(err)
	r.must(box.CreateFolder("Kept", ""))
	f, err := box.Folder("INBOX")
	r.must(err)
	_, err = f.Snapshot()
	r.must(err)
	_, err = f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}})
	r.must(err)
	_, err = f.Move([]mailbox.UID{2}, "Kept")
	r.must(err)
	_, err = f.Expunge([]mailbox.UID{3})
	r.must(err)
	box.Close()
	v, found, err = r.verify("b2")
	if err != nil || v.Same != 3 || v.Changed != 2 || v.Expunged != 1 || v.Missing != 0 || len(found) != 0 {
		t.Fatalf("after the user worked: %+v, %v, %v", v, found, err)
	}
	// One file goes without the store's knowledge, another one loses its contents.
	live := r.nodes["b2"].disk.live(alice)
	done := 0
	for _, file := range r.inboxFiles(live) {
		switch text, err := os.ReadFile(file); {
		case err != nil:
			t.Fatal(err)
		case strings.Contains(string(text), "Subject: 4"):
			r.must(os.Remove(file))
			done++
		case strings.Contains(string(text), "Subject: 5"):
			r.must(os.WriteFile(file, make([]byte, len(text)), 0o600))
			done++
		}
	}
	v, found, err = r.verify("b2")
	if err != nil || done != 2 || v.Missing != 2 || len(found) != 2 || found[0].Kind != control.KindMissing || found[0].Folder != "INBOX" {
		t.Errorf("after a loss of %d: %+v, %v, %v", done, v, found, err)
	}
}

// TestVerifyDamagedReceipt: a receipt that does not prove itself proves nothing.
func TestVerifyDamagedReceipt(t *testing.T) {
	r, m, _ := moved(t, 2)
	d := r.nodes["b2"].disk
	h, lines, err := readReceiptFile(d.receipt(alice, m.Epoch+1))
	r.must(err)
	if !h.OnBase || len(lines) > 1 {
		t.Errorf("inside busy %d lines were written, on a base: %v", len(lines), h.OnBase)
	}
	_, base, err := readReceiptFile(d.receiptBase(alice, m.Epoch+1))
	r.must(err)
	r.must(h.write(d.receiptBase(alice, m.Epoch+1), base[1:]))
	if _, _, err := r.verify("b2"); !control.IsCode(err, control.CodeDiffers) {
		t.Errorf("a base with a line less: %v", err)
	}
	r.must(os.WriteFile(d.receipt(alice, m.Epoch+1), []byte("not gzip"), 0o600))
	if _, _, err := r.verify("b2"); !control.IsCode(err, control.CodeDiffers) {
		t.Errorf("no receipt at all: %v", err)
	}
}

// TestReceiptWithoutBase: a target that was restarted between the passes and the seal
// writes the receipt whole.
func TestReceiptWithoutBase(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	m, from := r.plan("b2", "m1")
	req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
	_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, req)
	r.must(err)
	r.must(r.pull(m, false))
	r.nodes["b2"].stop()
	r.start(r.nodes["b2"].cfg)
	busy, err := from.MarkBusy("b2")
	r.must(err)
	r.must(r.dir.Advance(t.Context(), m, from, &busy))
	sum, err := call[control.ManifestSummary](r, r.mover, "b1", control.PathFreeze, req)
	r.must(err)
	r.must(r.pull(m, true))
	_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
	r.must(err)
	got, err := r.nodes["b2"].disk.readReceipt(alice, req.Epoch)
	r.must(err)
	if s := manifest.Summary(got.manifest()); s.Digest != sum.Digest || s.Messages != 1 {
		t.Errorf("the receipt stands for %+v, the freeze gave %+v", s, sum)
	}
}

// TestPurgeOnlyAgainstReceipt: the trash outlives its grace period while the directory
// does not prove that its mail arrived.
func TestPurgeOnlyAgainstReceipt(t *testing.T) {
	for name, c := range map[string]struct {
		receipt string // what the directory says, "" for the truth
		finish  bool
		purged  bool
	}{
		"proven":         {"", true, true},
		"not finished":   {"", false, false},
		"another digest": {"0123", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "b2")
			r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", TrashGrace: time.Millisecond})
			rec := r.create("b1")
			r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
			m, busy := r.toSealed("b2", "m1")
			if c.receipt != "" {
				m.Receipt = c.receipt
			}
			after := r.flip(m, busy)
			r.fenceIs("b2", serving(after.Epoch))
			r.fenceIs("b1", gone(after.Epoch))
			b1 := r.nodes["b1"]
			dir := b1.disk.trash(alice, busy.Epoch)
			eventually(t, "it is swept", func() error { _, err := os.Stat(filepath.Join(dir, "swept")); b1.janitor.wake(); return err })
			if c.finish { // not before: then it may be gone as soon as it is swept
				r.finish(m, after)
			}
			if !c.purged {
				err := b1.janitor.one(t.Context(), dir, alice, busy.Epoch)
				if ok, _ := exists(dir); err == nil || !ok {
					t.Errorf("purged without a proof: %v", err)
				}
				return
			}
			eventually(t, "it is purged", func() error {
				b1.janitor.wake()
				if ok, err := exists(dir); ok || err != nil {
					return errors.New("it is there")
				}
				return nil
			})
		})
	}
}

// TestUndoIsSeeded: the way back begins with the tree in the trash; what arrived since
// comes along, what was removed since does not come back, and the trash stays whole.
func TestUndoIsSeeded(t *testing.T) {
	r, first, after := moved(t, 20)
	r.must(r.deliver("b2", after.Epoch, "since", "Subject: since\r\n\r\nafter the move\r\n"))
	box, err := r.nodes["b2"].Open(t.Context(), alice, "b2", after.Epoch)
	r.must(err)
	f, err := box.Folder("INBOX")
	r.must(err)
	_, err = f.Snapshot()
	r.must(err)
	_, err = f.Expunge([]mailbox.UID{1})
	r.must(err)
	box.Close()
	trash := r.nodes["b1"].disk.trash(alice, first.Epoch+1)
	proof, err := readManifest(filepath.Join(trash, "manifest"))
	r.must(err)

	m, from := r.plan("b1", "undo")
	_, err = call[control.FenceReply](r, r.mover, "b1", control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	staging := r.nodes["b1"].disk.staging(alice)
	if n := len(r.inboxFiles(staging)); n != 20 {
		t.Fatalf("staging begins with %d messages", n)
	}
	c := control.NewClient(r.mover, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})
	done, err := c.Pull(t.Context(), control.PullRequest{User: alice, Epoch: m.Epoch + 1, Source: "b2", Node: r.nodes["b2"].Addr()}, func(control.PullProgress) {})
	r.must(err)
	if done.TotalFiles > 10 {
		t.Errorf("%d files were sent again", done.TotalFiles)
	}
	m, busy := r.goOn(m, from)
	back := r.flip(m, busy)
	if n := r.count("b1", back.Epoch); n != 20 {
		t.Errorf("%d messages at the old home", n)
	}
	now, err := manifest.Scan(t.Context(), filepath.Join(trash, "tree"))
	r.must(err)
	if manifest.Summary(now).Digest != manifest.Summary(proof).Digest {
		t.Error("the tree in the trash was changed by its use as a seed")
	}
	r.finish(m, back)
	if v, _, err := r.verify("b1"); err != nil || v.Same != 20 {
		t.Errorf("%+v, %v", v, err)
	}
}

// goOn plays a move whose first pass was made up to the seal.
func (r *rig) goOn(m director.Move, from director.Record) (director.Move, director.Record) {
	r.t.Helper()
	req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
	busy, err := from.MarkBusy(m.Target)
	r.must(err)
	r.must(r.dir.Advance(context.Background(), m, from, &busy))
	sum, err := call[control.ManifestSummary](r, r.mover, m.Source, control.PathFreeze, req)
	r.must(err)
	r.must(r.pull(m, true))
	_, err = call[control.ManifestSummary](r, r.mover, m.Target, control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
	r.must(err)
	m.Receipt = sum.Digest
	return m, busy
}

// TestNextTryIsSeeded: a move that was put off goes on with what it had copied.
func TestNextTryIsSeeded(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 10 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)))
	}
	m, busy := r.toSealed("b2", "m1")
	back, err := busy.Rollback()
	r.must(err)
	m.Phase, m.Epoch, m.Tries, m.Receipt = director.PhasePlanned, back.Epoch, 1, ""
	r.must(r.dir.Advance(t.Context(), m, busy, &back))
	r.fenceIs("b1", serving(back.Epoch))
	r.fenceIs("b2", gone(back.Epoch))
	if ok, _ := exists(r.nodes["b2"].disk.staging(alice)); ok {
		t.Fatal("staging outlived its epoch")
	}
	_, err = call[control.FenceReply](r, r.mover, "b2", control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	if n := len(r.inboxFiles(r.nodes["b2"].disk.staging(alice))); n != 10 {
		t.Errorf("the next try begins with %d messages", n)
	}
	r.must(r.pull(m, false))
	_, busy = r.goOn(m, back)
	after := r.flip(m, busy)
	if n := r.count("b2", after.Epoch); n != 10 {
		t.Errorf("%d messages at the new home", n)
	}
}

// TestSeedIsNobodyElses: what a former person of that name left is no start.
func TestSeedIsNobodyElses(t *testing.T) {
	r, _, _ := moved(t, 3)
	_, err := r.dir.DeleteUser(t.Context(), alice)
	r.must(err)
	eventually(t, "b2 let go", func() error {
		if f := r.nodes["b2"].fenceOf(alice); f.State != fence.Gone {
			return errors.New(f.String())
		}
		return nil
	})
	r.create("b2")
	m, _ := r.plan("b1", "m2")
	_, err = call[control.FenceReply](r, r.mover, "b1", control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	if es, err := os.ReadDir(r.nodes["b1"].disk.staging(alice)); err != nil || len(es) != 0 {
		t.Errorf("staging begins with %v (%v)", es, err)
	}
}
