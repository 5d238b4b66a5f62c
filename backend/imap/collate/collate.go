// Package collate compares texts as IMAP's I18NLEVEL=1 asks for it (RFC 5255, Section 4.2): under
// i;unicode-casemap (RFC 5051), which knows equality, order and substrings.
//
// A text is prepared (Key, Append): each character becomes its titlecase, then its decomposition, again
// and again (RFC 5051, Section 2). Prepared texts are compared as bytes. What is not UTF-8
// stays as it is. The package keeps no state; a Matcher is for one goroutine.
package collate

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// tableEnd is above Latin, Greek and Cyrillic, for which prepared has the answers.
const tableEnd = 0x530

// prepared is never changed.
var prepared = prepareTable()

func prepareTable() (t [tableEnd]string) {
	for r := range rune(tableEnd) {
		t[r] = string(appendRune(nil, r))
	}
	return t
}

// Key prepares a text.
func Key(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'a' && c <= 'z' || c >= utf8.RuneSelf {
			return string(Append(make([]byte, 0, len(s)+8), s))
		}
	}
	return s
}

// Append appends the prepared text. Texts may be prepared in pieces that end between
// characters.
func Append[T string | []byte](dst []byte, s T) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 'a' && c <= 'z' {
				c -= 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && n <= 1:
			dst = append(dst, c)
		case r < tableEnd:
			dst = append(dst, prepared[r]...)
		default:
			dst = appendRune(dst, r)
		}
		i += n
	}
	return dst
}

func appendRune(dst []byte, r rune) []byte {
	r = unicode.ToTitle(r)
	var b [utf8.UTFMax]byte
	parts := norm.NFKD.Properties(b[:utf8.EncodeRune(b[:], r)]).Decomposition()
	if parts == nil {
		return utf8.AppendRune(dst, r)
	}
	// Decomposition has decomposed its own parts already; their titlecases may
	// decompose further.
	for len(parts) > 0 {
		part, n := utf8.DecodeRune(parts)
		parts = parts[n:]
		if unicode.ToTitle(part) != part {
			dst = appendRune(dst, part)
		} else {
			dst = utf8.AppendRune(dst, part)
		}
	}
	return dst
}
