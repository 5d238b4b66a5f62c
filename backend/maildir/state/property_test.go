package state

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/internal/vfs/crashfs"
)

func drawRecord(t *rapid.T, modSeq uint64) Record {
	uids := rapid.SliceOfN(rapid.Uint32Range(1, 30), 1, 4).Draw(t, "uids")
	key := rapid.SampledFrom([]string{"a", "b c", "%"}).Draw(t, "key")
	text := rapid.StringN(0, 3, -1).Draw(t, "value")
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return Expunge(modSeq, uids...)
	case 1:
		return Save(time.Unix(int64(rapid.Uint32().Draw(t, "date")), 0), uids...)
	case 2:
		return SetAttribute(modSeq, key, text)
	case 3:
		return RemoveAttribute(modSeq, key)
	case 4:
		return SetMark(modSeq, key, text, uids...)
	case 5:
		return RemoveMark(modSeq, key, uids...)
	}
	return Change(modSeq, uids...)
}

// TestRecordsCommute applies records in two orders, some of them twice.
func TestRecordsCommute(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var records []Record
		for range rapid.IntRange(0, 20).Draw(rt, "records") {
			records = append(records, drawRecord(rt, rapid.Uint64Range(1, 10).Draw(rt, "modseq")))
		}
		one, two := newFacts(), newFacts()
		for _, r := range records {
			one.merge(r)
		}
		other := rapid.Permutation(slices.Concat(records, records)).Draw(rt, "order")
		for _, r := range other {
			two.merge(r)
		}
		one.prune()
		two.prune()
		for _, f := range []*facts{&one, &two} {
			for key, marks := range f.marks {
				if len(marks) == 0 {
					delete(f.marks, key)
				}
			}
		}
		if !reflect.DeepEqual(one, two) {
			rt.Fatalf("%+v\n%+v\n%+v\n%+v", records, one, other, two)
		}
		for _, r := range other {
			if r.kind != kindExpunge && two.merge(r) && len(two.history) == 0 {
				rt.Fatalf("%+v counts again", r)
			}
		}
	})
}

// TestCrashes applies records beside a journal, cuts the power, and compares what
// is there after Ensure with a model that forgets nothing.
func TestCrashes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		fsys := crashfs.New(1)
		if err := errors.Join(fsys.Mkdir("/u", 0o700), fsys.SyncAll("/")); err != nil {
			rt.Fatal(err)
		}
		model := newFacts()
		var journal []Record
		told, unclean := uint64(0), false
		for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
			s, err := Load(fsys, folder("/u"), day0, unclean)
			if err == nil {
				err = s.Ensure(journal...)
			}
			if err != nil {
				rt.Fatal(err)
			}
			journal = nil
			model.prune()
			compare(rt, s, &model)
			if s.Highest() < told {
				rt.Fatalf("HIGHESTMODSEQ went from %d back to %d", told, s.Highest())
			}
			for range rapid.IntRange(0, 100).Draw(rt, "records") {
				m, err := s.NextModSeq()
				if err != nil || m <= told {
					rt.Fatalf("%d after %d, %v", m, told, err)
				}
				r := drawRecord(rt, m)
				if err := s.Apply(r); err != nil {
					rt.Fatal(err)
				}
				journal = append(journal, r)
				model.merge(r)
				told = max(told, s.Highest())
				if rapid.IntRange(0, 30).Draw(rt, "sync") == 0 {
					if err := s.Sync(); err != nil {
						rt.Fatal(err)
					}
					journal = nil
				}
			}
			if unclean = rapid.Bool().Draw(rt, "power cut"); unclean {
				fsys = fsys.Crash(rnd)
			} else if err := s.Sync(); err != nil {
				rt.Fatal(err)
			}
			told = max(told, s.Highest())
		}
	})
}

func compare(rt *rapid.T, s *State, model *facts) {
	model.modSeqs.each(func(uid uint32, want uint64) {
		if got := s.ModSeq(uid); got != want {
			rt.Fatalf("UID %d has %d, want %d", uid, got, want)
		}
	})
	if !reflect.DeepEqual(s.history, model.history) && len(model.history) > 0 {
		rt.Fatalf("history %v, want %v", s.history, model.history)
	}
	if s.saves.len() != model.saves.len() {
		rt.Fatalf("saves %v, want %v", s.saves, model.saves)
	}
	for key, want := range model.attributes {
		if got, ok := s.Attribute(key); ok == want.removed || ok && got != want.text {
			rt.Fatalf("attribute %q is %q, want %+v", key, got, want)
		}
	}
	for key, marks := range model.marks {
		for uid, want := range marks {
			if got, ok := s.Mark(uid, key); ok == want.removed || ok && got != want.text {
				rt.Fatalf("mark %q of %d is %q, want %+v", key, uid, got, want)
			}
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, body := range []string{"m 5 1:3,7", "x 9 1", "s -5 2", "a 3 k =v%20", "a 3 k", "k 3 k 1:2 =", "k 3 k 4", "v 1 00ff 7", "c 5", "h 5", "b 1 5", "f 0", "m 5 0", "z 1"} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		text := string(appendLine(nil, []byte(body)))
		l, ok := parseLine(strings.TrimSuffix(text, "\n"))
		if !ok || l.numbers != nil {
			return
		}
		if len(l.uids) > maxRanges {
			return
		}
		again, ok := parseLine(strings.TrimSuffix(string(l.Record.appendLines(nil)), "\n"))
		if !ok || !reflect.DeepEqual(again, l) {
			t.Fatalf("%q: %+v became %+v", body, l, again)
		}
	})
}
