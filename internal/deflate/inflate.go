package deflate

import "errors"

// ErrCorrupt is a stream that is not what RFC 1951 says.
var ErrCorrupt = errors.New("corrupt deflate stream")

// errMore: the input ends inside of what has to be taken as a whole.
var errMore = errors.New("more input is needed")

const (
	windowBytes = 32 << 10
	// maxUnit is more than the longest thing that is taken as a whole, the head of a
	// block with its codes (RFC 1951, Section 3.2.7): below 600 bytes.
	maxUnit = 1024
)

// What comes next in the stream.
type phase uint8

const (
	atBlock phase = iota
	inStored
	inCodes
	atEnd
)

// Inflater decompresses one stream. The zero value is at its beginning. After an
// error it is of no more use.
type Inflater struct {
	bits   bits
	carry  []byte // input of something incomplete
	phase  phase
	final  bool
	stored int // bytes left of a stored block
	lit    huffman
	dist   huffman

	window [windowBytes]byte
	at     int  // where the next byte goes
	from   int  // window[from:at] has not been given out
	full   bool // all of window has been written
}

// Write takes the next bytes of the stream and calls emit with what they stand for,
// in pieces that are emit's during the call. All that can be told is told before
// Write returns. Its error is ErrCorrupt, or emit's.
func (z *Inflater) Write(p []byte, emit func([]byte) error) error {
	for len(p) > 0 {
		if len(z.carry) == 0 {
			rest, err := z.run(p, emit)
			if err != nil {
				return err
			}
			z.carry = append(z.carry, rest...)
			break
		}
		k := min(len(p), maxUnit)
		z.carry = append(z.carry, p[:k]...)
		rest, err := z.run(z.carry, emit)
		if err != nil {
			return err
		}
		if len(rest) <= k { // what was carried has been used
			p = p[k-len(rest):]
			z.carry = z.carry[:0]
			continue
		}
		z.carry = z.carry[:copy(z.carry, rest)]
		p = p[k:]
	}
	if len(z.carry) == 0 {
		z.carry = nil
	}
	return z.flush(emit)
}

