package backend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"waypost/backend/journal"
	"waypost/director"
)

// crashImage is a copy of a running backend's disk with records that no checkpoint
// has passed, and without the messages that the journal has.
func crashImage(t *testing.T, deliveries int) (data string) {
	t.Helper()
	r := newRig(t, "b1")
	rec := r.create("b1")
	b := r.nodes["b1"]
	for range 10 {
		from := b.journal.Stats()
		for i := range deliveries {
			r.must(r.deliver("b1", rec.Epoch, fmt.Sprintf("d%d.%d", from.LastLSN, i), fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", i, bytes.Repeat([]byte("z"), 5000))))
		}
		data = t.TempDir()
		r.must(os.CopyFS(data, os.DirFS(b.disk.root)))
		if to := b.journal.Stats(); to.Checkpoint == from.Checkpoint {
			return data
		}
	}
	t.Fatal("a checkpoint came each time")
	return ""
}

// loseMessages removes what was not synced.
func loseMessages(t *testing.T, data string) (lost int) {
	t.Helper()
	err := filepath.WalkDir(disk{data}.live(alice), func(path string, e fs.DirEntry, err error) error {
		if err == nil && filepath.Base(filepath.Dir(path)) == "new" {
			lost++
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lost
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestRepairJournal(t *testing.T) {
	data := crashImage(t, 5)
	want := content(t, disk{data}.live(alice))
	if lost := loseMessages(t, data); lost == 0 {
		t.Fatal("nothing to lose")
	}
	did, err := RepairJournal(data, false, silent())
	if err != nil || did.Records < 5 || !slices.Equal(did.Users, []director.User{alice}) || did.Served != 1 || len(did.Losses)+len(did.Failed)+len(did.Affected) > 0 {
		t.Fatalf("%+v %v", did, err)
	}
	got := content(t, disk{data}.live(alice))
	for base, digest := range want {
		if got[base] != digest {
			t.Errorf("message %s is not as it was", base)
		}
	}
	if did, err = RepairJournal(data, false, silent()); err != nil || did.Records+did.OfOtherEpochs > 0 {
		t.Errorf("again: %+v %v", did, err)
	}
}

func TestRepairJournalRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := RepairJournal(dir, true, silent()); !errors.Is(err, ErrNoData) {
		t.Errorf("an empty folder: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("made %v, %v", entries, err)
	}
	r := newRig(t, "b1")
	if _, err := RepairJournal(r.nodes["b1"].disk.root, true, silent()); err == nil {
		t.Error("the journal of a running backend was repaired")
	}
}

// TestSalvageJournal damages a batch in the middle.
func TestSalvageJournal(t *testing.T) {
	data := crashImage(t, 8)
	loseMessages(t, data)
	path, off := middleBatch(t, disk{data}.journal())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, 64), off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := RepairJournal(data, false, silent()); !errors.Is(err, journal.ErrCorrupt) {
			t.Fatalf("damaged, but: %v", err)
		}
	}
	did, err := RepairJournal(data, true, silent())
	if err != nil || len(did.Losses) != 1 || did.Losses[0].First == 0 || did.Losses[0].Last < did.Losses[0].First ||
		did.Losses[0].File != path || did.Losses[0].Offset != off || !slices.Equal(did.Affected, []director.User{alice}) || did.Records == 0 {
		t.Fatalf("%+v %v", did, err)
	}
	if n := len(content(t, disk{data}.live(alice))); n < 4 || n > 7 {
		t.Errorf("%d messages were saved", n)
	}
	if did, err := RepairJournal(data, false, silent()); err != nil || did.Records > 0 {
		t.Errorf("afterwards: %+v %v", did, err)
	}
}

// middleBatch finds a batch that is neither the first nor the last.
func middleBatch(t *testing.T, dir string) (path string, off int64) {
	t.Helper()
	const block, magic = 4096, 0x424a5057
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		path string
		off  int64
	}
	var found []place
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for at := block; at+block <= len(data); at += block {
			if binary.LittleEndian.Uint32(data[at:]) == magic {
				found = append(found, place{p, int64(at)})
			}
		}
	}
	if len(found) < 5 {
		t.Fatalf("only %d batches", len(found))
	}
	mid := found[len(found)-3]
	return mid.path, mid.off
}
