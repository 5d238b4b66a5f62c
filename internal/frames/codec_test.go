package frames

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  Header
		ok    bool
	}{
		{"010000000700000fa0", Header{TypeOpen, 7, 4000}, true},
		{"0400000001000000ff", Header{TypeData, 1, 255}, true},
		{"040000000100000008", Header{TypeData, 1, 8}, false}, // no byte
		{"040000000100010008", Header{TypeData, 1, 65544}, true},
		{"040000000100010009", Header{TypeData, 1, 65545}, false},
		{"05ffffffff00000008", Header{TypeConsumed, 1<<32 - 1, 8}, true},
		{"050000000100000007", Header{TypeConsumed, 1, 7}, false},
		{"080000000000000000", Header{TypeClientGone, 0, 0}, false}, // no stream
		{"0d0000000100010001", Header{TypeState, 1, 65537}, true},
		{"0d0000000100010002", Header{TypeState, 1, 65538}, false},
		{"0e0000000000000000", Header{TypeGoAway, 0, 0}, true},
		{"0e0000000100000000", Header{TypeGoAway, 1, 0}, false},
		{"000000000100000000", Header{0, 1, 0}, false},
		{"110000000100000000", Header{17, 1, 0}, false},
		{"0400000001000000", Header{}, false},
	} {
		b, err := hex.DecodeString(c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseHeader(b)
		if got != c.want || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v, %v", c.bytes, got, err)
		}
		if c.ok && !bytes.Equal(AppendHeader(nil, got), b) {
			t.Errorf("%+v is written as %x", got, AppendHeader(nil, got))
		}
	}
}

func TestCounters(t *testing.T) {
	c := Counters{Consumed: 1<<40 + 5, Sent: 7}
	got, err := ParseCounters(AppendCounters(nil, c))
	if got != c || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, n := range []int{15, 17} {
		if _, err := ParseCounters(make([]byte, n)); !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
	}
}

func TestState(t *testing.T) {
	for _, n := range []int{0, 1, MaxData - 1, MaxData, MaxData + 1, MaxState} {
		want := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
		var s State
		pieces, done := 0, false
		for p := range StatePieces(want) {
			var err error
			if done, err = s.Add(p); err != nil {
				t.Fatal(err)
			}
			if _, err := ParseHeader(AppendHeader(nil, Header{TypeState, 1, uint32(len(p))})); err != nil {
				t.Fatal(err)
			}
			pieces++
		}
		if !done || !bytes.Equal(s.Bytes(), want) || pieces != max(1, (n+MaxData-1)/MaxData) {
			t.Errorf("%d bytes: %d in %d pieces, done %v", n, len(s.Bytes()), pieces, done)
		}
		if _, err := s.Add([]byte{1}); !errors.Is(err, ErrProtocol) {
			t.Errorf("a piece behind the last: %v", err)
		}
	}
	for name, pieces := range map[string][][]byte{
		"no flags": {{}}, "unknown flags": {{2, 'x'}},
		"too much": bytes.SplitAfter(bytes.Repeat(append(make([]byte, MaxData), 'x'), MaxState/MaxData+1), []byte("x")),
	} {
		var s State
		var err error
		for _, p := range pieces {
			if _, err = s.Add(p); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(AppendHeader(nil, Header{TypeData, 3, 100}))
	f.Add([]byte("* OK hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(AppendHeader(nil, h), b[:HeaderBytes]) || h.Length > CounterBytes+MaxData || h.Type.String() == "" {
			t.Fatalf("%x is read as %+v", b, h)
		}
	})
}
