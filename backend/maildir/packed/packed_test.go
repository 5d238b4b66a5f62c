package packed

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	var w Writer
	w.Uint(math.MaxUint64)
	w.Int(math.MinInt64)
	w.Int(-1)
	w.Bool(true)
	w.Text("a\x00b")
	w.Texts([]string{"", "x"})
	w.Time(at)
	r := Reader{Rest: string(w.Bytes)}
	if r.Uint() != math.MaxUint64 || r.Int() != math.MinInt64 || r.Int() != -1 || !r.Bool() || r.Text() != "a\x00b" ||
		!slices.Equal(r.Texts(), []string{"", "x"}) || !r.Time().Equal(at) || r.Failed || r.Rest != "" {
		t.Errorf("%+v", r)
	}
}

func FuzzReader(f *testing.F) {
	f.Add("\x05abc")
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, s string) {
		r := Reader{Rest: s}
		for !r.Failed && r.Rest != "" {
			before := len(r.Rest)
			r.Texts()
			r.Time()
			r.Bool()
			if len(r.Rest) >= before {
				t.Fatal("nothing was taken")
			}
		}
		if r.Failed && (r.Uint() != 0 || r.Text() != "" || r.Len() != 0) {
			t.Error("a field behind the end")
		}
	})
}
