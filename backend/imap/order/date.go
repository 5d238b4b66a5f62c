package order

import (
	"strings"
	"time"

	"waypost/backend/mime"
)

// Sent reads a Date field for the sent date (RFC 5256, Section 2.2): with a zone that says
// nothing it is UTC, with a time that says nothing it is midnight. Zero if there is no date, or
// one before 1900 (RFC 5322, Section 3.3): the internal date stands for it then.
func Sent(field string) time.Time {
	t, ok := usual(field)
	if !ok {
		t = mime.ParseDate(field)
	}
	if t.IsZero() {
		t = withoutZone(field)
	}
	if t.Year() < 1900 {
		return time.Time{}
	}
	return t
}

func withoutZone(field string) time.Time {
	words := strings.Fields(field)
	for i, w := range words {
		if !strings.Contains(w, ":") || i < 3 {
			continue
		}
		if t := mime.ParseDate(strings.Join(words[:i+1], " ") + " +0000"); !t.IsZero() {
			return t
		}
		return mime.ParseDate(strings.Join(words[:i], " ") + " 00:00:00 +0000")
	}
	return time.Time{}
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
			ok = c >= '0' && c <= '9'
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
	two := func(at int) int { return int(s[at]-'0')*10 + int(s[at+1]-'0') }
	day, month, year := two(0), strings.Index(months, s[3:6]), two(7)*100+two(9)
	hour, minute, second := two(12), two(15), two(18)
	zone := two(22)*3600 + two(24)*60
	if month < 0 || month%3 != 0 || hour > 23 || minute > 59 || second > 59 || two(24) > 59 || two(22) > 14 {
		return t, false
	}
	if s[21] == '-' {
		zone = -zone
	}
	t = time.Date(year, time.Month(month/3+1), day, hour, minute, second, 0, time.FixedZone("", zone))
	return t, t.Day() == day
}
