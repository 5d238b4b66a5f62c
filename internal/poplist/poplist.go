// Package poplist is the extended POP3 listing: one line for each message with
// what a list of messages shows. It owns the format (docs/pop3-listing.md), both
// ways, and how a header's fields become its texts, so that a server that takes
// them from an index and a client that reads the headers itself show the same.
// It does no I/O, keeps nothing, and is safe for concurrent use.
//
// RFCs: 1939 (lines), 2047 (encoded words), 3339 (dates), 5322 (fields), 9051
// (flags).
package poplist

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Capability announces the command in CAPA; its argument is the version.
const Capability = "X-WAYPOST-LISTING 1"

// Command is the keyword: four letters, as RFC 1939, Section 3, wants them.
const Command = "XLST"

// MaxLine bounds a line with its CRLF; Append makes none that is longer.
const MaxLine = 8192

// Bounds of the fields in bytes before they are encoded, so that a line fits:
// longer texts are cut off at a character, flags and UIDLs that do not fit are
// left out.
const (
	maxText  = 600
	maxFlags = 1000
	maxUIDL  = 255
)

// ErrLine is a line that is none of a listing.
var ErrLine = errors.New("malformed line of a listing")

// Entry is one message.
type Entry struct {
	// Number is the message's number in the session, Size its octets.
	Number int   `json:"number"`
	Size   int64 `json:"size_bytes"`
	// UIDL is its unique id.
	UIDL string `json:"uidl"`
	// Flags are IMAP's, system flags with their backslash.
	Flags []string `json:"flags"`
	// Date is that of the Date field in UTC, zero where there is none to read.
	Date time.Time `json:"date,omitzero"`
	// From is the first author, "Name <address>" or the address alone; Subject
	// the subject: decoded, on one line, at most 600 bytes. From is what the
	// message says; where its field cannot be parsed it is the decoded field.
	From    string `json:"from"`
	Subject string `json:"subject"`
	// Attachment: the message has a part to be saved.
	Attachment bool `json:"attachment"`
}

// Append adds an entry's line, with its CRLF.
func Append(dst []byte, e *Entry) []byte {
	dst = strconv.AppendInt(dst, int64(e.Number), 10)
	dst = append(dst, '\t')
	dst = strconv.AppendInt(dst, e.Size, 10)
	dst = append(dst, '\t')
	if len(e.UIDL) <= maxUIDL {
		dst = escape(dst, e.UIDL)
	}
	dst = append(dst, '\t')
	dst = appendFlags(dst, e.Flags)
	dst = append(dst, '\t')
	if !e.Date.IsZero() {
		dst = e.Date.UTC().AppendFormat(dst, time.RFC3339)
	}
	dst = append(dst, '\t')
	dst = escape(dst, cut(e.From))
	dst = append(dst, '\t')
	dst = escape(dst, cut(e.Subject))
	dst = append(dst, '\t', '0', '\r', '\n')
	if e.Attachment {
		dst[len(dst)-3] = '1'
	}
	return dst
}

func appendFlags(dst []byte, flags []string) []byte {
	start, used := len(dst), 0
	for _, f := range flags {
		if used += len(f) + 1; used > maxFlags || f == "" || strings.ContainsRune(f, ' ') {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		dst = escape(dst, f)
	}
	return dst
}

const hex = "0123456789ABCDEF"

// escape writes %XX for what could end a field or a line or rule a terminal, for
// the percent sign, and for bytes that are no UTF-8.
func escape(dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f || c == '%' {
				dst = append(dst, '%', hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r < 0xa0 {
			for _, b := range []byte(s[i : i+n]) {
				dst = append(dst, '%', hex[b>>4], hex[b&15])
			}
		} else {
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return dst
}

// Parse reads a line, without its line end and with its byte-stuffing undone.
// Texts are one line each, whatever the other side has put into them. Fields
// behind the eighth are a later version's and are passed over.
func Parse(line string) (Entry, error) {
	bad := func(what string) (Entry, error) { return Entry{}, fmt.Errorf("%w: %s", ErrLine, what) }
	if len(line) > MaxLine {
		return bad("too long")
	}
	f := strings.SplitN(line, "\t", 9)
	if len(f) < 8 {
		return bad("too few fields")
	}
	var e Entry
	number, err := strconv.ParseUint(f[0], 10, 31)
	if err != nil || number == 0 {
		return bad("number")
	}
	size, err := strconv.ParseUint(f[1], 10, 63)
	if err != nil {
		return bad("size")
	}
	e.Number, e.Size = int(number), int64(size)
	if e.UIDL, err = unescape(f[2]); err != nil || len(e.UIDL) > maxUIDL || !printable(e.UIDL) {
		return bad("uidl")
	}
	e.Flags = []string{}
	for flag := range strings.FieldsSeq(f[3]) {
		if flag, err = unescape(flag); err != nil || !printable(flag) {
			return bad("flags")
		}
		e.Flags = append(e.Flags, flag)
	}
	if f[4] != "" {
		if e.Date, err = time.Parse(time.RFC3339, f[4]); err != nil {
			return bad("date")
		}
		e.Date = e.Date.UTC()
	}
	if e.From, err = unescape(f[5]); err != nil {
		return bad("from")
	}
	if e.Subject, err = unescape(f[6]); err != nil {
		return bad("subject")
	}
	e.From, e.Subject = cut(oneLine(e.From)), cut(oneLine(e.Subject))
	switch f[7] {
	case "0":
	case "1":
		e.Attachment = true
	default:
		return bad("attachment")
	}
	return e, nil
}

// printable: ASCII without spaces.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", ErrLine
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", ErrLine
		}
		out = append(out, byte(n))
		i += 2
	}
	return string(out), nil
}

// cut shortens a text to what a field holds, at a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	i := maxText
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i]
}
