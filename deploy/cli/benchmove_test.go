package cli

import (
	"testing"

	"waypost/internal/bench/move"
)

// TestBenchMove moves a user of few messages there and back; that all messages come is
// checked after each pass.
func TestBenchMove(t *testing.T) {
	s := move.Suite{Dir: t.TempDir(), Sizes: []int{200}, Rounds: 1, Moves: 2, Peers: []move.Peer{movers()}}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Rows) != 4 {
		t.Errorf("rows: %+v", rep.Rows)
	}
	for _, r := range rep.Rows {
		if r.MedianMS <= 0 {
			t.Errorf("%+v", r)
		}
	}
}
