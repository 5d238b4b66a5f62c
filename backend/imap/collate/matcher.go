package collate

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// readSize is how much of a stream is looked at in one go.
const readSize = 32 << 10

// Matcher looks for several strings in texts. It keeps its buffers from one message to the
// next.
type Matcher struct {
	needles [][]byte
	found   []bool
	left    int
	longest int
	raw     []byte
	window  []byte
}

// NewMatcher makes a Matcher for prepared needles. An empty one is found in everything.
func NewMatcher(needles []string) *Matcher {
	m := &Matcher{found: make([]bool, len(needles))}
	for _, n := range needles {
		m.needles = append(m.needles, []byte(n))
		m.longest = max(m.longest, len(n))
	}
	m.Reset()
	return m
}

// Reset begins anew.
func (m *Matcher) Reset() {
	m.left = 0
	for i, n := range m.needles {
		if m.found[i] = len(n) == 0; !m.found[i] {
			m.left++
		}
	}
}

// Found tells of each needle whether it was found since Reset; valid until then.
func (m *Matcher) Found() []bool { return m.found }

// Done reports that there is nothing left to find.
func (m *Matcher) Done() bool { return m.left == 0 }

// Text looks through a text.
func (m *Matcher) Text(s string) {
	if m.Done() {
		return
	}
	m.window = Append(m.window[:0], s)
	m.look()
}

// Scan looks through a stream of UTF-8 until its end or until all is found.
func (m *Matcher) Scan(r io.Reader) error {
	if m.Done() {
		return nil
	}
	if m.raw == nil {
		m.raw = make([]byte, readSize)
	}
	m.window = m.window[:0]
	kept := 0 // bytes of an unfinished character at the begin of raw
	for !m.Done() {
		n, err := r.Read(m.raw[kept:])
		n += kept
		whole := n
		if err == nil {
			whole = WholeRunes(m.raw[:n])
		}
		m.window = Append(m.window, m.raw[:whole])
		m.look()
		if cut := len(m.window) - m.longest; cut > 0 {
			m.window = append(m.window[:0], m.window[cut:]...)
		}
		kept = copy(m.raw, m.raw[whole:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Matcher) look() {
	for i, n := range m.needles {
		if !m.found[i] && bytes.Contains(m.window, n) {
			m.found[i] = true
			m.left--
		}
	}
}

// WholeRunes gives the length of b without an unfinished character at its end.
func WholeRunes(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}