// run takes as much of in as can be, and gives the rest.
func (z *Inflater) run(in []byte, emit func([]byte) error) ([]byte, error) {
	z.bits.in = in
	for {
		mark := z.bits
		var err error
		switch z.phase {
		case atBlock:
			err = z.block()
		case inStored:
			err = z.storedBytes(emit)
		case inCodes:
			err = z.code(emit)
		case atEnd:
			if len(z.bits.in) > 0 || z.bits.n >= 8 {
				return nil, errors.Join(z.flush(emit), ErrCorrupt)
			}
			err = errMore
		}
		if err == errMore {
			z.bits = mark
			rest := mark.in
			z.bits.in = nil
			return rest, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// endBlock goes on behind a block.
func (z *Inflater) endBlock() {
	z.phase = atBlock
	if z.final {
		z.phase = atEnd
	}
}

// block reads the head of a block (RFC 1951, Section 3.2.3).
func (z *Inflater) block() error {
	if !z.bits.have(3) {
		return errMore
	}
	final := z.bits.take(1) == 1
	switch z.bits.take(2) {
	case 0:
		z.bits.take(z.bits.n % 8)
		if !z.bits.have(32) {
			return errMore
		}
		n, not := z.bits.take(16), z.bits.take(16)
		if n^not != 0xffff {
			return ErrCorrupt
		}
		z.stored, z.phase = n, inStored
	case 1:
		z.fixed()
		z.phase = inCodes
	case 2:
		if err := z.dynamic(); err != nil {
			return err
		}
		z.phase = inCodes
	default:
		return ErrCorrupt
	}
	z.final = final
	return nil
}

// fixed sets the codes of RFC 1951, Section 3.2.6.
func (z *Inflater) fixed() {
	var lengths [288]uint8
	for s := range lengths {
		switch {
		case s < 144:
			lengths[s] = 8
		case s < 256:
			lengths[s] = 9
		case s < 280:
			lengths[s] = 7
		default:
			lengths[s] = 8
		}
	}
	z.lit.build(lengths[:])
	for s := range 32 {
		lengths[s] = 5
	}
	z.dist.build(lengths[:32])
}

// lengthOrder is the order in which the lengths of the code length code come.
const lengthOrder = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// dynamic reads the codes of a block (RFC 1951, Section 3.2.7).
func (z *Inflater) dynamic() error {
	if !z.bits.have(14) {
		return errMore
	}
	nlit, ndist, ncode := z.bits.take(5)+257, z.bits.take(5)+1, z.bits.take(4)+4
	if nlit > 286 || ndist > 30 {
		return ErrCorrupt
	}
	var lengths [286 + 30]uint8
	for _, at := range []byte(lengthOrder[:ncode]) {
		n, err := z.bits.number(3)
		if err != nil {
			return err
		}
		lengths[at] = uint8(n)
	}
	if !z.lit.build(lengths[:19]) {
		return ErrCorrupt
	}
	lengths = [286 + 30]uint8{}
	if err := z.lengths(lengths[:nlit+ndist]); err != nil {
		return err
	}
	if !z.lit.build(lengths[:nlit]) || !z.dist.build(lengths[nlit:nlit+ndist]) {
		return ErrCorrupt
	}
	return nil
}

// lengths reads code lengths by the code in z.lit.
func (z *Inflater) lengths(lengths []uint8) error {
	for i := 0; i < len(lengths); {
		s, err := z.bits.next(&z.lit)
		if err != nil {
			return err
		}
		if s < 16 {
			lengths[i] = uint8(s)
			i++
			continue
		}
		width, base := uint(2), 3 // 16: the last one again
		switch s {
		case 17:
			width = 3
		case 18:
			width, base = 7, 11
		}
		n, err := z.bits.number(width)
		if err != nil {
			return err
		}
		if n += base; i+n > len(lengths) || s == 16 && i == 0 {
			return ErrCorrupt
		}
		for range n {
			if s == 16 {
				lengths[i] = lengths[i-1]
			}
			i++
		}
	}
	return nil
}

// code takes a literal, or a length with its distance (RFC 1951, Section 3.2.5).
func (z *Inflater) code(emit func([]byte) error) error {
	s, err := z.bits.next(&z.lit)
	switch {
	case err != nil:
		return err
	case s < 256:
		return z.put(byte(s), emit)
	case s == 256:
		z.endBlock()
		return nil
	case s > 285:
		return ErrCorrupt
	}
	length := s - 254
	switch {
	case s == 285:
		length = 258
	case s >= 265:
		width := uint(s-261) / 4
		n, err := z.bits.number(width)
		if err != nil {
			return err
		}
		length = 3 + (4+(s-261)%4)<<width + n
	}
	if s, err = z.bits.next(&z.dist); err != nil {
		return err
	}
	if s > 29 {
		return ErrCorrupt
	}
	distance := s + 1
	if s >= 4 {
		width := uint(s-2) / 2
		n, err := z.bits.number(width)
		if err != nil {
			return err
		}
		distance = 1 + (2+s%2)<<width + n
	}
	return z.again(length, distance, emit)
}

// again repeats what was written.
func (z *Inflater) again(length, distance int, emit func([]byte) error) error {
	if distance > z.at && !z.full {
		return ErrCorrupt
	}
	for length > 0 {
		from := (z.at - distance) & (windowBytes - 1)
		n := min(length, windowBytes-z.at, windowBytes-from)
		if distance >= n {
			copy(z.window[z.at:z.at+n], z.window[from:])
		} else { // what is written is read again
			for i := range n {
				z.window[z.at+i] = z.window[from+i]
			}
		}
		z.at += n
		length -= n
		if z.at == windowBytes {
			if err := z.wrap(emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (z *Inflater) put(c byte, emit func([]byte) error) error {
	z.window[z.at] = c
	z.at++
	if z.at < windowBytes {
		return nil
	}
	return z.wrap(emit)
}

func (z *Inflater) wrap(emit func([]byte) error) error {
	err := z.flush(emit)
	z.at, z.from, z.full = 0, 0, true
	return err
}

func (z *Inflater) flush(emit func([]byte) error) error {
	if z.from == z.at {
		return nil
	}
	p := z.window[z.from:z.at]
	z.from = z.at
	return emit(p)
}

// storedBytes takes what there is of a stored block (RFC 1951, Section 3.2.4).
func (z *Inflater) storedBytes(emit func([]byte) error) error {
	if z.stored == 0 {
		z.endBlock()
		return nil
	}
	if z.bits.n >= 8 {
		z.stored--
		return z.put(byte(z.bits.take(8)), emit)
	}
	if len(z.bits.in) == 0 {
		return errMore
	}
	n := copy(z.window[z.at:], z.bits.in[:min(z.stored, len(z.bits.in))])
	z.bits.in = z.bits.in[n:]
	z.stored -= n
	if z.at += n; z.at < windowBytes {
		return nil
	}
	return z.wrap(emit)
}
