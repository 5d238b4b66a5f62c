package syntax

import (
	"strconv"
	"strings"
	"time"
)

// Range is a run of numbers as written: Start may be above Stop, and 0 is '*'.
type Range struct{ Start, Stop uint32 }

// Set is a sequence-set (RFC 9051, Section 9). Saved: it is "$", the result of the last
// search that was to be saved (RFC 5182).
type Set struct {
	Saved  bool
	Ranges []Range
}

// MaxRanges bounds a Set.
const MaxRanges = 16384

// Set takes a sequence-set.
func (p *Parser) Set() (Set, error) {
	if p.Take('$') {
		return Set{Saved: true}, nil
	}
	var s Set
	for {
		r, err := p.rng()
		if err != nil {
			return Set{}, err
		}
		if len(s.Ranges) == MaxRanges {
			return Set{}, Syntax("too many numbers in a set")
		}
		s.Ranges = append(s.Ranges, r)
		if !p.Take(',') {
			return s, nil
		}
	}
}

func (p *Parser) rng() (Range, error) {
	a, err := p.star()
	if err != nil {
		return Range{}, err
	}
	if !p.Take(':') {
		return Range{a, a}, nil
	}
	b, err := p.star()
	return Range{a, b}, err
}

func (p *Parser) star() (uint32, error) {
	if p.Take('*') {
		return 0, nil
	}
	n, err := p.Number()
	if err == nil && n == 0 {
		err = Syntax("0 is not a message's number")
	}
	return n, err
}

// Flag takes a flag: "\Seen", or a keyword.
func (p *Parser) Flag() (string, error) {
	start := p.pos
	p.Take('\\')
	if len(p.while(&atomChars)) == 0 {
		return "", Syntax("expected a flag")
	}
	return string(p.line[start:p.pos]), nil
}

// Flags takes a parenthesised list of flags, which may be empty.
func (p *Parser) Flags() ([]string, error) {
	flags := []string{}
	err := p.List(true, func() error {
		f, err := p.Flag()
		flags = append(flags, f)
		return err
	})
	return flags, err
}

// Date takes a date of a search: 1-Feb-1994, quoted or not. The time is its
// midnight in UTC; the date is what counts.
func (p *Parser) Date() (time.Time, error) {
	quoted := p.Take('"')
	text := string(p.while(&atomChars))
	if quoted && !p.Take('"') {
		return time.Time{}, Syntax("invalid date")
	}
	t, err := time.Parse("2-Jan-2006", canonicalMonth(text))
	if err != nil {
		return time.Time{}, Syntax("invalid date")
	}
	return t, nil
}

// DateTime takes APPEND's date-time: "01-Feb-1994 12:00:00 +0100".
func (p *Parser) DateTime() (time.Time, error) {
	s, err := p.quotedOnly()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse("_2-Jan-2006 15:04:05 -0700", canonicalMonth(s))
	if err != nil {
		return time.Time{}, Syntax("invalid date")
	}
	return t, nil
}

func (p *Parser) quotedOnly() (string, error) {
	if p.Peek() != '"' {
		return "", Syntax("expected a quoted string")
	}
	return p.quoted()
}

// canonicalMonth writes the month of "01-FEB-1994 ..." as time.Parse wants it.
func canonicalMonth(s string) string {
	day, rest, ok := strings.Cut(s, "-")
	month, rest, more := strings.Cut(rest, "-")
	if !ok || !more || len(month) != 3 {
		return s
	}
	return day + "-" + strings.ToUpper(month[:1]) + strings.ToLower(month[1:]) + "-" + rest
}

// Rest takes what is left of the line as it is.
func (p *Parser) Rest() string {
	s := string(p.line[p.pos:])
	p.pos = len(p.line)
	return s
}

// FormatRanges writes a set of numbers, which is not empty.
func FormatRanges(all []Range) string {
	var b []byte
	for i, r := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.Start), 10)
		if r.Stop != r.Start {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(r.Stop), 10)
		}
	}
	return string(b)
}
