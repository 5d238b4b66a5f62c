package backend

import (
	"fmt"
	"os"
	"testing"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
)

// TestMoveGoesOn: both backends are started again between the passes, and know what they
// knew: nothing is sent or read again, and the seal is what it would have been.
func TestMoveGoesOn(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 20 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)))
	}
	m, active := r.plan("b2", "m1")
	req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
	_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, req)
	r.must(err)
	r.must(r.pull(m, false))
	for _, n := range []*node{r.nodes["b1"], r.nodes["b2"]} {
		n.stop()
		r.start(n.cfg)
	}
	busy, err := active.MarkBusy("b2")
	r.must(err)
	r.must(r.dir.Advance(t.Context(), m, active, &busy))
	sum, err := call[control.ManifestSummary](r, r.mover, "b1", control.PathFreeze, req)
	r.must(err)
	r.must(r.pull(m, true))
	_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
	r.must(err)
	kept, err := readManifest(r.nodes["b1"].disk.manifest(alice))
	r.must(err)
	if s := manifest.Summary(kept); s.Messages != 20 || sum.Messages != 20 {
		t.Errorf("the frozen manifest has %+v, the mover was told %+v", s, sum)
	}
	after := r.flip(m, busy)
	if n := r.count("b2", after.Epoch); n != 20 {
		t.Errorf("%d messages at the new home", n)
	}
	r.fenceIs("b1", gone(after.Epoch))
	for _, n := range []*node{r.nodes["b1"], r.nodes["b2"]} {
		if _, err := os.Stat(n.digests.folder(alice)); !os.IsNotExist(err) {
			t.Errorf("%s still keeps what it knew for the move: %v", n.cfg.ID, err)
		}
	}
}

// TestStrangerInStaging: what is changed in staging behind the back of the passes is found
// before the seal.
func TestStrangerInStaging(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "x\r\n"))
	m, active := r.plan("b2", "m1")
	req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
	_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, req)
	r.must(err)
	r.must(r.pull(m, false))
	busy, err := active.MarkBusy("b2")
	r.must(err)
	r.must(r.dir.Advance(t.Context(), m, active, &busy))
	sum, err := call[control.ManifestSummary](r, r.mover, "b1", control.PathFreeze, req)
	r.must(err)
	r.must(r.pull(m, true))
	r.must(os.WriteFile(r.nodes["b2"].disk.staging(alice)+"/Maildir/new/1.stranger", []byte("y\n"), 0o600))
	_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
	if !control.IsCode(err, control.CodeDiffers) {
		t.Errorf("sealed: %v", err)
	}
	if f := r.nodes["b2"].fenceOf(alice); f.State != fence.Incoming {
		t.Errorf("fence is %s", f)
	}
	r.must(r.pull(m, true)) // it brings staging back to what the source has
	_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
	r.must(err)
}
