package backend

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/director"
)

// What others got wrong when they moved a user; each test is a line of a list that
// ARCHITECTURE.md has.

// at opens alice's mailbox.
func (r *rig) at(id director.BackendID, epoch director.Epoch) mailbox.Box {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	box, err := r.nodes[id].Open(ctx, alice, id, epoch)
	r.must(err)
	return box
}

func (r *rig) folder(box mailbox.Box, name string) (mailbox.Folder, mailbox.Snapshot) {
	r.t.Helper()
	f, err := box.Folder(name)
	r.must(err)
	s, err := f.Snapshot()
	r.must(err)
	return f, s
}

// hot stages a move and makes its first pass.
func (r *rig) hot(to director.BackendID, id string) (director.Move, director.Record) {
	r.t.Helper()
	m, from := r.plan(to, id)
	_, err := call[control.FenceReply](r, r.mover, to, control.PathStage, control.MoveRequest{User: alice, Epoch: m.Epoch + 1})
	r.must(err)
	r.must(r.pull(m, false))
	return m, from
}

// seen says of a folder what a client would notice.
func seen(s mailbox.Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s validity %d next %d:", s.ID, s.UIDValidity, s.UIDNext)
	for i := range s.Messages.Len() {
		m := s.Messages.At(i)
		fmt.Fprintf(&b, " %d %v", m.UID, m.Flags)
	}
	return b.String()
}

// TestChangesBetweenPasses: mail that comes, flags that are set, messages and folders
// that are removed, renamed and made after a hot pass are at the target as they are at
// the source: nothing lost, nothing back, nothing twice.
func TestChangesBetweenPasses(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 6 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i)))
	}
	box := r.at("b1", rec.Epoch)
	for _, name := range []string{"Old", "Gone", "Gone/Child", "Full"} {
		r.must(box.CreateFolder(name, ""))
	}
	f, _ := r.folder(box, "INBOX")
	_, err := f.Copy([]mailbox.UID{1, 2}, "Old")
	r.must(err)
	_, err = f.Copy([]mailbox.UID{3}, "Gone/Child")
	r.must(err)
	m, from := r.hot("b2", "m1")

	r.must(r.deliver("b1", rec.Epoch, "late", "Subject: late\r\n\r\nlate\r\n"))
	_, err = f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged, Keywords: []string{"work"}}})
	r.must(err)
	_, err = f.Expunge([]mailbox.UID{1})
	r.must(err)
	_, err = f.Move([]mailbox.UID{4}, "Full")
	r.must(err)
	r.must(box.RenameFolder("Old", "New Name"))
	r.must(box.DeleteFolder("Gone/Child"))
	r.must(box.DeleteFolder("Gone"))
	r.must(box.CreateFolder("Made since", ""))
	want := r.views(box)
	box.Close()

	m, busy := r.goOn(m, from)
	after := r.flip(m, busy)
	box = r.at("b2", after.Epoch)
	defer box.Close()
	if got := r.views(box); got != want {
		t.Errorf("at the source\n%s\nat the target\n%s", want, got)
	}
	if err := r.deliver("b2", after.Epoch, "late", "Subject: late\r\n\r\nlate\r\n"); err != nil || r.count("b2", after.Epoch) != 5 {
		t.Errorf("what was delivered in between came twice: %v, %d messages", err, r.count("b2", after.Epoch))
	}
}

// views are all folders as a client sees them.
func (r *rig) views(box mailbox.Box) string {
	r.t.Helper()
	infos, err := box.Folders()
	r.must(err)
	var all []string
	for _, info := range infos {
		text := "no messages can be here"
		if !info.NoSelect {
			_, s := r.folder(box, info.Name)
			text = seen(s)
		}
		all = append(all, fmt.Sprintf("%s %q: %s", info.Name, info.SpecialUse, text))
	}
	subs, err := box.Subscriptions()
	r.must(err)
	slices.Sort(subs)
	return strings.Join(all, "\n") + "\nsubscribed: " + strings.Join(subs, ", ")
}

// TestFoldersMove: folders without messages, with '@', spaces and UTF-8 in their names,
// special uses and subscriptions, to folders that do not exist as well; twice, there
// and back.
func TestFoldersMove(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	box := r.at("b1", rec.Epoch)
	for name, use := range map[string]string{
		"Sent Items": "\\Sent", "Müll": "\\Trash", "lists@home": "", "a b/c d": "", "日本語/受信箱": "", "tilde ~ & Co": "",
	} {
		r.must(box.CreateFolder(name, use))
		r.must(box.Subscribe(name, true))
	}
	r.must(box.Subscribe("not there", true))
	want := r.views(box)
	box.Close()
	for i, to := range []director.BackendID{"b2", "b1", "b2"} {
		m, busy := r.toSealed(to, fmt.Sprint("m", i))
		after := r.flip(m, busy)
		box := r.at(to, after.Epoch)
		if got := r.views(box); got != want {
			t.Errorf("move %d: before\n%s\nafter\n%s", i, want, got)
		}
		box.Close()
		r.finish(m, after)
	}
}

// TestIdentitySurvivesMoves: a client finds the same UIDs, UIDVALIDITY and mailbox id, a
// HIGHESTMODSEQ that did not go back, and what was expunged before.
func TestIdentitySurvivesMoves(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	for i := range 5 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), "x\r\n"))
	}
	box := r.at("b1", rec.Epoch)
	f, s := r.folder(box, "INBOX")
	began := s.HighestModSeq
	_, err := f.Expunge([]mailbox.UID{2, 4})
	r.must(err)
	_, s = r.folder(box, "INBOX")
	box.Close()
	m, busy := r.toSealed("b2", "m1")
	after := r.flip(m, busy)
	box = r.at("b2", after.Epoch)
	defer box.Close()
	f, now := r.folder(box, "INBOX")
	if seen(now) != seen(s) || now.HighestModSeq < s.HighestModSeq {
		t.Errorf("before %s, %d; after %s, %d", seen(s), s.HighestModSeq, seen(now), now.HighestModSeq)
	}
	gone, complete, err := f.ExpungedSince(began)
	if err != nil || !complete || len(gone) != 2 || gone[0].First != 2 || gone[1].First != 4 {
		t.Errorf("expunged since: %v, complete %v, %v", gone, complete, err)
	}
}

