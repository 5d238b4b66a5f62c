package mime

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// What is quick for plain values gives what the long way gives.
func TestPlainValues(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const letters = "ab \t  ;,\"()\\\r\n\x00=é"
	for range 200_000 {
		var b strings.Builder
		for range r.IntN(9) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		s := b.String()
		for _, end := range []byte{0, ';', ','} {
			item, rest, ok := cutPlain(s, end)
			if wantItem, wantRest := cutQuoted(s, end); ok && (item != wantItem || rest != wantRest) {
				t.Fatalf("cut %q at %q: %q, %q; want %q, %q", s, end, item, rest, wantItem, wantRest)
			}
		}
		if want := strings.Join(strings.FieldsFunc(s, isBlank), " "); collapse(s) != want {
			t.Fatalf("collapse %q: %q, want %q", s, collapse(s), want)
		}
		want := strings.NewReplacer("\r\n", "", "\n", "", "\r", " ", "\x00", "\uFFFD").Replace(s)
		if want = strings.TrimLeft(want, " \t"); unfold([]byte(s)) != want {
			t.Fatalf("unfold %q: %q, want %q", s, unfold([]byte(s)), want)
		}
	}
}
