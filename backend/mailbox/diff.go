package mailbox

import "iter"

// Change is one message's difference between two Messages.
type Change struct {
	// Was is nil for a message that is fresh, Is for one that is gone. Neither
	// is to be written to.
	Was, Is *Message
	// WasAt and IsAt are their indices; for the one that is nil, how many
	// messages come before its place.
	WasAt, IsAt int
}

// Diff gives what differs, in the order of UIDs: messages gone, fresh, and
// those of which anything but the UID changed. It passes over the chunks that
// both share, so that it costs what was edited in between.
func Diff(old, now Messages) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		was, is := cursor{table: old.table}, cursor{table: now.table}
		for {
			if was.meets(&is) {
				was.skip()
				is.skip()
				continue
			}
			a, b := was.message(), is.message()
			if a == nil && b == nil {
				return
			}
			ch := Change{Was: a, Is: b, WasAt: was.at, IsAt: is.at}
			switch {
			case b == nil || a != nil && a.UID < b.UID:
				ch.Is = nil
				was.next()
			case a == nil || b.UID < a.UID:
				ch.Was = nil
				is.next()
			default:
				was.next()
				is.next()
				if a.same(b) {
					continue
				}
			}
			if !yield(ch) {
				return
			}
		}
	}
}

// same compares two messages of the same UID.
func (m *Message) same(o *Message) bool {
	return m == o || m.ModSeq == o.ModSeq && m.Flags.Equal(o.Flags) &&
		m.Size == o.Size && m.WireSize == o.WireSize && m.GUID == o.GUID && m.Ref == o.Ref
}

// cursor walks over Messages; at is the index it has come to.
type cursor struct {
	table  []span
	at, in int
}

// meets reports whether both stand at the beginning of the same chunk. The
// chunks they share always meet, for no other chunk has their UIDs.
func (c *cursor) meets(o *cursor) bool {
	return c.in == 0 && o.in == 0 && len(c.table) > 0 && len(o.table) > 0 && c.table[0].c == o.table[0].c
}

func (c *cursor) skip() {
	c.at += int(c.table[0].n)
	c.table = c.table[1:]
}

func (c *cursor) message() *Message {
	if len(c.table) == 0 {
		return nil
	}
	return &c.table[0].c.messages()[c.in]
}

func (c *cursor) next() {
	c.at++
	if c.in++; c.in == int(c.table[0].n) {
		c.table, c.in = c.table[1:], 0
	}
}
