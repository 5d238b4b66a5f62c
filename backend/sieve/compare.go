package sieve

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// comparator is a collation (RFC 4790).
type comparator byte

const (
	casemap    comparator = iota // i;ascii-casemap, the default (RFC 5228, Section 2.7.3)
	octet                        // i;octet
	numeric                      // i;ascii-numeric
	unicasemap                   // i;unicode-casemap (RFC 5051)
)

var comparators = map[string]comparator{
	"i;ascii-casemap": casemap, "i;octet": octet, "i;ascii-numeric": numeric, "i;unicode-casemap": unicasemap,
}

// key prepares a string for comparing: keys are folded once, when the script
// is compiled, where they are constant.
func (c comparator) key(s string) string {
	switch c {
	case casemap:
		return lower(s)
	case unicasemap:
		return foldUnicode(s)
	case numeric:
		return digits(s)
	}
	return s
}

// foldUnicode is RFC 5051, Section 2: title case, then compatibility
// decomposition.
func foldUnicode(s string) string {
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if ascii {
		return upper(s)
	}
	return norm.NFKD.String(strings.Map(unicode.ToTitle, strings.ToValidUTF8(s, "\ufffd")))
}

// digits gives the number a string begins with, without leading zeros; "" is
// positive infinity (RFC 4790, Section 9.1.1).
func digits(s string) string {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n == 0 {
		return ""
	}
	if s = strings.TrimLeft(s[:n], "0"); s == "" {
		return "0"
	}
	return s
}

// equal compares a value with a prepared key.
func (c comparator) equal(value, key string) bool {
	if c == casemap {
		return equalLower(value, key)
	}
	return c.key(value) == key
}

// order compares a value with a prepared key: below, at or above zero.
func (c comparator) order(value, key string) int {
	value = c.key(value)
	if c == numeric {
		if value == "" || key == "" {
			return infinity(value) - infinity(key)
		}
		if len(value) != len(key) {
			return len(value) - len(key)
		}
	}
	return strings.Compare(value, key)
}

func infinity(s string) int {
	if s == "" {
		return 1
	}
	return 0
}

// contains looks for a prepared key in a value.
func (c comparator) contains(value, key string) bool {
	if c == casemap {
		return containsLower(value, key)
	}
	return strings.Contains(c.key(value), key)
}

// equalFold compares without regard to the case of ASCII letters.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] != b[i] && lowerByte(a[i]) != lowerByte(b[i]) {
			return false
		}
	}
	return true
}

// equalLower is equalFold for a key already in lower case.
func equalLower(s, key string) bool {
	if len(s) != len(key) {
		return false
	}
	for i := range len(s) {
		if s[i] != key[i] && lowerByte(s[i]) != key[i] {
			return false
		}
	}
	return true
}

// containsLower looks for a key in lower case. Long values are folded as a
// whole, so that the time stays linear.
func containsLower(s, key string) bool {
	if len(s) > 256 {
		return strings.Contains(lower(s), key)
	}
	if key == "" {
		return true
	}
	first := key[0]
	for i := 0; i+len(key) <= len(s); i++ {
		if lowerByte(s[i]) == first && equalLower(s[i:i+len(key)], key) {
			return true
		}
	}
	return false
}
