package archive

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
)

// However an mbox is appended to and rewritten, and the process ends and comes back: a
// UID names one text under one UIDVALIDITY, UIDs and mod-sequences rise, and appending
// changes none.
func TestUIDsProperty(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatalf("%v", err)
		}
		w := newWorld(t, dir, "{year}.mbox", FormatMbox)
		defer w.end()
		var texts []string
		count := 0
		fresh := func() string {
			count++
			return fmt.Sprintf("text %d %s", count, strings.Repeat("x", rapid.SampledFrom([]int{0, 1, 2000}).Draw(t, "length")))
		}
		w.write("2024.mbox", "")
		known := map[uint32]map[mailbox.UID]string{}
		var last mailbox.Snapshot
		var lastTexts []string
		f := w.folder("2024")
		check := func(appended bool) {
			// Two changes within a clock tick are not to be told apart by times.
			path := filepath.Join(w.archive, "2024.mbox")
			if err := os.Chtimes(path, w.now, w.now); err != nil {
				t.Fatalf("%v", err)
			}
			s := w.snapshot(f)
			if !appended {
				s = w.snapshot(f) // a loss is believed when it lasts
			}
			var got []string
			if known[s.UIDValidity] == nil {
				known[s.UIDValidity] = map[mailbox.UID]string{}
			}
			for _, m := range s.Messages.All() {
				b, err := f.Open(m.UID)
				if err != nil {
					t.Fatalf("%v", err)
				}
				text, _ := io.ReadAll(b)
				b.Close()
				got = append(got, strings.TrimSpace(string(text)))
				if was, ok := known[s.UIDValidity][m.UID]; ok && was != string(text) {
					t.Fatalf("UID %d was %.20q, is %.20q", m.UID, was, text)
				}
				known[s.UIDValidity][m.UID] = string(text)
				if m.UID >= s.UIDNext || m.ModSeq > s.HighestModSeq {
					t.Fatalf("%+v in %+v", m, s)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(texts))
			for i := range want {
				want[i] = strings.TrimSpace(want[i])
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %.40q, want %.40q", got, want)
			}
			if s.UIDValidity < last.UIDValidity || s.UIDValidity == last.UIDValidity && (s.UIDNext < last.UIDNext || s.HighestModSeq < last.HighestModSeq) {
				t.Fatalf("%+v after %+v", s, last)
			}
			if appended && len(lastTexts) > 0 && (s.UIDValidity != last.UIDValidity || !slices.Equal(uids(s)[:last.Messages.Len()], uids(last))) {
				t.Fatalf("appending changed UIDs: %v after %v", uids(s), uids(last))
			}
			last, lastTexts = s, slices.Clone(texts)
		}
		check(false)
		steps := map[string]func(){
			"append": func() {
				texts = append(texts, fresh())
				w.write("2024.mbox", mail(texts...))
				check(true)
			},
			"remove": func() {
				if len(texts) > 0 {
					i := rapid.IntRange(0, len(texts)-1).Draw(t, "which")
					texts = slices.Delete(slices.Clone(texts), i, i+1)
				}
				w.write("2024.mbox", mail(texts...))
				check(false)
			},
			"insert": func() {
				i := rapid.IntRange(0, len(texts)).Draw(t, "where")
				texts = slices.Insert(slices.Clone(texts), i, fresh())
				w.write("2024.mbox", mail(texts...))
				check(false)
			},
			"restart": func() {
				w.restart()
				f = w.folder("2024")
				check(true)
			},
		}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			steps[rapid.SampledFrom([]string{"append", "remove", "insert", "restart"}).Draw(t, "step")]()
		}
	})
}

func uids(s mailbox.Snapshot) (all []mailbox.UID) {
	for _, m := range s.Messages.All() {
		all = append(all, m.UID)
	}
	return all
}
