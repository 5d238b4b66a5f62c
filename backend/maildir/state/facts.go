package state

import (
	"cmp"
	"slices"
	"sort"
)

// maxHistory is how many ranges of expunged UIDs are remembered.
const maxHistory = 10_000

// facts is what records add up to.
type facts struct {
	// highest is HIGHESTMODSEQ.
	highest uint64
	// modSeqs has those of messages that were changed.
	modSeqs table[uint64]
	// base is the mod-sequence of messages with UIDs below baseNext that are not
	// in modSeqs.
	base     uint64
	baseNext uint64
	// history is ascending by mod-sequence, then UID; of what happened up to
	// forgot nothing is in it.
	history []expunge
	forgot  uint64
	// saves has save dates in unix seconds.
	saves      table[int64]
	attributes map[string]value
	marks      map[string]map[uint32]value
}

type expunge struct {
	modSeq uint64
	uids   Range
}

type value struct {
	modSeq  uint64
	text    string
	removed bool
}

func newFacts() facts {
	return facts{
		attributes: map[string]value{}, marks: map[string]map[uint32]value{},
	}
}

// merge applies r and tells whether that changed anything.
func (f *facts) merge(r Record) (changed bool) {
	if r.modSeq > f.highest {
		f.highest, changed = r.modSeq, true
	}
	switch r.kind {
	case kindChange:
		return raise(&f.modSeqs, r.uids, r.modSeq) || changed
	case kindSave:
		return raise(&f.saves, r.uids, r.seconds) || changed
	case kindExpunge:
		return f.expunge(r) || changed
	case kindAttribute:
		return put(f.attributes, r.key, r) || changed
	}
	marks := f.marks[r.key]
	if marks == nil {
		marks = map[uint32]value{}
		f.marks[r.key] = marks
	}
	each(r.uids, func(uid uint32) { changed = put(marks, uid, r) || changed })
	return changed
}

// each visits the UIDs of set.
func each(set []Range, visit func(uid uint32)) {
	for _, r := range set {
		for uid := uint64(r.First); uid <= uint64(r.Last); uid++ {
			visit(uint32(uid))
		}
	}
}

func raise[V ~int64 | ~uint64](t *table[V], uids []Range, to V) (changed bool) {
	each(uids, func(uid uint32) {
		if old, known := t.get(uid); !known || old < to {
			t.set(uid, to)
			changed = true
		}
	})
	return changed
}

// put counts the value as text where two have one mod-sequence, so that the order
// does not matter.
func put[K comparable](m map[K]value, key K, r Record) bool {
	old, known := m[key]
	next := value{r.modSeq, r.value, r.removed}
	if known && (old == next || old.modSeq > next.modSeq || old.modSeq == next.modSeq && old.text >= next.text && !old.removed) {
		return false
	}
	m[key] = next
	return true
}

// expunge forgets all about messages but that they are gone.
func (f *facts) expunge(r Record) (changed bool) {
	f.drop(r.uids)
	if r.modSeq <= f.forgot || len(r.uids) == 0 {
		return false
	}
	from := sort.Search(len(f.history), func(i int) bool { return f.history[i].modSeq >= r.modSeq })
	to := from
	all := slices.Clone(r.uids)
	var old []Range
	for ; to < len(f.history) && f.history[to].modSeq == r.modSeq; to++ {
		old = append(old, f.history[to].uids)
	}
	all = union(append(all, old...))
	if slices.Equal(all, old) {
		return false
	}
	fresh := make([]expunge, len(all))
	for i, uids := range all {
		fresh[i] = expunge{r.modSeq, uids}
	}
	f.history = slices.Replace(f.history, from, to, fresh...)
	f.bound()
	return true
}

// bound forgets the oldest quarter of a history that is too long.
func (f *facts) bound() {
	if len(f.history) > maxHistory {
		f.forget(f.history[len(f.history)-maxHistory*3/4].modSeq)
	}
}

// forget forgets the expunges up to modSeq.
func (f *facts) forget(modSeq uint64) {
	f.forgot = max(f.forgot, modSeq)
	keep := sort.Search(len(f.history), func(i int) bool { return f.history[i].modSeq > f.forgot })
	f.history = slices.Clone(f.history[keep:])
}

// drop removes what is kept of messages.
func (f *facts) drop(uids []Range) {
	f.modSeqs.drop(uids)
	f.saves.drop(uids)
	for _, marks := range f.marks {
		dropFrom(marks, uids)
	}
}

func dropFrom[V any](m map[uint32]V, uids []Range) {
	if count(uids) <= int64(len(m)) {
		each(uids, func(uid uint32) { delete(m, uid) })
		return
	}
	for uid := range m {
		i := sort.Search(len(uids), func(i int) bool { return uids[i].Last >= uid })
		if i < len(uids) && uids[i].First <= uid {
			delete(m, uid)
		}
	}
}

// prune drops what came about messages after their expunge, as happens when
// records come out of their order.
func (f *facts) prune() {
	all := make([]Range, len(f.history))
	for i, x := range f.history {
		all[i] = x.uids
	}
	f.drop(union(all))
}

// distrust gives every message the mod-sequence at, as if all had changed, and
// forgets the history.
func (f *facts) distrust(at uint64) {
	f.highest, f.base, f.baseNext = at, at, 1<<32
	f.modSeqs.clear()
	f.forget(at)
}

// appendAll writes all as lines, few as they can be.
func (f *facts) appendAll(b []byte) []byte {
	b = appendNumbers(b, kindHighest, f.highest)
	b = appendNumbers(b, kindBase, f.base, f.baseNext)
	b = appendNumbers(b, kindForgot, f.forgot)
	b = appendGroups(b, &f.modSeqs, func(modSeq uint64) Record { return Record{kind: kindChange, modSeq: modSeq} })
	b = appendGroups(b, &f.saves, func(seconds int64) Record { return Record{kind: kindSave, seconds: seconds} })
	for i := 0; i < len(f.history); {
		r := Record{kind: kindExpunge, modSeq: f.history[i].modSeq}
		for ; i < len(f.history) && f.history[i].modSeq == r.modSeq; i++ {
			r.uids = append(r.uids, f.history[i].uids)
		}
		b = r.appendLines(b)
	}
	for key, v := range f.attributes {
		if !v.removed {
			b = SetAttribute(v.modSeq, key, v.text).appendLines(b)
		}
	}
	for key, marks := range f.marks {
		b = appendMarks(b, key, marks)
	}
	return b
}

func appendMarks(b []byte, key string, marks map[uint32]value) []byte {
	groups := map[value][]uint32{}
	for uid, v := range marks {
		if !v.removed {
			groups[v] = append(groups[v], uid)
		}
	}
	for v, uids := range groups {
		b = SetMark(v.modSeq, key, v.text, uids...).appendLines(b)
	}
	return b
}

// appendGroups writes a record for the UIDs of each value.
func appendGroups[V ~int64 | ~uint64](b []byte, t *table[V], record func(V) Record) []byte {
	type pair struct {
		v   V
		uid uint32
	}
	all := make([]pair, 0, t.len())
	t.each(func(uid uint32, v V) { all = append(all, pair{v, uid}) })
	slices.SortFunc(all, func(a, b pair) int { return cmp.Or(cmp.Compare(a.v, b.v), cmp.Compare(a.uid, b.uid)) })
	for len(all) > 0 {
		r := record(all[0].v)
		n := 0
		for ; n < len(all) && all[n].v == all[0].v; n++ {
			r.uids = extend(r.uids, Range{all[n].uid, all[n].uid})
		}
		b = r.appendLines(b)
		all = all[n:]
	}
	return b
}
