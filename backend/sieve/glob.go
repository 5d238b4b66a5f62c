package sieve

import "unicode/utf8"

// glob is a ":matches" pattern (RFC 5228, Section 2.7.1): the literal runs and
// question marks between stars.
type glob struct {
	// segments are what stands between the stars: one more than there are stars.
	segments [][]unit
	cmp      comparator
}

// unit is one character of a pattern: a folded character, or any.
type unit struct {
	text string
	any  bool
}

// character gives the length of the first character of s, which is an octet
// unless the comparator knows Unicode (RFC 5228, Section 2.7.1).
func (c comparator) character(s string) int {
	if c != unicasemap {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}

func compileGlob(pattern string, cmp comparator) *glob {
	g := &glob{cmp: cmp}
	var segment []unit
	for len(pattern) > 0 {
		n := cmp.character(pattern)
		switch {
		case pattern[0] == '*':
			g.segments = append(g.segments, segment)
			segment = nil
		case pattern[0] == '?':
			segment = append(segment, unit{any: true})
		default:
			if pattern[0] == '\\' && len(pattern) > 1 {
				pattern = pattern[1:]
				n = cmp.character(pattern)
			}
			segment = append(segment, unit{text: cmp.key(pattern[:n])})
		}
		pattern = pattern[n:]
	}
	g.segments = append(g.segments, segment)
	return g
}

// match matches the whole of s. With captures it also gives what each wildcard
// stands for, as little as possible for each from the left (RFC 5229, Section
// 3.2). work counts characters compared; the match is given up beyond budget,
// as it can take the product of both lengths.
//
// Putting each segment at the first place it fits is enough: were there a match
// at all, there is one with every segment but the last as far left as it goes.
func (g *glob) match(s string, captures bool, budget int) (ok bool, found []string, work int) {
	m := &globMatch{glob: g, s: s, captures: captures, budget: budget}
	ok = m.run()
	return ok, m.found, m.work
}

type globMatch struct {
	*glob
	s        string
	captures bool
	found    []string
	work     int
	budget   int
}

func (m *globMatch) run() bool {
	last := len(m.segments) - 1
	at, ok := m.fit(m.segments[0], 0)
	if !ok {
		return false
	}
	m.note(m.segments[0], 0)
	for i := 1; i <= last; i++ {
		var from, end int
		if i == last {
			from, end, ok = m.fitEnd(m.segments[i], at)
		} else {
			from, end, ok = m.find(m.segments[i], at)
		}
		if !ok {
			return false
		}
		if m.captures {
			m.found = append(m.found, m.s[at:from])
		}
		m.note(m.segments[i], from)
		at = end
	}
	return at == len(m.s)
}

// note notes what the question marks of a segment at a place stand for.
func (m *globMatch) note(segment []unit, at int) {
	if !m.captures {
		return
	}
	for _, u := range segment {
		n := m.cmp.character(m.s[at:])
		if u.any {
			m.found = append(m.found, m.s[at:at+n])
		}
		at += n
	}
}

// fit matches a segment at a place and gives where it ends.
func (m *globMatch) fit(segment []unit, at int) (end int, ok bool) {
	for _, u := range segment {
		m.work++
		if at >= len(m.s) {
			return 0, false
		}
		n := 1
		switch m.cmp {
		case casemap:
			if !u.any && lowerByte(m.s[at]) != u.text[0] {
				return 0, false
			}
		case unicasemap:
			n = m.cmp.character(m.s[at:])
			if !u.any && m.cmp.key(m.s[at:at+n]) != u.text {
				return 0, false
			}
		default:
			if !u.any && m.s[at] != u.text[0] {
				return 0, false
			}
		}
		at += n
	}
	return at, true
}

// find finds the first place from at on where a segment fits.
func (m *globMatch) find(segment []unit, at int) (from, end int, ok bool) {
	for from = at; ; from += m.cmp.character(m.s[from:]) {
		if end, ok = m.fit(segment, from); ok {
			return from, end, true
		}
		if from >= len(m.s) || m.work > m.budget {
			return 0, 0, false
		}
	}
}

// fitEnd fits the last segment to the end of the text.
func (m *globMatch) fitEnd(segment []unit, at int) (from, end int, ok bool) {
	from = len(m.s)
	for range segment {
		if from <= at {
			return 0, 0, false
		}
		n := 1
		if m.cmp == unicasemap {
			_, n = utf8.DecodeLastRuneInString(m.s[:from])
		}
		from -= n
	}
	if from < at {
		return 0, 0, false
	}
	end, ok = m.fit(segment, from)
	return from, end, ok && end == len(m.s)
}
