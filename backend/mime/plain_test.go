package mime

import (
	"math/rand/v2"
	"net/mail"
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

// Dates of the usual form are what package mail takes them for.
func TestUsualDates(t *testing.T) {
	for _, s := range []string{
		"Mon, 2 Jan 2006 15:04:05 -0700", "Sun, 22 Nov 2026 09:04:05 +0000", "tue, 31 dec 1996 23:59:60 +0100",
		"Fri, 02 Jan 1970 00:00:00 +1400", "Mon, 2 Jan 2006 15:04:05 -0700 x", "Mon, 2 Jan 2006 15:04:05.25 +0100", "Mon, 32 Jan 2006 15:04:05 +0100",
	} {
		want, err := mail.ParseDate(s)
		if got := ParseDate(s); err != nil != got.IsZero() || err == nil && (!got.Equal(want) || got.Format("-0700 MST") != want.Format("-0700 MST")) {
			t.Errorf("%s: %v, want %v, %v", s, got, want, err)
		}
	}
}
