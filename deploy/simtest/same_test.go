package simtest

import (
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
)

var same = flag.Int("same", 0, "how many schedules TestSameSeedSameTrace runs twice; 0: a hundred")

// TestSameSeedSameTrace: what a seed shows it shows again, beside others, and on one
// processor.
func TestSameSeedSameTrace(t *testing.T) {
	root := spoolRoot(t)
	n := *same
	if n == 0 {
		n = sameSeeds
	}
	again := func(t *testing.T, dir string, seed uint64) {
		if a, b := run(t, dir, seed, "", true), run(t, dir, seed, "", true); a.hash != b.hash {
			t.Errorf("seed %d: %s", seed, parting(a.lines, b.lines))
		}
		if a, b := runSessions(t, seed, "", true), runSessions(t, seed, "", true); a.hash != b.hash {
			t.Errorf("sessions, seed %d: %s", seed, parting(a.lines, b.lines))
		}
	}
	var alone []uint64
	for seed := *first; seed < *first+uint64(n); seed += 10 {
		processors := runtime.GOMAXPROCS(1)
		alone = append(alone, run(t, root, seed, "", false).hash, runSessions(t, seed, "", false).hash)
		runtime.GOMAXPROCS(processors)
	}
	shards := runtime.GOMAXPROCS(0)
	for shard := range shards {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			for seed := *first + uint64(shard); seed < *first+uint64(n); seed += uint64(shards) {
				again(t, filepath.Join(root, fmt.Sprint("shard", shard)), seed)
			}
		})
	}
	for i, seed := 0, *first; i < len(alone); i, seed = i+2, seed+10 {
		if run(t, root, seed, "", false).hash != alone[i] || runSessions(t, seed, "", false).hash != alone[i+1] {
			t.Errorf("seed %d differs on one processor", seed)
		}
	}
}

// parting shows where two traces part.
func parting(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			text := ""
			for _, line := range a[max(0, i-8):i] {
				text += "\n    " + line
			}
			for j := i; j < min(i+4, len(a), len(b)); j++ {
				text += fmt.Sprintf("\n  - %s\n  + %s", a[j], b[j])
			}
			return fmt.Sprintf("the traces part at line %d:%s", i, text)
		}
	}
	return fmt.Sprintf("one trace has %d lines, the other %d", len(a), len(b))
}
