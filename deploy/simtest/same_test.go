package simtest

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
)

var same = flag.Int("same", 0, "how many schedules TestSameSeedSameTrace runs twice; 0: a hundred")

// TestSameSeedSameTrace: what a seed shows it shows again, on however many processors.
func TestSameSeedSameTrace(t *testing.T) {
	root := spoolRoot(t)
	for name, one := range map[string]func(seed uint64) outcome{
		"cluster":  func(seed uint64) outcome { return run(t, root, seed, "", true) },
		"sessions": func(seed uint64) outcome { return runSessions(t, seed, "", true) },
	} {
		n := *same
		if n == 0 {
			n = sameSeeds
		}
		for seed := *first; seed < *first+uint64(n); seed++ {
			a := one(seed)
			processors := runtime.GOMAXPROCS(1)
			b := one(seed)
			runtime.GOMAXPROCS(processors)
			if a.hash != b.hash {
				t.Errorf("%s, seed %d: %s", name, seed, parting(a.lines, b.lines))
			}
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
