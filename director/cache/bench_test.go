package cache

import (
	"fmt"
	"runtime"
	"testing"

	"waypost/director"
)

// BenchmarkLocation looks up a million users from several goroutines.
func BenchmarkLocation(b *testing.B) {
	const users = 1_000_000
	before := heap()
	st := newState("era", newShared())
	key := func(i int) director.User {
		return director.User(fmt.Sprintf("firstname.lastname%07d@example.test", i)) // 38 bytes
	}
	for i := range users {
		home := director.BackendID(fmt.Sprint("b", i%100))
		st.putLocation(key(i), director.Record{Home: home, Epoch: director.Epoch(i + 1), State: director.Active})
	}
	perUser := float64(heap()-before) / users
	keys := make([]director.User, 1<<16)
	for i := range keys {
		keys[i] = key(i * (users / len(keys)))
	}
	c := &Client{shared: st.shared}
	c.st.Store(st)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, known, _ := c.Location(keys[i%len(keys)]); !known {
				b.Error("unknown")
				return
			}
		}
	})
	b.ReportMetric(perUser, "bytes/user")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestLocationAllocatesNothing(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	f.settle()
	if n := testing.AllocsPerRun(1000, func() { f.Location("ann@example.test") }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
