package index

import (
	"errors"
	"math/rand/v2"
	"testing"

	"waypost/internal/vfs/crashfs"
)

var errUnplugged = errors.New("unplugged")

// TestCrashAnywhere cuts the power before each operation of a history, compaction
// and tables of contents included, and looks at several outcomes.
func TestCrashAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		fsys := newFS(t)
		left := n
		fsys.Fail(func(crashfs.Op) error {
			if left--; left <= 0 {
				return errUnplugged
			}
			return nil
		})
		history(fsys)
		for seed := range uint64(8) {
			after := fsys.Crash(rand.New(rand.NewPCG(seed, uint64(n))))
			x := Open(after, dir, "id")
			for i := range 30 {
				if m, ok := x.Get(base(i)); ok {
					same(t, base(i), m, madeMeta(t, i))
				}
			}
			put(t, x, 30)
			has(t, x, 30)
			closed(t, x)
			x = Open(after, dir, "id")
			has(t, x, 30)
			closed(t, x)
		}
		if left > 0 {
			return
		}
	}
}

// history uses all of an index, and does not mind errors.
func history(fsys *crashfs.FS) {
	for round := range 3 {
		x := Open(fsys, dir, "id")
		for i := range 10 {
			_ = x.Put(base(round*10+i), madeMetas()[round*10+i])
			if i == 5 {
				_ = x.Compact(func(b string) bool { return b != base(2) })
			}
		}
		x.Forget(base(round))
		x.mu.Lock()
		if x.begun {
			_ = x.writeContents()
		}
		x.mu.Unlock()
		_ = x.Close()
	}
}
