package archive

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

var fromMark = []byte("From ")

// parseFrom takes a line that may separate two messages of an mbox: "From ", an
// address, which may be missing, and the date of asctime, with or without seconds and
// a zone, one as in a header, or one of RFC 3339. false for what has no plausible date.
func parseFrom(line []byte) (date time.Time, ok bool) {
	rest, ok := bytes.CutPrefix(line, fromMark)
	if !ok || len(rest) > maxFrom {
		return date, false
	}
	words := strings.Fields(string(rest))
	for i, w := range words {
		if t, err := time.Parse(time.RFC3339, w); err == nil {
			return t, true
		}
		if h, m, s, ok := clock(w); ok && i >= 1 {
			if day, err := time.Parse(time.DateOnly, words[i-1]); err == nil {
				return time.Date(day.Year(), day.Month(), day.Day(), h, m, s, 0, time.UTC), true
			}
		}
		if h, m, s, ok := clock(w); ok && i >= 2 {
			if year, month, day, zone, ok := around(words, i); ok {
				return time.Date(year, month, day, h, m, s, 0, zone), true
			}
		}
	}
	return date, false
}

// maxFrom bounds a From_ line in bytes.
const maxFrom = 1000

// clock takes "15:04", "15:04:05" and "15.04.05".
func clock(w string) (h, m, s int, ok bool) {
	parts := strings.Split(w, ":")
	if strings.Count(w, ".") == 2 {
		parts = strings.Split(w, ".")
	}
	if len(parts) < 2 || len(parts) > 3 {
		return 0, 0, 0, false
	}
	var n [3]int
	for i, p := range parts {
		if n[i], ok = digits(p, 2, [3]int{23, 59, 60}[i]); !ok {
			return 0, 0, 0, false
		}
	}
	return n[0], n[1], n[2], true
}

// digits takes a number of at most so many digits, up to most.
func digits(w string, length, most int) (n int, ok bool) {
	if w == "" || len(w) > length || strings.Trim(w, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(w)
	return n, err == nil && n <= most
}

// around takes the date around the time of day at i: "Jan 3 15:04 [zone] 1996
// [zone]", or "3 Jan 1996 15:04 [zone]".
func around(words []string, i int) (year int, month time.Month, day int, zone *time.Location, ok bool) {
	zone = time.UTC
	word := func(at int) string {
		if at < 0 || at >= len(words) {
			return ""
		}
		return strings.Trim(words[at], ",")
	}
	if month, ok = monthOf(word(i - 2)); ok {
		if day, ok = digits(word(i-1), 2, 31); ok && day > 0 {
			for at := i + 1; at <= i+2; at++ {
				if year, ok = yearOf(word(at)); ok {
					zone = zoneOf(word(i+1), zone)
					return year, month, day, zoneOf(word(at+1), zone), true
				}
			}
		}
	}
	if month, ok = monthOf(word(i - 2)); !ok {
		return 0, 0, 0, nil, false
	}
	if day, ok = digits(word(i-3), 2, 31); !ok || day == 0 {
		return 0, 0, 0, nil, false
	}
	year, ok = yearOf(word(i - 1))
	return year, month, day, zoneOf(word(i+1), zone), ok
}

// yearOf takes a year of four figures, or of two.
func yearOf(w string) (int, bool) {
	n, ok := digits(w, 4, 9999)
	if len(w) == 2 && n < 70 {
		n += 2000
	} else if len(w) == 2 {
		n += 1900
	}
	return n, ok && n >= 1970
}

func monthOf(w string) (time.Month, bool) {
	if len(w) != 3 {
		return 0, false
	}
	i := strings.Index("janfebmaraprmayjunjulaugsepoctnovdec", strings.ToLower(w))
	return time.Month(i/3 + 1), i >= 0 && i%3 == 0
}

// zoneOf takes "+0100"; names of zones are not to be relied on.
func zoneOf(w string, otherwise *time.Location) *time.Location {
	if len(w) != 5 || w[0] != '+' && w[0] != '-' {
		return otherwise
	}
	h, okH := digits(w[1:3], 2, 14)
	m, okM := digits(w[3:], 2, 59)
	if !okH || !okM {
		return otherwise
	}
	offset := h*3600 + m*60
	if w[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset)
}

// fromShape is what separators have in common where they have no date that anybody knows.
type fromShape struct {
	words   int
	address bool
}

func shapeOf(line []byte) fromShape {
	words := strings.Fields(string(line[:min(len(line), maxFrom)]))
	return fromShape{len(words), len(words) > 1 && strings.Contains(words[1], "@")}
}
