// Package keywords is the file dovecot-keywords of a Maildir folder: lines of
// "<index> <keyword>" that give the letters a to z in file names a meaning.
// It does no I/O. A Table is not safe for concurrent use.
package keywords

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Max is how many keywords a folder can have: there are no more letters.
const Max = 26

// MaxLength bounds one keyword in bytes.
const MaxLength = 128

// ErrTooMany: all letters of the folder are in use.
var ErrTooMany = errors.New("too many keywords in this folder")

// ErrBadKeyword: not an atom of RFC 9051, Section 9 (flag-keyword).
var ErrBadKeyword = errors.New("not a keyword")

// Table is the meaning of the letters. The zero value is an empty one.
type Table struct{ names [Max]string }

// Parse reads the file. Lines it cannot read are left out; bad counts them.
func Parse(data []byte) (t Table, bad int) {
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		digits, word, _ := strings.Cut(line, " ")
		i, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || i >= Max || Valid(word) != nil || t.names[i] != "" || t.index(word) >= 0 {
			bad++
			continue
		}
		t.names[i] = word
	}
	return t, bad
}

// Format writes the file.
func (t *Table) Format() []byte {
	var b []byte
	for i, word := range t.names {
		if word != "" {
			b = fmt.Appendf(b, "%d %s\n", i, word)
		}
	}
	return b
}

// Valid takes atoms (RFC 9051, Section 9) without the leading backslash of
// system flags.
func Valid(word string) error {
	if word == "" || len(word) > MaxLength {
		return fmt.Errorf("keyword %q: %w", word, ErrBadKeyword)
	}
	for i := range len(word) {
		if c := word[i]; c <= 0x20 || c >= 0x7f || strings.IndexByte(`(){%*"\]`, c) >= 0 {
			return fmt.Errorf("keyword %q: %w", word, ErrBadKeyword)
		}
	}
	return nil
}

func (t *Table) index(word string) int {
	for i, have := range t.names {
		if have != "" && strings.EqualFold(have, word) {
			return i
		}
	}
	return -1
}

// Letter is the letter of word, whatever its case; 0 if it has none.
func (t *Table) Letter(word string) byte {
	if i := t.index(word); i >= 0 {
		return byte('a' + i)
	}
	return 0
}

// Word is the meaning of letter; "" if it has none.
func (t *Table) Word(letter byte) string {
	if letter < 'a' || letter > 'z' {
		return ""
	}
	return t.names[letter-'a']
}

// Add gives word a letter and reports whether the table changed. inUse tells
// whether some message carries a letter: one without a meaning is not
// given to another word as long as messages carry it, and a word that
// no message carries makes room when the table is full.
func (t *Table) Add(word string, inUse func(letter byte) bool) (letter byte, changed bool, err error) {
	if err := Valid(word); err != nil {
		return 0, false, err
	}
	if i := t.index(word); i >= 0 {
		return byte('a' + i), false, nil
	}
	free := -1
	for i, have := range t.names {
		if inUse(byte('a' + i)) {
			continue
		}
		if have == "" {
			free = i
			break
		}
		if free < 0 {
			free = i
		}
	}
	if free < 0 {
		return 0, false, fmt.Errorf("keyword %q: %w", word, ErrTooMany)
	}
	t.names[free] = word
	return byte('a' + free), true, nil
}
