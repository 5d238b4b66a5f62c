// Package headerfield reads what stands in the fields of a message's header: dates and
// encoded words, of RFC 5322 and RFC 2047 and as mail really has them. Sieve's tests, SEARCH,
// SORT and the extended listing of POP3 read them alike because all of them use it. Values
// are unfolded; whatever they hold is read somehow, in time that goes with their length.
package headerfield

import "strings"

// WithoutComments takes out what RFC 5322, Section 3.2.2 calls comments. One that has no
// end goes to the end.
func WithoutComments(s string) string {
	if strings.IndexByte(s, '(') < 0 {
		return s
	}
	var b strings.Builder
	depth := 0
	for i := range len(s) { // what is no UTF-8 stays as it is
		switch c := s[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String()
}
