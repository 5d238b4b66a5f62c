package sieve

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

type tokenKind byte

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenTag
	tokenNumber
	tokenString
	tokenMark // one of { } [ ] ( ) ; ,
)

type token struct {
	position
	kind   tokenKind
	text   string // a name or tag in lower case, a string's value, a mark
	number int64
}

// describe names the token in an error's text.
func (t token) describe() string {
	switch t.kind {
	case tokenEnd:
		return "the end of the script"
	case tokenString:
		return "a string"
	case tokenNumber:
		return fmt.Sprintf("the number %d", t.number)
	case tokenTag:
		return ":" + t.text
	}
	return `"` + t.text + `"`
}

// lexer cuts a script into tokens (RFC 5228, Section 8.1).
type lexer struct {
	src       string
	at        int
	line      int
	lineStart int
}

func (l *lexer) here() position { return position{l.line, l.at - l.lineStart + 1} }

// newline notes that the byte before l.at ended a line.
func (l *lexer) newline() { l.line, l.lineStart = l.line+1, l.at }

// skip passes over white space and comments.
func (l *lexer) skip() *Error {
	for l.at < len(l.src) {
		switch c := l.src[l.at]; {
		case c == '\n':
			l.at++
			l.newline()
		case c == ' ' || c == '\t' || c == '\r':
			l.at++
		case c == '#':
			l.toLineEnd()
		case strings.HasPrefix(l.src[l.at:], "/*"):
			if err := l.comment(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

func (l *lexer) toLineEnd() {
	if i := strings.IndexByte(l.src[l.at:], '\n'); i >= 0 {
		l.at += i
	} else {
		l.at = len(l.src)
	}
}

func (l *lexer) comment() *Error {
	start := l.here()
	for l.at += 2; l.at < len(l.src); {
		if strings.HasPrefix(l.src[l.at:], "*/") {
			l.at += 2
			return nil
		}
		l.at++
		if l.src[l.at-1] == '\n' {
			l.newline()
		}
	}
	return start.fault("this comment has no end: */ is missing")
}

func (l *lexer) next() (token, *Error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	t := token{position: l.here()}
	if l.at == len(l.src) {
		return t, nil
	}
	switch c := l.src[l.at]; {
	case strings.IndexByte("{}[]();,", c) >= 0:
		t.kind, t.text = tokenMark, l.src[l.at:l.at+1]
		l.at++
	case c == '"':
		return l.quoted(t)
	case c >= '0' && c <= '9':
		return l.number(t)
	case c == ':' || nameStart(c):
		return l.name(t)
	default:
		r, _ := utf8.DecodeRuneInString(l.src[l.at:])
		return t, t.fault("unexpected character %q; strings stand between double quotes", r)
	}
	return t, nil
}

func nameStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (l *lexer) name(t token) (token, *Error) {
	t.kind = tokenName
	if l.src[l.at] == ':' {
		t.kind = tokenTag
		l.at++
	}
	start := l.at
	for l.at < len(l.src) && (nameStart(l.src[l.at]) || l.at > start && l.src[l.at] >= '0' && l.src[l.at] <= '9') {
		l.at++
	}
	if l.at == start {
		return t, t.fault("a name is missing behind the colon")
	}
	t.text = lower(l.src[start:l.at])
	if t.kind == tokenName && t.text == "text" && l.at < len(l.src) && l.src[l.at] == ':' {
		l.at++
		return l.multiLine(t)
	}
	return t, nil
}

// number reads a number with its unit: K, M and G are powers of 1,024 (RFC
// 5228, Section 2.4.1).
func (l *lexer) number(t token) (token, *Error) {
	t.kind = tokenNumber
	for l.at < len(l.src) && l.src[l.at] >= '0' && l.src[l.at] <= '9' {
		d := int64(l.src[l.at] - '0')
		if t.number > (math.MaxInt64-d)/10 {
			return t, t.fault("this number is too large")
		}
		t.number = t.number*10 + d
		l.at++
	}
	if l.at == len(l.src) || !nameStart(l.src[l.at]) {
		return t, nil
	}
	shift := map[byte]uint{'k': 10, 'm': 20, 'g': 30}[l.src[l.at]|0x20]
	if l.at++; shift == 0 || l.at < len(l.src) && nameStart(l.src[l.at]) {
		return t, t.fault("a number may have the unit K, M or G and no other")
	}
	if t.number > math.MaxInt64>>shift {
		return t, t.fault("this number is too large")
	}
	t.number <<= shift
	return t, nil
}

// quoted reads a quoted string: a backslash takes away the meaning of what
// follows it (RFC 5228, Section 2.4.2).
func (l *lexer) quoted(t token) (token, *Error) {
	t.kind = tokenString
	var b strings.Builder
	for l.at++; l.at < len(l.src); l.at++ {
		switch c := l.src[l.at]; c {
		case '"':
			l.at++
			t.text = b.String()
			return t, nil
		case '\\':
			if l.at++; l.at < len(l.src) {
				b.WriteByte(l.src[l.at])
			}
		default:
			b.WriteByte(c)
		}
		if l.at < len(l.src) && l.src[l.at] == '\n' {
			l.line, l.lineStart = l.line+1, l.at+1
		}
	}
	return t, t.fault(`this string has no end: a double quote (") is missing`)
}

// multiLine reads a "text:" string up to the line that is a single dot.
func (l *lexer) multiLine(t token) (token, *Error) {
	t.kind = tokenString
	for l.at < len(l.src) && (l.src[l.at] == ' ' || l.src[l.at] == '\t') {
		l.at++
	}
	if l.at < len(l.src) && l.src[l.at] == '#' {
		l.toLineEnd()
	}
	if rest := l.src[l.at:]; !strings.HasPrefix(rest, "\n") && !strings.HasPrefix(rest, "\r\n") {
		return t, t.fault(`the text of a "text:" string begins on the next line`)
	}
	l.toLineEnd()
	l.at++
	l.newline()
	var b strings.Builder
	for l.at < len(l.src) {
		start := l.at
		l.toLineEnd()
		line := strings.TrimSuffix(l.src[start:l.at], "\r")
		if l.at < len(l.src) {
			l.at++
			l.newline()
		}
		if line == "." {
			t.text = b.String()
			return t, nil
		}
		// Lines that begin with a dot have it doubled (RFC 5228, Section 2.4.2).
		if strings.HasPrefix(line, "..") {
			line = line[1:]
		}
		b.WriteString(line)
		b.WriteString("\r\n")
	}
	return t, t.fault(`this "text:" string has no end: a line with a single dot is missing`)
}

// lower turns ASCII letters to lower case and leaves all else alone.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = lowerByte(b[i])
			}
			return string(b)
		}
	}
	return s
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 0x20
		}
	}
	return string(b)
}

func lowerByte(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 0x20
	}
	return c
}
