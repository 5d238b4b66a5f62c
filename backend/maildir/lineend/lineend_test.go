package lineend

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestShortenAndBack(t *testing.T) {
	for _, c := range []struct{ in, disk, wire string }{
		{"a\r\nb\r\n", "a\nb\n", "a\r\nb\r\n"},
		{"a\nb", "a\nb", "a\r\nb"},
		{"a\rb\r\n", "a\rb\n", "a\rb\r\n"},
		{"a\r\r\n", "a\r\r\n", "a\r\r\n"},
		{"\r\r\r\n\r\n\r", "\r\r\r\n\n\r", "\r\r\r\n\r\n\r"},
		{"", "", ""},
		{"\n\n", "\n\n", "\r\n\r\n"},
	} {
		check(t, c.in, c.disk, c.wire)
	}
}

func check(t *testing.T, in, disk, wire string) {
	t.Helper()
	for _, piece := range []int{1, 2, 1000} {
		var out bytes.Buffer
		var count Counter
		s := Shortener{W: io.MultiWriter(&out, &count)}
		for rest := in; rest != ""; {
			n := min(piece, len(rest))
			if _, err := s.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.Close(); err != nil || out.String() != disk {
			t.Fatalf("%q in pieces of %d: disk %q, want %q, %v", in, piece, out.String(), disk, err)
		}
		if count.Size != int64(len(disk)) || count.Wire != int64(len(wire)) {
			t.Fatalf("%q: counted %+v", in, count)
		}
	}
	for _, src := range []io.Reader{strings.NewReader(disk), iotest.OneByteReader(strings.NewReader(disk))} {
		got, err := io.ReadAll(iotest.OneByteReader(&Reader{R: src}))
		if err != nil || string(got) != wire {
			t.Fatalf("%q: wire %q, want %q, %v", in, got, wire, err)
		}
	}
	if err := iotest.TestReader(&Reader{R: strings.NewReader(disk)}, []byte(wire)); err != nil {
		t.Fatal(err)
	}
}

// FuzzRoundTrip: text whose LFs all follow a CR comes back byte for byte.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("a\r\n\r\r\n\rb"))
	f.Fuzz(func(t *testing.T, in []byte) {
		want := make([]byte, 0, len(in))
		for i, c := range in {
			if c == '\n' && (i == 0 || in[i-1] != '\r') {
				want = append(want, '\r')
			}
			want = append(want, c)
		}
		var disk bytes.Buffer
		var count Counter
		s := Shortener{W: io.MultiWriter(&disk, &count)}
		half := len(in) / 2
		for _, p := range [][]byte{in[:half], in[half:]} {
			if _, err := s.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(&Reader{R: &disk})
		if err != nil || !bytes.Equal(got, want) || count.Wire != int64(len(want)) {
			t.Fatalf("%q became %q (%d), %v", in, got, count.Wire, err)
		}
	})
}
