package fulltext

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"waypost/backend/mailbox"
)

// words are what messages and needles are made of: short ones, so that both meet; letters of
// all lengths, some of which become others.
var words = []string{"a", "ab", "abc", "Büro", "straße", "ÄÖ", "日本語", "本", "привет", "ﬁn", "x", " ", "ǆ", "\u0308", "e", "Ε", "😀"}

func text(t *rapid.T, label string, most int) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, most).Draw(t, label), "")
}

// TestSame: whatever happens to mailbox, process and files, a search with the index gives what
// one without it does.
func TestSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "fulltext")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		w := newWorld(t, dir)
		defer w.close()
		w.must(w.box.CreateFolder("Other", ""))
		folders := rapid.SampledFrom([]string{mailbox.Inbox, "Other"})
		some := func(t *rapid.T) (mailbox.Folder, []mailbox.UID) {
			f, all := w.folder(folders.Draw(t, "folder"))
			if all.Len() == 0 {
				t.Skip("no messages")
			}
			var uids []mailbox.UID
			for _, m := range all.All() {
				if rapid.Bool().Draw(t, "take") {
					uids = append(uids, m.UID)
				}
			}
			return f, uids
		}
		other := map[string]string{mailbox.Inbox: "Other", "Other": mailbox.Inbox}
		t.Repeat(map[string]func(*rapid.T){
			"deliver": func(t *rapid.T) {
				folder, html := folders.Draw(t, "folder"), rapid.Bool().Draw(t, "html")
				for range rapid.IntRange(1, 5).Draw(t, "messages") {
					m := "Subject: " + text(t, "subject", 4) + "\nX-Other: " + text(t, "field", 3) + "\n"
					if html {
						m += "Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n"
					}
					w.append(folder, m+"\n"+text(t, "text", 12)+"\n")
				}
			},
			"expunge": func(t *rapid.T) {
				f, uids := some(t)
				_, err := f.Expunge(uids)
				w.must(err)
			},
			"move": func(t *rapid.T) {
				f, uids := some(t)
				_, err := f.Move(uids, other[f.Name()])
				w.must(err)
			},
			"copy": func(t *rapid.T) {
				f, uids := some(t)
				_, err := f.Copy(uids, other[f.Name()])
				w.must(err)
			},
			"partly": func(t *rapid.T) {
				f, all := w.folder(folders.Draw(t, "folder"))
				missing, _ := w.index().missing(all, rapid.IntRange(1, 3).Draw(t, "limit"))
				w.store.takeIn(context.Background(), w.index(), f, missing, time.Time{})
			},
			"compact": func(t *rapid.T) { w.must(w.index().compact()) },
			"sweep":   func(t *rapid.T) { w.must(w.store.sweep(context.Background(), w.box, w.index())) },
			"restart": func(t *rapid.T) { w.restart() },
			"full":    func(t *rapid.T) { w.full = !w.full },
			"flags": func(t *rapid.T) {
				f, uids := some(t)
				_, err := f.SetFlags(uids, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Seen}})
				w.must(err)
			},
			"renumber": func(t *rapid.T) { w.mail.Renumber(ann, mailbox.Inbox) },
			"damage": func(t *rapid.T) {
				w.lease.Release()
				w.store.Close()
				defer w.start()
				files := w.segments()
				if len(files) == 0 {
					return
				}
				path := rapid.SampledFrom(files).Draw(t, "file")
				b, err := os.ReadFile(path)
				w.must(err)
				if len(b) == 0 || rapid.Bool().Draw(t, "torn") { // as a crash leaves it
					w.must(os.Truncate(path, int64(rapid.IntRange(0, len(b)).Draw(t, "size"))))
					return
				}
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				w.must(os.WriteFile(path, b, 0o600))
			},
			"crash": func(t *rapid.T) { // amid a merge: the new file is there, and the old ones still
				ix := w.index()
				if ix.count() < 2 {
					return
				}
				old := map[string][]byte{}
				for _, p := range w.segments() {
					b, err := os.ReadFile(p)
					w.must(err)
					old[p] = b
				}
				all := append([]*segment(nil), ix.segments...)
				ix.write.Lock()
				_, err := ix.make(func(path string) error { return mergeSegments(path, all, make([]*roaring.Bitmap, len(all)), ix.stop) }, all)
				ix.write.Unlock()
				w.must(err)
				w.lease.Release()
				w.store.Close()
				for p, b := range old {
					if rapid.Bool().Draw(t, "still there") {
						w.must(os.WriteFile(p, b, 0o600))
					}
				}
				w.start()
			},
			"": func(t *rapid.T) {
				for _, folder := range []string{mailbox.Inbox, "Other"} {
					w.same(folder, fmt.Sprintf("%s \"%s\"", rapid.SampledFrom([]string{"BODY", "TEXT", "NOT BODY", "NOT TEXT"}).Draw(t, "key"), text(t, "needle", 3)))
				}
			},
		})
	})
}
