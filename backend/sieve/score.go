package sieve

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Score says how to read the verdict of a spam or virus filter from a header
// field that the filter writes. Fields of the same name that came from outside
// must have been taken out before.
type Score struct {
	// Header names the field; its first occurrence counts.
	Header string
	// Pattern finds the score in the field: its first group, or all it matches.
	// Nil takes the field's first word.
	Pattern *regexp.Regexp
	// Words give scores to words ("Yes": 10); they go before numbers. Keys are in
	// lower case.
	Words map[string]float64
	// Stars counts characters: "*****" is 5.
	Stars bool
	// Max is the score that is certainly spam, or a virus for certain.
	Max float64
}

// read gives the part of Max, 0 to 1; ok is false if nothing was tested.
func (s *Score) read(h *Header) (part float64, ok bool) {
	if s == nil || s.Max <= 0 {
		return 0, false
	}
	value := h.first(s.Header)
	if s.Pattern != nil {
		found := s.Pattern.FindStringSubmatch(cut(value, 4096))
		if found == nil {
			return 0, false
		}
		value = found[min(1, len(found)-1)]
	} else if words := strings.Fields(value); len(words) > 0 {
		value = words[0]
	}
	if value == "" {
		return 0, false
	}
	score, known := s.Words[lower(value)]
	if !known {
		if s.Stars {
			score = float64(len(value))
		} else if n, err := strconv.ParseFloat(value, 64); err == nil && !math.IsNaN(n) {
			score = n
		} else {
			return 0, false
		}
	}
	return min(max(score/s.Max, 0), 1), true
}

// scoreTest is spamtest and virustest (RFC 5235).
type scoreTest struct {
	virus, percent bool
	match          *matcher
}

func compileScore(c *compiler, b *call) (check, *Error) {
	t := &scoreTest{virus: b.name == "virustest", percent: b.tagged("percent")}
	var err *Error
	t.match, err = c.matcher(b, b.pos[0])
	return t, err
}

func (t *scoreTest) eval(m *machine) (bool, error) {
	from, scale := m.env.Spam, 9.0
	if t.virus {
		from, scale = m.env.Virus, 4
	}
	part, tested := from.read(m.current)
	value := 0
	switch {
	case tested && t.percent:
		value = int(part * 100)
	case tested: // 1 is clear; 0 means that nothing was tested
		value = 1 + int(part*scale)
	}
	count := 0
	if tested {
		count = 1
	}
	return t.match.test(m, []string{strconv.Itoa(value)}, count)
}
