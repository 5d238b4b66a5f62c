package uidlist

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// maxNext leaves room to notice in time that the UIDs are used up.
const maxNext = math.MaxUint32 - 1<<20

// maxLine bounds a line in bytes: no file name is that long.
const maxLine = 32 << 10

// Entry is one line.
type Entry struct {
	UID uint32
	// Fields are the line's extension fields, as they stand there, separated by
	// one space: "W123 Pabc". They are kept.
	Fields string
	// Base is the file name up to its flags.
	Base string
}

// Field gives the value of the extension field with the letter key.
func (e Entry) Field(key byte) (value string, ok bool) {
	for f := range strings.FieldsSeq(e.Fields) {
		if f[0] == key {
			return f[1:], true
		}
	}
	return "", false
}

// Header is the first line.
type Header struct {
	// Validity is the folder's UIDVALIDITY, Next its UIDNEXT.
	Validity, Next uint32
	// GUID is the folder's, 32 hexadecimal digits; may be empty.
	GUID string
	// Other holds header fields that this package does not know.
	Other []string
}

// Parsed is what Parse found.
type Parsed struct {
	Header  Header
	Entries []Entry
	// Size is the number of bytes up to the end of the last line that counts,
	// Lines how many lines with UIDs there are up to it.
	Size  int64
	Lines int
	// Salvaged: behind Size there is something, which a crash has damaged and
	// which does not count.
	Salvaged bool
}

// Parse reads a whole file. From the first line on that a crash has damaged, by
// cutting it short or leaving zeros in it, lines do not count, but Header.Next is
// above each UID that is legible there. Anything else that is wrong is
// ErrCorrupt, with as much of the Header as could be read.
func Parse(r io.Reader) (Parsed, error) {
	p := Parsed{}
	var text strings.Builder
	if l, ok := r.(interface{ Len() int }); ok {
		text.Grow(l.Len())
	}
	_, failed := io.Copy(&text, r)
	lines := &lineReader{text.String(), failed}
	first, _, err := lines.next()
	if err != nil {
		return p, errors.Join(ErrCorrupt, notEOF(err))
	}
	if err := p.Header.parse(first); err != nil {
		return p, err
	}
	p.Size = int64(len(first)) + 1
	top, err := p.parseEntries(lines)
	if err != nil {
		return p, err
	}
	if top >= p.Header.Next {
		p.Header.Next = top + 1
	}
	if p.Header.Next == 0 || p.Header.Next > maxNext {
		return p, fmt.Errorf("next UID %d: %w", p.Header.Next, ErrCorrupt)
	}
	return p, nil
}

// parseEntries gives the highest UID it has seen.
func (p *Parsed) parseEntries(lines *lineReader) (top uint32, err error) {
	const shortest = 40 // a line as those of Maildirs are: more room is made for shorter ones
	p.Entries = make([]Entry, 0, len(lines.rest)/shortest)
	at := newPlaces(cap(p.Entries))
	for {
		line, damaged, err := lines.next()
		if err != nil {
			p.Entries = withoutEmpty(p.Entries, at.n)
			return top, notEOF(err)
		}
		e, ok := parseLine(line)
		switch {
		case damaged || p.Salvaged:
			p.Salvaged = true
			if ok && !damaged {
				top = max(top, e.UID)
			}
			continue
		case !ok || e.UID <= top:
			return top, fmt.Errorf("line %.300q: %w", line, ErrCorrupt)
		}
		top = e.UID
		p.Entries = append(p.Entries, e)
		if old := at.add(p.Entries, len(p.Entries)-1); old >= 0 {
			p.Entries[old].Base = ""
		}
		p.Lines++
		p.Size += int64(len(line)) + 1
	}
}

func withoutEmpty(entries []Entry, want int) []Entry {
	if len(entries) == want {
		return entries
	}
	kept := entries[:0]
	for _, e := range entries {
		if e.Base != "" {
			kept = append(kept, e)
		}
	}
	return kept
}

func notEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("read uidlist: %w", err)
}

// lineReader gives the lines of rest, then the error with which reading it ended, or io.EOF.
type lineReader struct {
	rest   string
	failed error
}

// next gives a line without its end. It is damaged if it has zeros, which no
// program writes, or no end.
func (r *lineReader) next() (line string, damaged bool, err error) {
	end := strings.IndexByte(r.rest, '\n')
	switch {
	case r.rest == "" || end < 0 && r.failed != nil:
		return "", false, cmp.Or(r.failed, io.EOF)
	case end < 0:
		line, r.rest, damaged = r.rest, "", true
	default:
		line, r.rest = r.rest[:end], r.rest[end+1:]
	}
	damaged = damaged || strings.IndexByte(line, 0) >= 0
	if len(line) >= maxLine {
		line = line[:maxLine]
		if strings.IndexByte(line, 0) < 0 {
			return "", false, fmt.Errorf("line too long: %w", ErrCorrupt)
		}
	}
	return line, damaged, nil
}

func (h *Header) parse(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	if version != "3" {
		return fmt.Errorf("header %.300q: %w", line, ErrCorrupt)
	}
	for f := range strings.FieldsSeq(rest) {
		var err error
		switch f[0] {
		case 'V':
			h.Validity, err = number(f[1:])
		case 'N':
			h.Next, err = number(f[1:])
		case 'G':
			h.GUID = f[1:]
		default:
			h.Other = append(h.Other, f)
		}
		if err != nil {
			return fmt.Errorf("header %.300q: %w", line, ErrCorrupt)
		}
	}
	if h.Validity == 0 || h.Next == 0 || strings.Contains(line, "\x00") {
		return fmt.Errorf("header %.300q: %w", line, ErrCorrupt)
	}
	return nil
}

func (h *Header) line() []byte {
	b := fmt.Appendf(nil, "3 V%d N%d", h.Validity, h.Next)
	if h.GUID != "" {
		b = append(b, " G"+h.GUID...)
	}
	for _, f := range h.Other {
		b = append(append(b, ' '), f...)
	}
	return append(b, '\n')
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func parseLine(line string) (Entry, bool) {
	front, base, found := strings.Cut(line, ":")
	digits, fields, spaced := strings.Cut(front, " ")
	uid, err := number(digits)
	if !found || !spaced || err != nil || uid == 0 {
		return Entry{}, false
	}
	// Old versions of Dovecot wrote the flags as well.
	base, _, _ = strings.Cut(base, ":")
	e := Entry{UID: uid, Base: base}
	if fields = strings.TrimSpace(fields); fields != "" {
		e.Fields = strings.Clone(fields) // outlives the rest of the file
	}
	return e, e.legible()
}

// legible tells whether e, written as a line, is read as e.
func (e Entry) legible() bool {
	return e.Base != "" && !strings.ContainsAny(e.Base, "\x00/\n:") && !strings.ContainsAny(e.Fields, "\x00\n:") &&
		len(e.Base)+len(e.Fields) < maxLine-64
}

func (e Entry) appendLine(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(e.UID), 10)
	b = append(b, ' ')
	if e.Fields != "" {
		b = append(append(b, e.Fields...), ' ')
	}
	b = append(b, ':')
	b = append(b, e.Base...)
	return append(b, '\n')
}
