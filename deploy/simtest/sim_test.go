//go:build !race

package simtest

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	seeds = flag.Int("seeds", 0, "how many schedules TestSchedules runs; 0: some thousand")
	first = flag.Uint64("first", 1, "the first seed of TestSchedules")
	one   = flag.Uint64("seed", 0, "run this one schedule alone, and log its trace")
)

// outcome is what became of a schedule.
type outcome struct {
	bad   []string
	hash  uint64
	picks int
	seen  map[string]int
	lines []string
}

// spoolRoot is in memory where there is such a place: a spool syncs.
func spoolRoot(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "waypost-sim")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run makes one schedule, with a rule switched off or none.
func run(t *testing.T, root string, seed uint64, off string, keep bool) (o outcome) {
	t.Helper()
	dir := filepath.Join(root, fmt.Sprint(seed))
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSched(seed, keep)
		w, err := newWorld(s, dir, off)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.schedule(); err != nil {
			t.Fatal(err)
		}
		s.run(w.quiet)
		if len(w.bad) == 0 {
			w.judge()
		}
		o = outcome{w.bad, s.hash.Sum64(), s.picks, w.seen, s.lines}
		w.stop()
		s.finish()
		w.running.Wait()
		_ = w.memory.Close() // has no snapshot to write
		_ = w.store.Close()  // never fails
	})
	return o
}

// TestSchedules is the hunt.
func TestSchedules(t *testing.T) {
	root := spoolRoot(t)
	if *one != 0 {
		o := run(t, root, *one, "", true)
		t.Logf("%s\nbad: %s\nseen: %v", strings.Join(o.lines, "\n"), strings.Join(o.bad, "\n"), o.seen)
		if len(o.bad) > 0 {
			t.Fail()
		}
		return
	}
	n := *seeds
	if n == 0 {
		n = defaultSeeds
	}
	all := tally{seen: map[string]int{}}
	t.Run("all", func(t *testing.T) {
		shards := runtime.GOMAXPROCS(0)
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := *first + uint64(shard); seed < *first+uint64(n); seed += uint64(shards) {
					o := run(t, root, seed, "", false)
					all.add(o)
					if len(o.bad) > 0 {
						t.Errorf("seed %d: %s", seed, strings.Join(o.bad, "\n"))
					}
				}
			})
		}
	})
	t.Logf("%d schedules, %d turns", n, all.picks)
	for _, what := range slices.Sorted(maps.Keys(all.seen)) {
		t.Logf("%8d %s", all.seen[what], what)
	}
	if n < defaultSeeds {
		return
	}
	// A simulation in which these never happen shows nothing.
	for _, what := range []string{
		"a copy missed a message", "adopted", "answer of a call lost", "answer of a delivery lost", "backend crashed",
		"crash at a disk operation", "crash within adoption", "delivered again", "link cut in a resume", "mover at done", "mover at undo",
		"mover killed", "mx killed", "resumed from a checkpoint", "session handed off", "session resumed",
		"taken back: no live mover", "taken back: over the busy limit", "unknown commit, done", "unknown commit, not done",
	} {
		if all.seen[what] == 0 {
			t.Errorf("in %d schedules there was never: %s", n, what)
		}
	}
}

// tally adds up what happened in many schedules.
type tally struct {
	mu    sync.Mutex
	picks int
	seen  map[string]int
}

func (a *tally) add(o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.picks += o.picks
	for what, n := range o.seen {
		a.seen[what] += n
	}
}

// TestKeptSeeds runs those that once failed.
func TestKeptSeeds(t *testing.T) {
	root := spoolRoot(t)
	f, err := os.Open("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field, _, _ := strings.Cut(lines.Text(), " ")
		if field == "" || field == "#" {
			continue
		}
		seed, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if o := run(t, root, seed, "", false); len(o.bad) > 0 {
			t.Errorf("seed %d: %s", seed, strings.Join(o.bad, "\n"))
		}
	}
}

const (
	defaultSeeds = 2000
)
