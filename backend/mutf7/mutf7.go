// Package mutf7 is the modified UTF-7 of RFC 3501, Section 5.1.3, in which
// folder names stand on the disk. It is pure and safe for concurrent use.
package mutf7

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrInvalid: the text is not what Encode writes.
var ErrInvalid = errors.New("not modified UTF-7")

// codec is the BASE64 of RFC 3501, Section 5.1.3: "," instead of "/", no padding.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,"

func codec() *base64.Encoding {
	return base64.NewEncoding(alphabet).WithPadding(base64.NoPadding)
}

func printable(r rune) bool { return r >= 0x20 && r <= 0x7e }

// Encode writes s, which must be valid UTF-8.
func Encode(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", ErrInvalid
	}
	var b strings.Builder
	for s != "" {
		end := strings.IndexFunc(s, func(r rune) bool { return !printable(r) })
		if end < 0 {
			end = len(s)
		}
		b.WriteString(strings.ReplaceAll(s[:end], "&", "&-"))
		s = s[end:]
		end = strings.IndexFunc(s, printable)
		if end < 0 {
			end = len(s)
		}
		if end > 0 {
			b.WriteByte('&')
			b.WriteString(shifted(s[:end]))
			b.WriteByte('-')
		}
		s = s[end:]
	}
	return b.String(), nil
}

func shifted(s string) string {
	var raw []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		raw = append(raw, byte(unit>>8), byte(unit))
	}
	return codec().EncodeToString(raw)
}

// Decode reads what Encode writes, and refuses every other spelling, so that
// a name has one form on the disk only.
func Decode(s string) (string, error) {
	var b strings.Builder
	for rest := s; rest != ""; {
		before, after, found := strings.Cut(rest, "&")
		b.WriteString(before)
		if !found {
			break
		}
		chunk, tail, closed := strings.Cut(after, "-")
		if !closed {
			return "", ErrInvalid
		}
		text, err := unshift(chunk)
		if err != nil {
			return "", err
		}
		b.WriteString(text)
		rest = tail
	}
	// One comparison catches 8-bit text, needless shifts, broken surrogates
	// and stray bits at once.
	if again, err := Encode(b.String()); err != nil || again != s {
		return "", ErrInvalid
	}
	return b.String(), nil
}

func unshift(chunk string) (string, error) {
	if chunk == "" {
		return "&", nil
	}
	raw, err := codec().DecodeString(chunk)
	if err != nil || len(raw)%2 != 0 {
		return "", ErrInvalid
	}
	units := make([]uint16, 0, len(raw)/2)
	for i := 0; i < len(raw); i += 2 {
		units = append(units, uint16(raw[i])<<8|uint16(raw[i+1]))
	}
	return string(utf16.Decode(units)), nil
}
