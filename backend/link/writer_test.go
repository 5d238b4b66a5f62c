package link

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"waypost/internal/frames"
)

// sizes notes how long the writes to it are, and fails once it has none left.
type sizes struct {
	left int
	got  []int
}

var errFull = errors.New("full")

func (s *sizes) Write(p []byte) (int, error) {
	if s.left--; s.left < 0 {
		return 0, errFull
	}
	s.got = append(s.got, len(p))
	return len(p), nil
}

func TestWriterPieces(t *testing.T) {
	const piece = frames.PieceBytes
	for _, c := range []struct {
		name  string
		parts []int
		want  []int
	}{
		{"nothing", nil, nil},
		{"an answer in parts is one write", []int{30, 6000, 5}, []int{6035}},
		{"a piece", []int{piece}, []int{piece}},
		{"more than a piece", []int{10, 2 * piece, 3}, []int{piece, piece, 13}},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := &sizes{left: 10}
			w := &Writer{to: to, buffers: new(Buffers)}
			for _, n := range c.parts {
				if k, err := w.WriteString(strings.Repeat("x", n)); k != n || err != nil {
					t.Fatal(k, err)
				}
			}
			if err := w.Flush(); err != nil || w.buf != nil {
				t.Errorf("%v, buffer kept: %t", err, w.buf != nil)
			}
			if !slices.Equal(to.got, c.want) {
				t.Errorf("writes of %d, want %d", to.got, c.want)
			}
		})
	}
}

func TestWriterStaysFailed(t *testing.T) {
	w := &Writer{to: &sizes{left: 1}, buffers: new(Buffers)}
	_ = w.WriteByte('a')
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte("b"))
	for range 2 {
		if err := w.Flush(); !errors.Is(err, errFull) {
			t.Fatal(err)
		}
	}
	if n, err := w.WriteString("c"); n != 0 || !errors.Is(err, errFull) || w.buf != nil {
		t.Errorf("%d, %v, buffer taken: %t", n, err, w.buf != nil)
	}
}
