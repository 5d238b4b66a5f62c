package move

import (
	"os"
	"testing"
)

// TestSuite runs the peers that are installed, with few messages.
func TestSuite(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "wp-bench-") // short: sockets are below it, and open to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := Suite{Dir: dir, Sizes: []int{120}, Rounds: 1, Peers: []Peer{Dovecot(), Rsync()}}
	for _, p := range s.Peers {
		if err := Missing(p); err != nil {
			t.Skip(err)
		}
	}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Rows) != 6 {
		t.Errorf("rows: %+v", rep.Rows)
	}
	for _, r := range rep.Rows {
		if r.MedianMS <= 0 || r.Times != 1 {
			t.Errorf("%+v", r)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, s := range []Suite{{Sizes: []int{99}, Rounds: 1}, {Sizes: []int{100}}, {Rounds: 1, Moves: -1}} {
		if err := s.Check(); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}
