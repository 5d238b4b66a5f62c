package mailbox

import (
	"iter"
	"sort"
)

// chunkSize is how many messages a chunk has at most. Neighbours that have no
// more than half as many between them are made one.
const chunkSize = 256

// Messages is a folder's messages in the order of their UIDs. A value never
// changes; a changed one (Edit) shares with its predecessor all chunks in which
// nothing happened, so that an edit, and telling two values apart (Diff), cost
// little however large the folder is. The zero value is empty.
type Messages struct{ table []span }

// span is a chunk's line in the table, with all that a search asks for, so that
// neither a search nor an edit has to look into the chunks it passes.
type span struct {
	c *chunk
	// start is the index of its first message.
	start int
	n     int32
	// last is its last message's UID; in an Editor, no less than that.
	last UID
}

// chunk is a run of messages, changed only by the Editor that made it and only
// before its Done.
type chunk struct {
	// all are the messages, once messages was called if they come later.
	all   []Message
	maker *maker
	later *later // nil in most
}

// messages gives the chunk's, which are to be read only.
func (c *chunk) messages() []Message {
	if c.later != nil {
		c.later.once.Do(func() { c.all, c.later.read = c.later.read(), nil })
	}
	return c.all
}

// maker is an identity: that of an Editor between two calls of Done.
type maker struct{ _ byte }

// NewMessages takes over messages that are in the order of their UIDs.
func NewMessages(all []Message) Messages {
	table := make([]span, 0, (len(all)+chunkSize-1)/chunkSize)
	for start := 0; start < len(all); start += chunkSize {
		end := min(start+chunkSize, len(all))
		c := &chunk{all: all[start:end:end]}
		table = append(table, span{c: c, start: start, n: int32(end - start), last: all[end-1].UID})
	}
	return Messages{table}
}

// Len is how many there are.
func (m Messages) Len() int {
	if len(m.table) == 0 {
		return 0
	}
	end := &m.table[len(m.table)-1]
	return end.start + int(end.n)
}

// At gives the message with index i, from 0. It panics outside of them, like a
// slice. What it points to is shared: nobody writes to it.
func (m Messages) At(i int) *Message {
	s := &m.table[m.spanOf(i)]
	return &s.c.messages()[i-s.start]
}

// spanOf gives the table's line that has index i, or -1 if i is negative or
// there is none at all.
func (m Messages) spanOf(i int) int {
	return sort.Search(len(m.table), func(s int) bool { return m.table[s].start > i }) - 1
}

// Find gives the index of the message with that UID, or, if there is none, that
// of the first one above it, and false.
func (m Messages) Find(uid UID) (i int, ok bool) {
	s := search(m.table, uid)
	if s == len(m.table) {
		return m.Len(), false
	}
	i, ok = m.table[s].c.find(uid)
	return m.table[s].start + i, ok
}

// search gives the only line that can have uid, or the table's length.
func search(table []span, uid UID) int {
	return sort.Search(len(table), func(s int) bool { return table[s].last >= uid })
}

func (c *chunk) find(uid UID) (int, bool) {
	all := c.messages()
	i := sort.Search(len(all), func(i int) bool { return all[i].UID >= uid })
	return i, i < len(all) && all[i].UID == uid
}

// Get gives the message with that UID, or nil.
func (m Messages) Get(uid UID) *Message { return get(m.table, uid) }

func get(table []span, uid UID) *Message {
	s := search(table, uid)
	if s == len(table) {
		return nil
	}
	i, ok := table[s].c.find(uid)
	if !ok {
		return nil
	}
	return &table[s].c.messages()[i]
}

// From visits the messages from index i on.
func (m Messages) From(i int) iter.Seq2[int, *Message] {
	return func(yield func(int, *Message) bool) {
		for s := max(m.spanOf(i), 0); s < len(m.table); s++ {
			start, all := m.table[s].start, m.table[s].c.messages()
			for k := max(i-start, 0); k < len(all); k++ {
				if !yield(start+k, &all[k]) {
					return
				}
			}
		}
	}
}

// All visits all messages with their indices.
func (m Messages) All() iter.Seq2[int, *Message] { return m.From(0) }

// Ranges gives the UIDs as ranges that rise and do not touch each other. Chunks without a gap
// are not looked into.
func (m Messages) Ranges() []UIDRange {
	var out []UIDRange
	add := func(first, last UID) {
		if n := len(out); n > 0 && out[n-1].Last+1 == first {
			out[n-1].Last = last
			return
		}
		out = append(out, UIDRange{first, last})
	}
	for _, s := range m.table {
		if first := s.c.first(); int(s.last-first) == int(s.n)-1 {
			add(first, s.last)
			continue
		}
		all := s.c.messages()
		for i := range all {
			add(all[i].UID, all[i].UID)
		}
	}
	return out
}
