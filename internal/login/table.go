package login

import (
	"container/list"
	"net/netip"
	"time"
)

// key names an entry of a table: a user, a network, or a user at a network.
type key struct {
	user string
	net  netip.Prefix
}

// expirer is an entry that knows when it no longer says anything.
type expirer interface{ expired(now time.Time) bool }

// table is a bounded map that gives up what was longest unseen. It is not safe
// for concurrent use.
type table[V expirer] struct {
	max     int
	entries map[key]*list.Element
	order   list.List // of *row[V], latest seen first
}

type row[V expirer] struct {
	key   key
	value V
}

func newTable[V expirer](limit int) *table[V] {
	return &table[V]{max: limit, entries: make(map[key]*list.Element)}
}

// get returns the entry, as seen now, unless it is missing or has expired.
func (t *table[V]) get(k key, now time.Time) (V, bool) {
	element, found := t.entries[k]
	if !found {
		var none V
		return none, false
	}
	r := element.Value.(*row[V])
	if r.value.expired(now) {
		t.remove(k)
		return r.value, false
	}
	t.order.MoveToFront(element)
	return r.value, true
}

// put adds an entry that get did not find. It makes room at the far end, where
// the expired ones gather; a few of those go each time, so that a table that
// once was large shrinks again.
func (t *table[V]) put(k key, value V, now time.Time) {
	t.remove(k)
	for range 2 {
		last := t.order.Back()
		if last == nil {
			break
		}
		if r := last.Value.(*row[V]); t.order.Len() >= t.max || r.value.expired(now) {
			t.remove(r.key)
		}
	}
	t.entries[k] = t.order.PushFront(&row[V]{key: k, value: value})
}

func (t *table[V]) remove(k key) {
	if element, found := t.entries[k]; found {
		t.order.Remove(element)
		delete(t.entries, k)
	}
}

func (t *table[V]) len() int { return t.order.Len() }
