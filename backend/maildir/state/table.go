package state

import (
	"encoding/binary"
	"maps"
	"slices"
	"sort"

	"waypost/backend/maildir/packed"
)

// table has a number for some of the UIDs. What a view had of it (Resume) stays as it lies there,
// so that taking it over costs nothing; what came since lies over it. The zero value is empty.
type table[V ~int64 | ~uint64] struct {
	// saved are lines of lineSize bytes, in the order of their UIDs: the UID, then the value.
	saved string
	// over counts before saved; gone are UIDs of saved that count no more, and are not in over.
	over map[uint32]V
	gone map[uint32]struct{}
	// hidden is how many lines of saved do not count: those of UIDs in over or gone.
	hidden int
}

const lineSize = 4 + 8

func (t *table[V]) lines() int { return len(t.saved) / lineSize }

// uid is that of a line of saved.
func (t *table[V]) uid(i int) uint32 { return packed.Uint32(t.saved[i*lineSize:]) }

func (t *table[V]) value(i int) V { return V(packed.Uint64(t.saved[i*lineSize+4:])) }

// search gives the first line of saved with that UID or a higher one.
func (t *table[V]) search(uid uint32) int {
	return sort.Search(t.lines(), func(i int) bool { return t.uid(i) >= uid })
}

func (t *table[V]) inSaved(uid uint32) (line int, is bool) {
	i := t.search(uid)
	return i, i < t.lines() && t.uid(i) == uid
}

func (t *table[V]) len() int { return len(t.over) + t.lines() - t.hidden }

func (t *table[V]) get(uid uint32) (v V, known bool) {
	if v, known = t.over[uid]; known || t.saved == "" {
		return v, known
	}
	if _, dropped := t.gone[uid]; dropped {
		return 0, false
	}
	i, is := t.inSaved(uid)
	if !is {
		return 0, false
	}
	return t.value(i), true
}

func (t *table[V]) set(uid uint32, v V) {
	if t.over == nil {
		t.over = map[uint32]V{}
	}
	if _, is := t.over[uid]; !is && t.saved != "" {
		if _, dropped := t.gone[uid]; dropped {
			delete(t.gone, uid)
		} else if _, is := t.inSaved(uid); is {
			t.hidden++
		}
	}
	t.over[uid] = v
}

// drop takes UIDs out.
func (t *table[V]) drop(uids []Range) {
	hide := func(uid uint32) {
		if _, dropped := t.gone[uid]; dropped {
			return
		}
		if t.gone == nil {
			t.gone = map[uint32]struct{}{}
		}
		t.gone[uid] = struct{}{}
		if _, is := t.over[uid]; !is {
			t.hidden++
		}
	}
	for _, r := range uids {
		for i := t.search(r.First); i < t.lines() && t.uid(i) <= r.Last; i++ {
			hide(t.uid(i))
		}
	}
	dropFrom(t.over, uids)
}

func (t *table[V]) clear() { *t = table[V]{} }

// each visits all, in the order of their UIDs.
func (t *table[V]) each(visit func(uid uint32, v V)) {
	over := slices.Sorted(maps.Keys(t.over))
	for i := range t.lines() {
		uid := t.uid(i)
		for len(over) > 0 && over[0] <= uid {
			visit(over[0], t.over[over[0]])
			over = over[1:]
		}
		if t.hidden > 0 {
			if _, dropped := t.gone[uid]; dropped {
				continue
			}
			if _, is := t.over[uid]; is {
				continue
			}
		}
		visit(uid, t.value(i))
	}
	for _, uid := range over {
		visit(uid, t.over[uid])
	}
}

// save appends all as the lines of saved.
func (t *table[V]) save(b []byte) []byte {
	if t.hidden == 0 && len(t.over) == 0 {
		return append(b, t.saved...)
	}
	b = slices.Grow(b, lineSize*t.len())
	t.each(func(uid uint32, v V) {
		b = binary.LittleEndian.AppendUint32(b, uid)
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	})
	return b
}

// tableOf is the table that save wrote.
func tableOf[V ~int64 | ~uint64](saved string) (t table[V], ok bool) {
	if len(saved)%lineSize != 0 {
		return t, false
	}
	last := int64(-1)
	for rest := saved; rest != ""; rest = rest[lineSize:] {
		uid := int64(packed.Uint32(rest))
		if uid <= last {
			return t, false
		}
		last = uid
	}
	t.saved = saved
	return t, true
}
