package benchmark

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"waypost/deploy/role"
	"waypost/internal/bench"
	"waypost/internal/bench/hops"
	"waypost/internal/cluster"
)

// TestMain: called as `<this> backend --config FILE`, as the peer calls waypost,
// it is that role, and as hops.Peers call it, a process of theirs.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	if words := hops.Command(); len(os.Args) == len(words)+3 && slices.Equal(os.Args[1:len(words)+1], words) {
		ended(hops.Run(ctx, os.Args[len(words)+1], os.Args[len(words)+2]))
	}
	if len(os.Args) == 4 && os.Args[2] == "--config" {
		ended(runRole(ctx, cluster.Role(os.Args[1]), os.Args[3]))
	}
	stop()
	os.Exit(m.Run())
}

// ended is the end of a process that had this outcome.
func ended(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runRole(ctx context.Context, r cluster.Role, file string) error {
	c, err := role.Load(file, r)
	if err != nil {
		return err
	}
	return role.Run(ctx, c, os.Stderr, func() {})
}

// TestSuite runs the whole with few messages, and has the folders show that the
// script ran.
func TestSuite(t *testing.T) {
	dir := t.TempDir()
	profile := filepath.Join(t.TempDir(), "cpu")
	s := bench.Suite{Dir: dir, Rounds: 1, Users: 2, Bytes: 1, Duration: 20 * time.Second,
		Cases: []bench.Case{{Size: 2000, Connections: 2, Sieve: true, Quota: true}},
		Peers: []bench.Peer{Peer(Options{Profile: profile, ProfileFor: time.Second, Settle: time.Millisecond})}}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := rep.Rows[0]
	if r.Errors != 0 || r.OnDisk != r.Acknowledged || r.Messages == 0 || r.ServerCPUMS <= 0 {
		t.Errorf("%+v", r)
	}
	for _, f := range []string{".Junk", ".Lists"} {
		if m, err := filepath.Glob(filepath.Join(dir, "1-waypost", "b1", "users", "*", "u0@example.test", "Maildir", f)); len(m) != 1 {
			t.Errorf("%s: %v, %v", f, m, err)
		}
	}
	if st, err := os.Stat(profile + "-1-waypost"); err != nil || st.Size() == 0 {
		t.Errorf("profile: %v", err)
	}
}

func TestGrowth(t *testing.T) {
	g := bench.Growth{Dir: t.TempDir(), Sizes: []int{20}, Operations: 5, Peers: []bench.Peer{Peer(Options{Settle: time.Millisecond})}}
	rep, err := g.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Rows) != 4 {
		t.Errorf("%+v", rep.Rows)
	}
}
