package proxy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestBorder(t *testing.T) {
	for _, c := range []struct {
		name   string
		stream string
		open   bool
	}{
		{"nothing", "", true},
		{"line", "* OK hi\r\n", true},
		{"in a line", "* OK h", false},
		{"literal announced", "* 1 FETCH (BODY[] {5}\r\n", false},
		{"in a literal at a line end", "* 1 FETCH (BODY[] {5}\r\na\r\n", false},
		{"literal over, line not", "* 1 FETCH (BODY[] {5}\r\na\r\nbc", false},
		{"literal over, line too", "* 1 FETCH (BODY[] {5}\r\na\r\nbc)\r\n", true},
		{"two literals", "* 1 FETCH (A {1}\r\nx B {2}\r\n\r\n", false},
		{"two literals over", "* 1 FETCH (A {1}\r\nx B {2}\r\n\r\n)\r\n", true},
		{"empty literal", "* 1 FETCH (A {0}\r\n", false},
		{"empty literal over", "* 1 FETCH (A {0}\r\n)\r\n", true},
		{"literal8", "* 1 FETCH (BINARY[] ~{3}\r\n\r\n\r", false},
		{"literal in a literal", "* 1 FETCH (A {7}\r\n{99}\r\n!)\r\n", true},
		{"braces that are none", "* OK {x}\r\n* OK {}\r\n* OK }\r\n", true},
		{"said goodbye", "* BYE see you\r\n", false},
		{"said goodbye and answered", "* bye see you\r\na OK done\r\n", false},
		{"BYE in a literal", "* 1 FETCH (A {9}\r\n* BYE x\r\n)\r\n", true},
		{"long line", "* OK " + strings.Repeat("x", 100) + " {3}\r\nabc\r\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b border
			b.see([]byte(c.stream))
			if b.open() != c.open {
				t.Fatalf("open %v, want %v: %+v", b.open(), c.open, b)
			}
		})
	}
}

// However the stream is cut into pieces, the border is the same.
func TestBorderPieces(t *testing.T) {
	words := []string{"* BYE", "* ", "OK", "{3}", "{0}", "{12}", "\r\n", "\n", "x", ")", " ", "{", "}", strings.Repeat("y", 30)}
	rapid.Check(t, func(t *rapid.T) {
		stream := strings.Join(rapid.SliceOf(rapid.SampledFrom(words)).Draw(t, "words"), "")
		var whole, pieces border
		whole.see([]byte(stream))
		for rest := stream; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			pieces.see([]byte(rest[:n]))
			rest = rest[n:]
		}
		if whole.open() != pieces.open() || whole.literal != pieces.literal || whole.bye != pieces.bye {
			t.Fatalf("%q: whole %+v, pieces %+v", stream, whole, pieces)
		}
	})
}
