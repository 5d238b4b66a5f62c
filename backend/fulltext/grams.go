package fulltext

import (
	"errors"
	"io"

	"waypost/backend/imap/collate"
)

const (
	gramLen = 3
	// maxText bounds what is taken in of a message, in prepared bytes.
	maxText = 1 << 20
	// maxGrams bounds how many trigrams of a string are looked up: more of them rule out
	// little more.
	maxGrams = 48
	readSize = 16 << 10
)

// errTooLong ends the reading of a message that has more than maxText.
var errTooLong = errors.New("too much text")

// grams is a set of trigrams, as numbers of 24 bits.
type grams struct {
	has  []uint64
	list []uint32
}

func newGrams() *grams { return &grams{has: make([]uint64, 1<<24/64)} }

// add takes those of a prepared text.
func (g *grams) add(text []byte) {
	if len(text) < gramLen {
		return
	}
	n := uint32(text[0])<<8 | uint32(text[1])
	for _, c := range text[gramLen-1:] {
		n = (n<<8 | uint32(c)) & (1<<24 - 1)
		if bit := uint64(1) << (n % 64); g.has[n/64]&bit == 0 {
			g.has[n/64] |= bit
			g.list = append(g.list, n)
		}
	}
}

func (g *grams) clear() {
	for _, n := range g.list {
		g.has[n/64] = 0
	}
	g.list = g.list[:0]
}

func gramText(n uint32) string { return string([]byte{byte(n >> 16), byte(n >> 8), byte(n)}) }

// gramsOf gives the trigrams of a prepared string, at most maxGrams of them; none if it is too
// short to have one.
func gramsOf(needle string) [][]byte {
	seen := make(map[string]bool)
	var out [][]byte
	for i := 0; i+gramLen <= len(needle) && len(out) < maxGrams; i++ {
		if t := needle[i : i+gramLen]; !seen[t] {
			seen[t] = true
			out = append(out, []byte(t))
		}
	}
	return out
}

// taker is a search.TextSink that makes the trigrams of one message.
type taker struct {
	header, body *grams
	raw, window  []byte
	taken        int
}

func newTaker() *taker {
	return &taker{header: newGrams(), body: newGrams(), raw: make([]byte, readSize)}
}

func (t *taker) begin() {
	t.header.clear()
	t.body.clear()
	t.taken = 0
}

// WantsHeader implements search.TextSink.
func (t *taker) WantsHeader() bool { return true }

// WantsText implements search.TextSink.
func (t *taker) WantsText() bool { return true }

// Header implements search.TextSink.
func (t *taker) Header(text string) {
	t.window = collate.Append(t.window[:0], text)
	t.taken += len(t.window)
	t.header.add(t.window)
}

// Text implements search.TextSink.
func (t *taker) Text(r io.Reader) error {
	t.window = t.window[:0]
	kept := 0 // bytes of an unfinished character at the begin of raw
	for {
		n, err := r.Read(t.raw[kept:])
		n += kept
		whole := n
		if err == nil {
			whole = collate.WholeRunes(t.raw[:n])
		}
		had := len(t.window)
		t.window = collate.Append(t.window, t.raw[:whole])
		t.body.add(t.window)
		if t.taken += len(t.window) - had; t.taken > maxText {
			return errTooLong
		}
		if cut := len(t.window) - (gramLen - 1); cut > 0 {
			t.window = append(t.window[:0], t.window[cut:]...)
		}
		kept = copy(t.raw, t.raw[whole:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
