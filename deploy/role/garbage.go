package role

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A backend that delivers has some 20 MB that live and makes as much garbage every
// few hundred messages: by Go's default, to collect when the heap has doubled, up to
// a tenth of its CPU goes there. So garbage may take cheapGarbage, though never more
// than mostGarbage per cent of what lives; a backend with large mailboxes in memory
// collects as ever.
const (
	cheapGarbage   = 128 << 20
	mostGarbage    = 400
	defaultGarbage = 100
	garbageEvery   = time.Second
)

// allowGarbage adapts the garbage collector to what lives, until ctx ends. Who has
// set GOGC knows better.
func allowGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	defer debug.SetGCPercent(defaultGarbage)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(garbageEvery)
	defer tick.Stop()
	for set := 0; ; {
		metrics.Read(live)
		if next := garbageFor(live[0].Value.Uint64()); next != set {
			set = next
			debug.SetGCPercent(set)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// garbageFor is the percentage for so many bytes that live, in steps of 25.
func garbageFor(live uint64) int {
	if live == 0 { // before the first collection
		return mostGarbage
	}
	percent := min(mostGarbage, cheapGarbage*100/live)
	return int(max(defaultGarbage, percent/25*25))
}
