package journal

import (
	"slices"
	"testing"
)

// TestRenamed: what was renamed without a record is flushed under its name of now, until a
// checkpoint has passed the record that has touched it; nothing else is noted.
func TestRenamed(t *testing.T) {
	j := mustStart(t, options(newFS(t, 1)))
	rename := func(from, to string) { j.Renamed("ann", map[string]string{from: to, "old": "older"}) }
	touched := func(want ...string) {
		t.Helper()
		if got := j.touched("ann"); !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	rename("a", "b")
	touched()
	first := j.Append("ann", 1, []string{"a", "dir"}, []byte("a"))
	second := j.Append("ann", 1, []string{"x"}, []byte("x"))
	others := j.Append("bob", 1, []string{"a"}, []byte("a"))
	rename("a", "b")
	rename("x", "y")
	rename("b", "c")
	touched("c", "dir", "y")
	for i, ticket := range []*Ticket{first, second, others} {
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
		if i == 0 {
			if err := j.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			rename("c", "d")
			touched("y")
		}
	}
	if got := j.touched("bob"); !slices.Equal(got, []string{"a"}) {
		t.Fatal(got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
