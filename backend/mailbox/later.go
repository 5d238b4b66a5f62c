package mailbox

import "sync"

// later says where the messages of a chunk come from that nobody has looked at yet.
type later struct {
	once  sync.Once
	read  func() []Message // nil once it was called
	first UID
}

// first gives the first message's UID.
func (c *chunk) first() UID {
	if c.later != nil {
		return c.later.first
	}
	return c.all[0].UID
}

// Source has the messages of a folder, in the order of their UIDs, in a form that costs less
// than Messages: those that nobody looks at are never made. It never changes, and is safe for
// concurrent use.
type Source interface {
	Len() int
	// UID is that of the message with index i.
	UID(i int) UID
	// Messages makes those with the indices from one on and before another. They are the
	// caller's, and have the UIDs that UID says.
	Messages(from, to int) []Message
}

// LaterMessages gives the messages of a source, each chunk of which is made when somebody first looks
// into it.
func LaterMessages(src Source) Messages {
	n := src.Len()
	table := make([]span, 0, (n+chunkSize-1)/chunkSize)
	chunks := make([]struct {
		chunk
		later
	}, cap(table))
	for start := 0; start < n; start += chunkSize {
		end := min(start+chunkSize, n)
		c := &chunks[len(table)]
		c.later.first = src.UID(start)
		c.later.read = func() []Message { return src.Messages(start, end) }
		c.chunk.later = &c.later
		table = append(table, span{c: &c.chunk, start: start, n: int32(end - start), last: src.UID(end - 1)})
	}
	return Messages{table}
}
