package sieve

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"waypost/internal/headerfield"
)

// dateTest is "date" and "currentdate" (RFC 5260, Sections 4 and 5).
type dateTest struct {
	current  bool
	header   text
	index    index
	zone     *text // nil for the user's
	original bool
	part     text
	match    *matcher
}

func compileDate(c *compiler, b *call) (check, *Error) {
	t := &dateTest{current: b.name == "currentdate", original: b.tagged("originalzone")}
	if _, err := b.oneOf("zone", "originalzone"); err != nil {
		return nil, err
	}
	args := b.pos
	var err *Error
	if !t.current {
		names, err := c.fieldNames(arg{position: args[0].position, list: args[0].list})
		if err != nil {
			return nil, err
		}
		t.header = names.items[0]
		args = args[1:]
	}
	if t.index, err = compileIndex(b); err != nil {
		return nil, err
	}
	if t.zone, err = c.optionalString(b, "zone"); err != nil {
		return nil, err
	}
	if t.zone != nil && t.zone.isConstant() {
		if _, ok := parseZone(t.zone.constant); !ok {
			return nil, b.tags["zone"][0].fault(`%q is no time zone: write an offset such as "+0100"`, t.zone.constant)
		}
	}
	if t.part, err = c.string(args[0]); err != nil {
		return nil, err
	}
	if _, ok := datePart(t.part.constant, time.Time{}); t.part.isConstant() && !ok {
		return nil, args[0].fault("%q is no part of a date", t.part.constant)
	}
	t.match, err = c.matcher(b, args[1])
	return t, err
}

func (t *dateTest) eval(m *machine) (bool, error) {
	when, ok, err := t.when(m)
	if err != nil {
		return false, err
	}
	var values []string
	if ok {
		name, err := t.part.value(m)
		if err != nil {
			return false, err
		}
		v, ok := datePart(name, when)
		if !ok {
			return false, nil
		}
		values = []string{v}
	}
	return t.match.test(m, values, len(values))
}

// when gives the time that is tested, in the zone that is asked for.
func (t *dateTest) when(m *machine) (time.Time, bool, error) {
	when := m.env.Now
	if !t.current {
		name, err := t.header.value(m)
		if err != nil {
			return when, false, err
		}
		one := t.index
		one.number = max(one.number, 1) // the first field unless told otherwise
		values := one.pick(m.header(lower(name)))
		if len(values) == 0 {
			return when, false, nil
		}
		var ok bool
		if when, ok = parseDate(values[0]); !ok {
			return when, false, nil
		}
	}
	if t.original {
		return when, true, nil
	}
	if t.zone == nil {
		return when.In(m.env.Zone), true, nil
	}
	s, err := t.zone.value(m)
	if err != nil {
		return when, false, err
	}
	zone, ok := parseZone(s)
	if !ok {
		return when, false, fmt.Errorf("%q is no time zone", cut(s, 20))
	}
	return when.In(zone), true, nil
}

// parseDate reads a date that is the whole of a field, or stands behind its
// last semicolon.
func parseDate(s string) (time.Time, bool) {
	if i := strings.LastIndexByte(s, ';'); i >= 0 {
		s = s[i+1:]
	}
	return headerfield.Date(s)
}

// parseZone reads "+hhmm" or "-hhmm".
func parseZone(s string) (*time.Location, bool) {
	if len(s) != 5 || s[0] != '+' && s[0] != '-' || !isNumber(s[1:]) {
		return nil, false
	}
	n, _ := strconv.Atoi(s[1:])
	offset := n/100*3600 + n%100*60
	if n/100 > 23 || n%100 > 59 {
		return nil, false
	}
	if s[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset), true
}

// julianEpoch is day 0 of the Modified Julian Day, in days before 1970.
const julianEpoch = 40587

// dateLayouts are the parts that are a layout of package time.
var dateLayouts = map[string]string{
	"year": "2006", "month": "01", "day": "02", "date": "2006-01-02", "hour": "15", "minute": "04",
	"second": "05", "time": "15:04:05", "iso8601": "2006-01-02T15:04:05Z07:00",
	"std11": "Mon, 02 Jan 2006 15:04:05 -0700", "zone": "-0700",
}

// datePart gives a part of a date (RFC 5260, Section 4.2).
func datePart(name string, t time.Time) (string, bool) {
	name = lower(name)
	if layout, ok := dateLayouts[name]; ok {
		return t.Format(layout), true
	}
	switch name {
	case "weekday":
		return strconv.Itoa(int(t.Weekday())), true
	case "julian":
		// Days are counted in the zone asked for, as the sample routines of
		// RFC 5260, Appendix A do with the day, month and year.
		noon := time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, time.UTC)
		return strconv.FormatInt(floorDiv(noon.Unix(), 86400)+julianEpoch, 10), true
	}
	return "", false
}

func floorDiv(a, b int64) int64 {
	if q := a / b; a%b >= 0 {
		return q
	} else {
		return q - 1
	}
}
