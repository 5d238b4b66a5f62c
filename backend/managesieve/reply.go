package managesieve

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// quotedBytes bounds a quoted string (RFC 5804, Section 4).
	quotedBytes = 1024
	// textBytes bounds what a compiler has to say.
	textBytes = 4 << 10
)

// encodeString writes s as a quoted string, or, where that cannot be, as a
// literal. A server's literals have no plus (RFC 5804, Section 4, literal-s2c).
func encodeString(s string) string {
	if len(s) > quotedBytes || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\r\n") {
		return fmt.Sprintf("{%d}\r\n%s", len(s), s)
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(s) + `"`
}

// response is a line that ends the answer to a command: word is OK, NO or BYE,
// code a response code of Section 1.3, or "".
func response(word, code, text string) string {
	if code != "" {
		word += " (" + code + ")"
	}
	return word + " " + encodeString(text) + "\r\n"
}

// plainText makes what a compiler said fit for a user's eyes and the wire: UTF-8,
// CRLF at line ends, no end of line at the end, and bounded.
func plainText(s string) string {
	if len(s) > textBytes {
		s = s[:textBytes] + "..."
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	return strings.ReplaceAll(s, "\n", "\r\n")
}
