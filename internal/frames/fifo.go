package frames

import "sync"

// chunkBytes is what a queue grows by: a command fits, a message is no long list.
const chunkBytes = 4 << 10

type chunk struct {
	next *chunk
	data [chunkBytes]byte
}

// chunks are given to the queues of a connection while they hold something.
type chunks struct{ pool sync.Pool }

func (c *chunks) get() *chunk {
	if k, ok := c.pool.Get().(*chunk); ok {
		return k
	}
	return new(chunk)
}

func (c *chunks) put(k *chunk) {
	k.next = nil
	c.pool.Put(k)
}

// fifo is a queue of bytes that has no memory while it is empty. It is bounded by
// its user.
type fifo struct {
	first, last *chunk
	begin       int // in first
	end         int // in last
	len         int
}

func (q *fifo) append(c *chunks, p []byte) {
	for len(p) > 0 {
		if q.last == nil || q.end == chunkBytes {
			k := c.get()
			if q.last == nil {
				q.first, q.begin = k, 0
			} else {
				q.last.next = k
			}
			q.last, q.end = k, 0
		}
		n := copy(q.last.data[q.end:], p)
		q.end += n
		q.len += n
		p = p[n:]
	}
}

// read takes bytes out, at most len(p).
func (q *fifo) read(c *chunks, p []byte) int {
	return q.take(c, len(p), func(at int, b []byte) { copy(p[at:], b) })
}

// drop takes n bytes out, or all.
func (q *fifo) drop(c *chunks, n int) { q.take(c, n, func(int, []byte) {}) }

func (q *fifo) take(c *chunks, n int, give func(at int, b []byte)) int {
	n = min(n, q.len)
	for at := 0; at < n; {
		end := chunkBytes
		if q.first == q.last {
			end = q.end
		}
		k := min(n-at, end-q.begin)
		give(at, q.first.data[q.begin:q.begin+k])
		at += k
		q.begin += k
		if q.begin == end {
			q.shift(c)
		}
	}
	q.len -= n
	return n
}

// shift gives the first chunk back.
func (q *fifo) shift(c *chunks) {
	k := q.first
	if q.first = k.next; q.first == nil {
		q.last = nil
	}
	q.begin = 0
	c.put(k)
}

// bytes is a copy of all.
func (q *fifo) bytes() []byte {
	if q.len == 0 {
		return nil
	}
	b := make([]byte, 0, q.len)
	begin := q.begin
	for k := q.first; k != nil; k, begin = k.next, 0 {
		end := chunkBytes
		if k == q.last {
			end = q.end
		}
		b = append(b, k.data[begin:end]...)
	}
	return b
}
