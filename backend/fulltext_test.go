package backend

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"waypost/backend/fulltext"
	"waypost/backend/mailbox"
	"waypost/director"
)

// candidates asks the index of INBOX; ok is false where there is none.
func (r *rig) candidates(id director.BackendID, epoch director.Epoch, needle string) (n int, ok bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	box, err := r.nodes[id].Open(ctx, alice, id, epoch)
	r.must(err)
	defer box.Close()
	x := textIndex(box)
	if x == nil {
		return 0, false
	}
	f, err := box.Folder(mailbox.Inbox)
	r.must(err)
	s, err := f.Snapshot()
	r.must(err)
	uids, ok := x.Candidates(ctx, f, s.Messages, needle, true)
	return len(uids), ok
}

// TestTextIndexMoves: the index goes along with its user, whole, and is not written by a home
// that has let go.
func TestTextIndexMoves(t *testing.T) {
	r := newRig(t)
	for _, id := range []director.BackendID{"b1", "b2"} {
		r.start(Config{ID: id, Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: string(id), OwnerGrace: time.Hour, FullText: fullTextAll})
	}
	rec := r.create("b1")
	for i := range 20 {
		r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: x\r\n\r\nword%dword\r\n", i)))
	}
	if n, ok := r.candidates("b1", rec.Epoch, "WORD7WORD"); !ok || n != 1 {
		t.Fatalf("%d candidates, %v", n, ok)
	}
	m, busy := r.toSealed("b2", "m1")
	after := r.flip(m, busy)
	if n, ok := r.candidates("b2", after.Epoch, "WORD8WORD"); !ok || n != 1 {
		t.Errorf("at the new home: %d candidates, %v", n, ok)
	}
	if got := r.nodes["b2"].texts.Stats().Taken; got != 0 {
		t.Errorf("the new home took %d messages in again", got)
	}
	r.finish(m, after)
	if got := r.nodes["b1"].texts.Stats().Open; got != 0 {
		t.Errorf("the old home has %d indexes open", got)
	}
}

// TestTextIndexChosen: only who asks for one has an index.
func TestTextIndexChosen(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d", "Subject: x\r\n\r\nhello\r\n"))
	if _, ok := r.candidates("b1", rec.Epoch, "HELLO"); ok {
		t.Error("an index that nobody asked for")
	}
	dir := filepath.Join(r.nodes["b1"].disk.live(alice), fulltext.Dir)
	if _, err := os.Lstat(dir); err == nil {
		t.Error("there is a folder for it")
	}
	r.must(r.dir.UpdateAccount(t.Context(), alice, func(a *director.Account) error { a.FullText = true; return nil }))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !r.nodes["b1"].indexesTexts(alice); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the backend does not learn of the account")
		}
	}
	if n, ok := r.candidates("b1", rec.Epoch, "HELLO"); !ok || n != 1 {
		t.Errorf("%d candidates, %v", n, ok)
	}
	if _, err := os.Lstat(dir); err != nil {
		t.Error(err)
	}
}
