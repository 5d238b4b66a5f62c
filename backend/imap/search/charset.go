package search

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"

	"waypost/backend/imap/syntax"
)

// Charsets are those that BADCHARSET tells of (RFC 9051, Section 7.1); more are known.
func Charsets() []string {
	return []string{"US-ASCII", "UTF-8", "ISO-8859-1", "ISO-8859-15", "ISO-8859-2", "WINDOWS-1252", "KOI8-R", "ISO-2022-JP", "SHIFT_JIS", "EUC-JP", "GB18030", "BIG5", "EUC-KR"}
}

// Code is the response code.
func (e *CharsetError) Code() string { return "BADCHARSET (" + strings.Join(Charsets(), " ") + ")" }

// charset gives what makes UTF-8 of a command's strings.
func charset(name string) (func(string) (string, error), error) {
	switch strings.ToUpper(name) {
	case "US-ASCII", "ASCII", "ANSI_X3.4-1968", "UTF-8", "UTF8":
		return utf8Only, nil
	}
	enc, err := htmlindex.Get(name)
	if err != nil || enc == encoding.Replacement {
		return nil, &CharsetError{name}
	}
	return func(s string) (string, error) {
		out, err := enc.NewDecoder().String(s)
		if err != nil {
			return "", errCharset()
		}
		return out, nil
	}, nil
}

// utf8Only is for ASCII as well: clients that name no charset send UTF-8 (RFC 9051,
// Section 6.4.4 makes it the default).
func utf8Only(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errCharset()
	}
	return s, nil
}

func errCharset() error { return syntax.Syntax("a string that is not in the command's character set") }
