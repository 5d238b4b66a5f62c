package backend

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"waypost/backend/control"
	"waypost/backend/mailbox"
)

// TestReceiptOfChanges: what a receipt says on its base is what one says that was made of the
// whole, whether the user only got mail since the base, or also changed and expunged some.
func TestReceiptOfChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(r *rig, f mailbox.Folder)
		most   int // lines
	}{
		{"nothing", func(*rig, mailbox.Folder) {}, 0},
		{"mail and flags", func(r *rig, f mailbox.Folder) {
			_, err := f.SetFlags([]mailbox.UID{2, 3}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}})
			r.must(err)
			r.must(r.deliver("b1", 1, "more", "Subject: more\r\n\r\n"))
		}, 20},
		{"expunged", func(r *rig, f mailbox.Folder) {
			_, err := f.Expunge([]mailbox.UID{1, 4})
			r.must(err)
		}, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, "b1", "b2")
			rec := r.create("b1")
			for i := range 30 {
				r.must(r.deliver("b1", rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\n", i)))
			}
			r.count("b1", rec.Epoch)
			m, from := r.plan("b2", "m1")
			req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
			_, err := call[control.FenceReply](r, r.mover, "b2", control.PathStage, req)
			r.must(err)
			r.must(r.pull(m, false))
			r.must(r.pull(m, false))

			box, err := r.nodes["b1"].Open(t.Context(), alice, "b1", rec.Epoch)
			r.must(err)
			f, err := box.Folder(mailbox.Inbox)
			r.must(err)
			_, err = f.Snapshot()
			r.must(err)
			tt.change(r, f)
			box.Close()
			r.count("b1", rec.Epoch)

			busy, err := from.MarkBusy("b2")
			r.must(err)
			r.must(r.dir.Advance(t.Context(), m, from, &busy))
			sum, err := call[control.ManifestSummary](r, r.mover, "b1", control.PathFreeze, req)
			r.must(err)
			r.must(r.pull(m, true))
			_, err = call[control.ManifestSummary](r, r.mover, "b2", control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest})
			r.must(err)

			b2 := r.nodes["b2"]
			head, lines, err := readReceiptFile(b2.disk.receipt(alice, req.Epoch))
			r.must(err)
			if !head.OnBase || len(lines) > tt.most {
				t.Errorf("on its base: %v, %d lines, want at most %d", head.OnBase, len(lines), tt.most)
			}
			got, err := b2.disk.readReceipt(alice, req.Epoch)
			r.must(err)
			staged, err := b2.digests.staged(alice)
			r.must(err)
			u := b2.use(alice)
			defer b2.release(u)
			want, _ := u.stagedReceipt(staged.Manifest(), req.Epoch, sum.Digest)
			if !maps.Equal(got.lines, want.lines) || !maps.Equal(got.head.Validity, want.head.Validity) {
				t.Errorf("on its base %v\nwhole %v", got.lines, want.lines)
			}
		})
	}
}

// TestGrownUIDList: only a list to which lines were appended is read from where it ended.
func TestGrownUIDList(t *testing.T) {
	const before = "3 V7 N3\n1 :one\n2 :two\n"
	for _, tt := range []struct {
		name, now string
		more      map[string]uint32 // nil: read the whole
	}{
		{"the same", before, map[string]uint32{}},
		{"appended, and another header", "3 V7 N9 G0123\n1 :one\n2 :two\n5 :five\n", map[string]uint32{"five": 5}},
		{"a torn last line", before + "5 :five\n6 :s", map[string]uint32{"five": 5}},
		{"expunged", "3 V7 N3\n2 :two\n", nil},
		{"another name", "3 V7 N3\n1 :one\n2 :too\n", nil},
		{"shorter", "3 V7 N3\n1 :one\n", nil},
		{"a name once more", before + "5 :one\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), uidlistName)
			if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			table, err := readUIDs(file)
			if err != nil || table.validity != 7 || len(table.of) != 2 {
				t.Fatalf("%+v, %v", table, err)
			}
			if err := os.WriteFile(file, []byte(tt.now), 0o600); err != nil {
				t.Fatal(err)
			}
			more, ok, err := table.grown(file)
			if err != nil || ok != (tt.more != nil) || ok && !maps.Equal(more.of, tt.more) {
				t.Errorf("%v, %v, %v; want %v", more.of, ok, err, tt.more)
			}
		})
	}
}