// TestQuotaMoves: a user over the quota is moved like any other, and stays over it.
func TestQuotaMoves(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", strings.Repeat("x\r\n", 1000)))
	r.must(r.dir.UpdateAccount(t.Context(), alice, func(a *director.Account) error { a.QuotaBytes = 10; return nil }))
	eventually(t, "both know the quota", func() error {
		for _, id := range []director.BackendID{"b1", "b2"} {
			if l, ok := r.nodes[id].limit(alice); !ok || l.Bytes != 10 {
				return fmt.Errorf("%s: %+v", id, l)
			}
		}
		return nil
	})
	m, busy := r.toSealed("b2", "m1")
	after := r.flip(m, busy)
	box := r.at("b2", after.Epoch)
	defer box.Close()
	u, err := box.Usage()
	if err != nil || u.Messages != 1 || u.Bytes != 2000 || box.Fits(1) == nil {
		t.Errorf("usage %+v, %v, fits: %v", u, err, box.Fits(1))
	}
}

// TestTimerAfterFlip: a home that believes a user to be busy for too long, because its
// watch stands still, does not reopen after the flip.
func TestTimerAfterFlip(t *testing.T) {
	r := newRig(t, "b2")
	r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", OwnerGrace: time.Hour, BusyLimit: time.Hour})
	r.create("b1")
	m, busy := r.toSealed("b2", "m1")
	b1 := r.nodes["b1"]
	eventually(t, "b1 knows that the user is busy", func() error {
		if len(b1.busy.Snapshot()) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	r.store.PauseWatches(true)
	after := r.flip(m, busy)
	late := fence.BusyUser{Record: busy, Since: time.Now().Add(-2 * time.Hour), Owned: time.Now().Add(-2 * time.Hour)}
	r.must(b1.checkBusy(t.Context(), alice, late))
	v, err := r.dir.Location(t.Context(), alice)
	r.must(err)
	if v.Value != after {
		t.Errorf("the record became %s", v.Value)
	}
	eventually(t, "b1 obeys the record", func() error {
		if f := b1.fenceOf(alice); f.State != fence.Gone {
			return fmt.Errorf("fence is %s", f)
		}
		return nil
	})
	r.store.PauseWatches(false)
	r.fenceIs("b2", serving(after.Epoch))
}

// TestStaleStaging: what an earlier, aborted move left at the destination, other mail
// and other contents under the same names, does not get into the mailbox.
func TestStaleStaging(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "Subject: mine\r\n\r\nmine\r\n"))
	r.count("b1", rec.Epoch)
	parked := r.nodes["b2"].disk.parked(alice, 0)
	r.must(os.MkdirAll(filepath.Join(parked, "Maildir", "cur"), 0o700))
	r.must(os.MkdirAll(filepath.Join(parked, "Maildir", ".Stale", "cur"), 0o700))
	r.must(os.WriteFile(filepath.Join(parked, "Maildir", "cur", "1.M1P1.stale,S=6:2,"), []byte("stale\n"), 0o600))
	name := filepath.Base(r.inboxFiles(r.nodes["b1"].disk.live(alice))[0])
	r.must(os.WriteFile(filepath.Join(parked, "Maildir", "cur", name), []byte("not what it was"), 0o600))
	m, busy := r.toSealed("b2", "m1")
	after := r.flip(m, busy)
	box := r.at("b2", after.Epoch)
	defer box.Close()
	_, s := r.folder(box, "INBOX")
	if s.Messages.Len() != 1 {
		t.Errorf("%d messages", s.Messages.Len())
	}
	r.finish(m, after)
	if v, _, err := r.verify("b2"); err != nil || v.Same != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if infos, err := box.Folders(); err != nil || len(infos) != 1 {
		t.Errorf("folders %v, %v", infos, err)
	}
}

// TestSealReadsContents: names and sizes do not prove anything; bodies that somebody put in
// the place of those that were proven while they came do not get into a sealed mailbox.
func TestSealReadsContents(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"zeros": func(b []byte) []byte { return make([]byte, len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "b1", "b2")
			rec := r.create("b1")
			r.must(r.deliver("b1", rec.Epoch, "d1", "Subject: x\r\n\r\nbody\r\n"))
			m, from := r.hot("b2", "m1")
			busy, err := from.MarkBusy("b2")
			r.must(err)
			r.must(r.dir.Advance(t.Context(), m, from, &busy))
			req := control.MoveRequest{User: alice, Epoch: busy.Epoch}
			sum, err := call[control.ManifestSummary](r, r.mover, "b1", control.PathFreeze, req)
			r.must(err)
			r.must(r.pull(m, true))
			file := r.inboxFiles(r.nodes["b2"].disk.staging(alice))[0]
			text, err := os.ReadFile(file)
			r.must(err)
			r.must(os.WriteFile(file+".other", damage(text), 0o600))
			r.must(os.Rename(file+".other", file))
			_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: busy.Epoch, Digest: sum.Digest})
			if !control.IsCode(err, control.CodeDiffers) {
				t.Errorf("sealed with lost bodies: %v", err)
			}
			// The next pass mends it.
			r.must(r.pull(m, true))
			_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: busy.Epoch, Digest: sum.Digest})
			r.must(err)
		})
	}
}
