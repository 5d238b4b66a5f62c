package imap

import (
	"container/list"
	"sync"

	"waypost/backend/imap/order"
	"waypost/backend/imap/search"
	"waypost/director"
)

// memoryBytes bounds what a Server remembers for SORT, about, in bytes.
const memoryBytes = 64 << 20

// sortMemory is what SORTs of all sessions have found out: values of sort keys, by folder. They are
// of no session's state: messages do not change, and a folder's UIDs do not, as long as its id
// and its UIDVALIDITY are the same. The folder that was longest not sorted goes first.
type sortMemory struct {
	mu    sync.Mutex
	max   int64
	bytes int64
	at    map[memoryKey]*list.Element
	used  list.List // of *remembered, the longest unused first
}

type memoryKey struct {
	user     director.User
	folder   string // its MAILBOXID
	validity uint32
	key      order.Key
}

type remembered struct {
	memoryKey
	all   []search.Known
	bytes int64
}

func newMemory(max int64) *sortMemory {
	return &sortMemory{max: max, at: map[memoryKey]*list.Element{}}
}

func (m *sortMemory) get(k memoryKey) []search.Known {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.at[k]
	if e == nil {
		return nil
	}
	m.used.MoveToBack(e)
	return e.Value.(*remembered).all
}

func (m *sortMemory) put(k memoryKey, all []search.Known) {
	r := &remembered{memoryKey: k, all: all, bytes: 256}
	for i := range all {
		r.bytes += 32 + int64(len(all[i].Value.Text))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.at[k]; e != nil {
		m.remove(e)
	}
	m.at[k] = m.used.PushBack(r)
	m.bytes += r.bytes
	for m.bytes > m.max {
		m.remove(m.used.Front())
	}
}

func (m *sortMemory) remove(e *list.Element) {
	r := m.used.Remove(e).(*remembered)
	delete(m.at, r.memoryKey)
	m.bytes -= r.bytes
}

var _ search.ValueView = (*searched)(nil)

// Values implements search.ValueView.
func (v *searched) Values(k order.Key) []search.Known { return v.s.srv.memory.get(v.memoryKey(k)) }

// Remember implements search.ValueView.
func (v *searched) Remember(k order.Key, all []search.Known) {
	if v.s.view.id != "" {
		v.s.srv.memory.put(v.memoryKey(k), all)
	}
}

func (v *searched) memoryKey(k order.Key) memoryKey {
	return memoryKey{v.s.box.User(), v.s.view.id, v.s.view.uidValidity, k}
}
