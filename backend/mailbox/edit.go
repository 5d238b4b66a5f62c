package mailbox

import "slices"

// Editor makes new Messages out of old ones. It copies the table of chunks at
// its first change and each chunk at the first change in it: what an edit costs
// depends on how much is edited, and on the folder's size only by the table, of
// 24 bytes for each 256 messages. For one goroutine at a time.
type Editor struct {
	// table is shared with a Messages as long as maker is nil.
	table []span
	maker *maker
}

// Edit begins an edit. m itself stays as it is.
func (m Messages) Edit() *Editor { return &Editor{table: m.table} }

// Get gives the message with that UID as edited so far, or nil. What it points
// to is to be read only, and only until the next change.
func (e *Editor) Get(uid UID) *Message { return get(e.table, uid) }

// Append adds a message behind all others. It panics if its UID is not above
// theirs: callers number them.
func (e *Editor) Append(m Message) {
	e.begin(1)
	for len(e.table) > 0 && e.table[len(e.table)-1].n == 0 {
		e.table = e.table[:len(e.table)-1]
	}
	if n := len(e.table); n > 0 && e.table[n-1].last >= m.UID {
		panic("mailbox: Append: UIDs do not rise")
	}
	if n := len(e.table); n == 0 || e.table[n-1].n >= chunkSize {
		e.table = append(e.table, span{c: &chunk{maker: e.maker}})
	}
	s := &e.table[len(e.table)-1]
	c := e.own(s, 1)
	c.all = append(c.all, m)
	s.n, s.last = s.n+1, m.UID
}

// Insert adds a message where its UID belongs; false if there is one with it.
func (e *Editor) Insert(m Message) bool {
	at, i, ok := e.locate(m.UID)
	switch {
	case ok:
		return false
	case at == len(e.table):
		e.Append(m)
		return true
	}
	e.begin(1)
	s := &e.table[at]
	c := e.own(s, 1)
	c.all = slices.Insert(c.all, i, m)
	// An empty chunk has the UID that its last message had.
	s.n, s.last = s.n+1, c.all[len(c.all)-1].UID
	if s.n > chunkSize {
		e.split(at)
	}
	return true
}

// split makes two of a chunk that the Editor owns.
func (e *Editor) split(at int) {
	s := &e.table[at]
	all := s.c.all
	half := len(all) / 2
	next := span{c: &chunk{all: slices.Clone(all[half:]), maker: e.maker}, n: int32(len(all) - half), last: s.last}
	s.c.all = all[:half:half]
	s.n, s.last = int32(half), all[half-1].UID
	e.table = slices.Insert(e.table, at+1, next)
}

// Set replaces the message with m's UID; false if there is none.
func (e *Editor) Set(m Message) bool {
	at, i, ok := e.locate(m.UID)
	if ok {
		e.begin(0)
		e.own(&e.table[at], 0).all[i] = m
	}
	return ok
}

// Delete takes a message out; false if there is none.
func (e *Editor) Delete(uid UID) bool {
	at, i, ok := e.locate(uid)
	if !ok {
		return false
	}
	e.begin(0)
	s := &e.table[at]
	c := e.own(s, 0)
	c.all = slices.Delete(c.all, i, i+1)
	// An empty chunk keeps its last UID, so that searches still find their way
	// past it, until Done.
	if s.n--; s.n > 0 {
		s.last = c.all[s.n-1].UID
	}
	return true
}

func (e *Editor) locate(uid UID) (at, i int, ok bool) {
	at = search(e.table, uid)
	if at == len(e.table) {
		return at, 0, false
	}
	i, ok = e.table[at].c.find(uid)
	return at, i, ok
}

// Done gives the messages as edited. The Editor may go on from there.
func (e *Editor) Done() Messages {
	if e.maker == nil {
		return Messages{e.table}
	}
	out := e.table[:0]
	for _, s := range e.table {
		if s.n == 0 {
			continue
		}
		s.start = 0
		if len(out) > 0 {
			prev := &out[len(out)-1]
			if prev.n+s.n <= chunkSize/2 {
				e.join(prev, s)
				continue
			}
			s.start = prev.start + int(prev.n)
		}
		out = append(out, s)
	}
	clear(e.table[len(out):])
	e.table, e.maker = out, nil
	return Messages{out}
}

// join puts next's messages behind those of s.
func (e *Editor) join(s *span, next span) {
	c := e.own(s, int(next.n))
	c.all = append(c.all, next.c.messages()...)
	s.n, s.last = s.n+next.n, next.last
}

// begin makes the table the Editor's own, with room for some more lines.
func (e *Editor) begin(room int) {
	if e.maker != nil {
		return
	}
	table := make([]span, len(e.table), len(e.table)+room)
	copy(table, e.table)
	e.table, e.maker = table, new(maker)
}

// own makes a chunk the Editor's own, with room for some more messages.
func (e *Editor) own(s *span, room int) *chunk {
	if s.c.maker != e.maker {
		had := s.c.messages()
		all := make([]Message, len(had), len(had)+room)
		copy(all, had)
		s.c = &chunk{all: all, maker: e.maker}
	}
	return s.c
}
