package bench

import (
	"os"
	"testing"
)

func TestTreeMemory(t *testing.T) {
	n, err := TreeMemory(os.Getpid())
	if err != nil || n < 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := TreeMemory(1 << 30); err == nil {
		t.Error("the memory of nobody")
	}
	for in, want := range map[string]int64{
		"00400000-7ffc ---p 00000000 00:00 0 [rollup]\nRss:   9 kB\nPss:                3 kB\nPss_Dirty: 1 kB\n": 3 << 10,
		"": 0,
	} {
		if got, err := parsePss([]byte(in)); got != want || err != nil {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	if _, err := parsePss([]byte("Pss: x kB\n")); err == nil {
		t.Error("malformed text was taken")
	}
}
