package quota

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		data string
		want Contents
		ok   bool
	}{
		{"1000S,10C\n5 1\n", Contents{Limit{1000, 10}, Usage{5, 1}, 14}, true},
		{"10C,1000S\n5 1\n-3 -1\n", Contents{Limit{1000, 10}, Usage{2, 0}, 20}, true},
		{"1000S\n", Contents{Limit{1000, 0}, Usage{}, 6}, true},
		{"\n5 1\n", Contents{Limit{}, Usage{5, 1}, 5}, true},
		{"0S,0C\n5 1\n", Contents{Limit{}, Usage{5, 1}, 10}, true},
		{"1000S, 10C ,7X\n  5\t  +1  \n", Contents{Limit{1000, 10}, Usage{5, 1}, 26}, true},
		{"1000S\n-5 -1\n", Contents{Limit{1000, 0}, Usage{-5, -1}, 12}, true},
		{"1000S\n5 1\n7", Contents{Limit{1000, 0}, Usage{5, 1}, 10}, true}, // torn
		{"1000S\n5 1\n7 1", Contents{Limit{1000, 0}, Usage{5, 1}, 10}, true},
		{"", Contents{}, false},
		{"1000S", Contents{}, false},
		{"5 1\n5 1\n", Contents{}, false},
		{"-1S\n", Contents{}, false},
		{"1000\n", Contents{}, false},
		{"1000S,\n", Contents{}, false},
		{"9223372036854775808S\n", Contents{}, false},
		{"1000S\n5\n", Contents{}, false},
		{"1000S\n5 1 1\n", Contents{}, false},
		{"1000S\n\n5 1\n", Contents{}, false},
		{"1000S\n5 1\n\x00\x00\x00\n", Contents{}, false},
		{"1000S\n0x5 1\n", Contents{}, false},
		{"1000S\n9223372036854775807 1\n1 1\n", Contents{}, false},
		{"1000S\n99999999999999999999 1\n", Contents{}, false},
	}
	for _, tt := range tests {
		got, err := Parse([]byte(tt.data))
		if (err == nil) != tt.ok || got != tt.want || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %+v %v, want %+v %v", tt.data, got, err, tt.want, tt.ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1000S,10C\n5 1\n-3 -1\n", "\n", "", "0C\n1 1\n2", "1S,2C,3X\n 5 6 \n", "1S\n9223372036854775807 1\n1 1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || c != (Contents{}) {
				t.Fatalf("%+v %v", c, err)
			}
			return
		}
		if c.CompleteBytes < 1 || c.CompleteBytes > len(data) || bytes.IndexByte(data[c.CompleteBytes:], '\n') >= 0 {
			t.Fatalf("complete up to %d of %d", c.CompleteBytes, len(data))
		}
		again := append(c.Limit.header(), c.Usage.line()...)
		if d, err := Parse(again); err != nil || d.Limit != c.Limit || d.Usage != c.Usage || d.CompleteBytes != len(again) {
			t.Fatalf("%q reads as %+v, was %+v: %v", again, d, c, err)
		}
		one := Usage{-1, 1}
		longer := append(bytes.Clone(data[:c.CompleteBytes]), one.line()...)
		want, ok := c.Usage.plus(one)
		if d, err := Parse(longer); (err == nil) != ok || ok && d.Usage != want {
			t.Fatalf("with a change: %+v %v, want %+v", d, err, want)
		}
	})
}

func TestExceeded(t *testing.T) {
	tests := []struct {
		limit     Limit
		used      Usage
		bytes, ms int64
		want      bool
	}{
		{Limit{}, Usage{math.MaxInt64, math.MaxInt64}, math.MaxInt64, 1, false},
		{Limit{100, 0}, Usage{90, 5}, 10, 1, false},
		{Limit{100, 0}, Usage{90, 5}, 11, 1, true},
		{Limit{0, 5}, Usage{90, 5}, 11, 0, false},
		{Limit{0, 5}, Usage{90, 5}, 0, 1, true},
		{Limit{100, 5}, Usage{0, 0}, 101, 0, true},
		{Limit{100, 5}, Usage{200, 0}, -50, 0, true},
		{Limit{100, 5}, Usage{200, 0}, -150, 0, false},
		{Limit{100, 5}, Usage{-200, 0}, 250, 0, false},
		{Limit{math.MaxInt64, 0}, Usage{math.MaxInt64, 0}, 1, 0, true},
		{Limit{1, 0}, Usage{math.MinInt64, 0}, -1, 0, false},
	}
	for _, tt := range tests {
		if got := tt.limit.Exceeded(tt.used, tt.bytes, tt.ms); got != tt.want {
			t.Errorf("%+v with %+v and %d, %d more: %v", tt.limit, tt.used, tt.bytes, tt.ms, got)
		}
	}
}
