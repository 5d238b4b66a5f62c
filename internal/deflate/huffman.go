package deflate

// maxCode is the longest code in bits (RFC 1951, Section 3.2.7), fastBits the longest
// that is found by one look.
const (
	maxCode  = 15
	fastBits = 9
)

// huffman decodes one alphabet.
type huffman struct {
	count  [maxCode + 1]uint16 // codes of each length
	symbol [288]uint16         // symbols in the order of their codes
	// fast has symbol<<4 | length for the next bits of the stream, 0 for a code that
	// is longer.
	fast [1 << fastBits]uint16
}

// build makes the codes of RFC 1951, Section 3.2.2. An incomplete code is allowed for
// one symbol only, or none, as for distances (Section 3.2.7).
func (h *huffman) build(lengths []uint8) bool {
	h.count, h.fast = [maxCode + 1]uint16{}, [1 << fastBits]uint16{}
	for _, n := range lengths {
		h.count[n]++
	}
	used := len(lengths) - int(h.count[0])
	h.count[0] = 0
	left := 1
	var offset [maxCode + 2]uint16
	var next [maxCode + 2]uint16
	for n := 1; n <= maxCode; n++ {
		left = left<<1 - int(h.count[n])
		if left < 0 {
			return false
		}
		offset[n+1] = offset[n] + h.count[n]
		next[n+1] = (next[n] + h.count[n]) << 1
	}
	if left > 0 && (used > 1 || used == 1 && h.count[1] != 1) {
		return false
	}
	for s, n := range lengths {
		if n == 0 {
			continue
		}
		h.symbol[offset[n]] = uint16(s)
		offset[n]++
		h.quick(uint16(s), next[n], n)
		next[n]++
	}
	return true
}

// quick enters a code into fast; the stream has a code's first bit first.
func (h *huffman) quick(symbol, code uint16, n uint8) {
	if n > fastBits {
		return
	}
	turned := 0
	for i := range n {
		turned |= int(code>>i&1) << (n - 1 - i)
	}
	for at := turned; at < len(h.fast); at += 1 << n {
		h.fast[at] = symbol<<4 | uint16(n)
	}
}

// bits reads a stream's bits; a copy is a place to come back to.
type bits struct {
	in  []byte
	acc uint64 // bits taken from in, the next one lowest
	n   uint   // how many
}

// have takes from in until there are n bits, 56 at most.
func (b *bits) have(n uint) bool {
	for b.n < n {
		if len(b.in) == 0 {
			return false
		}
		b.acc |= uint64(b.in[0]) << b.n
		b.in = b.in[1:]
		b.n += 8
	}
	return true
}

// take gives n bits that are there.
func (b *bits) take(n uint) int {
	v := b.acc & (1<<n - 1)
	b.acc >>= n
	b.n -= n
	return int(v)
}

// number gives n bits.
func (b *bits) number(n uint) (int, error) {
	if !b.have(n) {
		return 0, errMore
	}
	return b.take(n), nil
}

// next decodes a symbol from as few bits as it has: the last one of a flush must not
// wait for those that follow.
func (b *bits) next(h *huffman) (int, error) {
	b.have(fastBits)
	if e := h.fast[b.acc&(1<<fastBits-1)]; e != 0 && uint(e&15) <= b.n {
		b.take(uint(e & 15))
		return int(e >> 4), nil
	}
	code, first, index := 0, 0, 0
	for n := 1; n <= maxCode; n++ {
		if !b.have(uint(n)) {
			return 0, errMore
		}
		code |= int(b.acc >> (n - 1) & 1)
		count := int(h.count[n])
		if code-first < count {
			b.take(uint(n))
			return int(h.symbol[index+code-first]), nil
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, ErrCorrupt
}
