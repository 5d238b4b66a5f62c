package role

import "testing"

func TestGarbageFor(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 400, 1: 400, 32 << 20: 400, 64 << 20: 200, 100 << 20: 125, 128 << 20: 100, 8 << 30: 100,
	} {
		if got := garbageFor(live); got != want {
			t.Errorf("%d bytes live: %d per cent of garbage, want %d", live, got, want)
		}
	}
}
