package mailbox

import (
	"testing"

	"pgregory.net/rapid"
)

// Ranges are sets: what is in the union, and in the difference, is what was in the parts.
func TestRanges(t *testing.T) {
	draw := func(t *rapid.T, name string) (out []UIDRange) {
		next := UID(1)
		for range rapid.IntRange(0, 6).Draw(t, name) {
			first := next + UID(rapid.IntRange(0, 3).Draw(t, "gap"))
			last := first + UID(rapid.IntRange(0, 3).Draw(t, "length"))
			out = append(out, UIDRange{first, last})
			next = last + 2
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		union, without := Union(a, b), Without(a, b)
		for _, all := range [][]UIDRange{union, without} {
			for i, r := range all {
				if r.First > r.Last || i > 0 && r.First < all[i-1].Last+2 {
					t.Fatalf("%v and %v make %v", a, b, all)
				}
			}
		}
		for uid := UID(0); uid < 50; uid++ {
			if got, want := uid.Within(union), uid.Within(a) || uid.Within(b); got != want {
				t.Fatalf("%d in the union of %v and %v: %v", uid, a, b, got)
			}
			if got, want := uid.Within(without), uid.Within(a) && !uid.Within(b); got != want {
				t.Fatalf("%d in %v without %v: %v", uid, a, b, got)
			}
		}
	})
}
