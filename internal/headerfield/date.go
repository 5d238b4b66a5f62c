package headerfield

import (
	"strings"
	"time"
)

// Date reads the value of a Date field (RFC 5322, Sections 3.3 and 4.3, and what is found in
// their place). It is false where no day or no time
// is to be found, and for a day or a time that there is not. The day's name is passed
// over, right or wrong. A zone that says nothing is +0000, as is one that is not there
// (RFC 5322, Section 4.3); the zone of the result has no name.
func Date(field string) (time.Time, bool) {
	if t, ok := usual(field); ok {
		return t, true
	}
	if t, err := time.Parse(time.RFC3339, strings.TrimSpace(field)); err == nil {
		_, offset := t.Zone()
		return t.In(zone(offset)), true
	}
	return odd(tokens(WithoutComments(field)))
}

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

// usual reads "Thu, 29 Aug 2002 15:36:58 +0200", with or without the day's name, and maybe
// a comment: what nearly all messages have, in a fraction of the time.
func usual(s string) (t time.Time, ok bool) {
	if len(s) > 5 && s[3] == ',' && s[4] == ' ' {
		s = s[5:]
	}
	if len(s) > 1 && s[1] == ' ' {
		s = "0" + s
	}
	const form = "99 Aaa 9999 99:99:99 +9999"
	if len(s) < len(form) || len(s) > len(form) && s[len(form)] != ' ' {
		return t, false
	}
	for i := range form {
		switch c := s[i]; form[i] {
		case '9':
			ok = isDigit(c)
		case 'A', 'a':
			ok = c >= 'A' && c <= 'z'
		case '+':
			ok = c == '+' || c == '-'
		default:
			ok = c == form[i]
		}
		if !ok {
			return t, false
		}
	}
	if rest := s[len(form):]; rest != "" && !(rest[1:] != "" && rest[1] == '(' && strings.IndexByte(rest, ')') == len(rest)-1) {
		return t, false
	}
	month := strings.Index(months, s[3:6])
	if month < 0 || month%3 != 0 {
		return t, false
	}
	two := func(at int) int { return int(s[at]-'0')*10 + int(s[at+1]-'0') }
	hours, minutes := two(22), two(24)
	if hours > 23 || minutes > 59 {
		return t, false
	}
	offset := hours*3600 + minutes*60
	if s[21] == '-' {
		offset = -offset
	}
	return moment{two(7)*100 + two(9), month/3 + 1, two(0), two(12), two(15), two(18)}.in(offset)
}

// moment is a date as it is written.
type moment struct{ year, month, day, hour, minute, second int }

// in is false for a moment that there is not. A leap second is the next one.
func (m moment) in(offset int) (time.Time, bool) {
	if m.hour > 23 || m.minute > 59 || m.second > 60 || m.year < 1 || m.year > 9999 {
		return time.Time{}, false
	}
	noon := time.Date(m.year, time.Month(m.month), m.day, 12, 0, 0, 0, time.UTC)
	if noon.Day() != m.day {
		return time.Time{}, false
	}
	t := time.Date(m.year, time.Month(m.month), m.day, m.hour, m.minute, m.second, 0, zone(offset))
	return t, t.Year() <= 9999
}

func zone(offset int) *time.Location {
	if offset == 0 {
		return time.UTC
	}
	return time.FixedZone("", offset)
}

// odd reads day, month and year in the order of RFC 5322 or of C's asctime, where the
// year comes last and a zone may stand before it.
func odd(words []string) (time.Time, bool) {
	var m moment
	if len(words) > 0 && monthOf(words[0]) == 0 && !isDigit(words[0][0]) {
		words = words[1:] // the day's name
	}
	if len(words) < 4 {
		return time.Time{}, false
	}
	day, month, rest := words[0], words[1], words[2:]
	if !isDigit(day[0]) {
		day, month = month, day
	}
	year, at := rest[0], rest[1]
	rest = rest[2:]
	if strings.Contains(year, ":") {
		at = year
		if _, ok := number(words[3], 4); !ok && len(rest) > 0 {
			words[3], rest[0] = rest[0], words[3]
		}
		year = words[3]
	}
	var okDay, okYear, okTime bool
	m.day, okDay = number(day, 2)
	m.month = monthOf(month)
	m.year, okYear = yearOf(year)
	okTime = m.clock(at)
	if !okDay || !okYear || !okTime || m.month == 0 {
		return time.Time{}, false
	}
	if len(rest) == 0 {
		return m.in(0)
	}
	return m.in(offsetOf(rest[0]))
}

// clock reads "15:36", "15:36:58" or "15:36:58.25".
func (m *moment) clock(s string) bool {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return false
	}
	var ok [3]bool
	m.hour, ok[0] = number(parts[0], 2)
	m.minute, ok[1] = number(parts[1], 2)
	ok[2] = true
	if len(parts) == 3 {
		seconds, _, _ := strings.Cut(parts[2], ".")
		m.second, ok[2] = number(seconds, 2)
	}
	return ok[0] && ok[1] && ok[2]
}

// yearOf reads a year of two and of three digits as RFC 5322, Section 4.3 has it.
func yearOf(s string) (int, bool) {
	n, ok := number(s, 4)
	switch {
	case !ok || len(s) < 2:
		return 0, false
	case len(s) == 2 && n < 50:
		return n + 2000, true
	case len(s) < 4:
		return n + 1900, true
	}
	return n, true
}

// monthOf is 1 to 12, also for a name that is written out; 0 for what is no month.
func monthOf(s string) int {
	if len(s) < 3 {
		return 0
	}
	for i := 0; i < len(months); i += 3 {
		if strings.EqualFold(s[:3], months[i:i+3]) {
			return i/3 + 1
		}
	}
	return 0
}

// offsets are the zones whose names mean something, in hours (RFC 5322, Section 4.3).
var offsets = map[string]int{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}

// offsetOf gives seconds east of Greenwich: of "+0200", "+02:00", "EST", "GMT+0200";
// of anything else 0.
func offsetOf(s string) int {
	if hours, ok := offsets[strings.ToUpper(s)]; ok {
		return hours * 3600
	}
	i := strings.IndexAny(s, "+-")
	if i < 0 {
		return 0
	}
	digits := strings.Replace(s[i+1:], ":", "", 1)
	n, ok := number(digits, 4)
	if !ok || len(digits) != 4 || n/100 > 23 || n%100 > 59 {
		return 0
	}
	offset := n/100*3600 + n%100*60
	if s[i] == '-' {
		return -offset
	}
	return offset
}

// number reads digits, at most so many.
func number(s string, digits int) (int, bool) {
	if s == "" || len(s) > digits {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// tokens are divided by white space and commas, and "2-Jan-2006" is three.
func tokens(s string) []string {
	words := strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == ',' })
	for i, w := range words {
		if day, rest, ok := strings.Cut(w, "-"); ok && isDigit(w[0]) {
			if month, year, ok := strings.Cut(rest, "-"); ok && monthOf(month) > 0 && day != "" && year != "" {
				return append(append(words[:i:i], day, month, year), words[i+1:]...)
			}
		}
	}
	return words
}
