package quota

import "testing"

func BenchmarkAdd(b *testing.B) {
	l, _ := newLog(b, Usage{}, Limit{})
	l.lookEvery = lookEvery
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Add(4321, 1); err != nil {
			b.Fatal(err)
		}
	}
}
