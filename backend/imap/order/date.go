package order

import (
	"slices"
	"strings"
	"time"

	"waypost/internal/headerfield"
)

// Sent reads a Date field for the sent date (RFC 5256, Section 2.2): a time that says nothing
// is midnight. Zero if there is no date, or one before 1900 (RFC 5322, Section 3.3): the
// internal date stands for it then.
func Sent(field string) time.Time {
	t, ok := headerfield.Date(field)
	if !ok {
		t = withoutTime(field)
	}
	if t.Year() < 1900 {
		return time.Time{}
	}
	return t
}

func withoutTime(field string) time.Time {
	words := strings.Fields(field)
	if i := slices.IndexFunc(words, func(w string) bool { return strings.Contains(w, ":") }); i >= 0 {
		words = words[:i]
	}
	t, _ := headerfield.Date(strings.Join(words, " ") + " 00:00:00 +0000")
	return t
}
