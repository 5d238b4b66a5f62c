package order

import (
	"strings"

	"waypost/backend/mime"
)

// BaseSubject extracts the base subject of a Subject field (RFC 5256, Section 2.1), encoded
// words and all. reply tells that something was taken away that says reply or forward.
func BaseSubject(subject string) (base string, reply bool) {
	s := plainSubject(subject) // step 1
	for {
		before := s
		for { // step 2
			rest, was, ok := cutTrailer(s)
			if !ok {
				break
			}
			s, reply = rest, reply || was
		}
		for { // steps 3 to 5
			rest, was, ok := cutLeader(s)
			if !ok {
				rest, ok = cutBlobs(s)
			}
			if !ok {
				break
			}
			s, reply = rest, reply || was
		}
		if inner, ok := cutForward(s); ok { // step 6
			s, reply = inner, true
			continue
		}
		if s == before {
			return s, reply
		}
	}
}

// plainSubject decodes and makes one space of all white space.
func plainSubject(s string) string {
	odd := strings.Contains(s, "=?") || strings.Contains(s, "  ")
	for i := 0; i < len(s) && !odd; i++ {
		odd = s[i] < ' ' || s[i] >= 0x80
	}
	if !odd {
		return s
	}
	text := mime.Field{Value: s}.Text()
	var b strings.Builder
	space := false
	for _, r := range text {
		switch r {
		case ' ', '\t', '\r', '\n':
			if !space {
				b.WriteByte(' ')
			}
			space = true
		default:
			b.WriteRune(r)
			space = false
		}
	}
	return b.String()
}

// cutTrailer takes one subj-trailer away: "(fwd)" or a space; forward tells which.
func cutTrailer(s string) (rest string, forward, ok bool) {
	const fwd = "(fwd)"
	if n := len(s) - len(fwd); n >= 0 && strings.EqualFold(s[n:], fwd) {
		return s[:n], true, true
	}
	if strings.HasSuffix(s, " ") {
		return s[:len(s)-1], false, true
	}
	return s, false, false
}

// cutLeader takes one subj-leader away: (*subj-blob subj-refwd) or a space; reply tells
// which.
func cutLeader(s string) (rest string, reply, ok bool) {
	if strings.HasPrefix(s, " ") {
		return s[1:], false, true
	}
	rest = s
	for {
		after, is := blob(rest)
		if !is {
			break
		}
		rest = after
	}
	if rest, ok = refwd(rest); !ok {
		return s, false, false
	}
	return rest, true, true
}

// refwd takes subj-refwd: ("re" / ("fw" ["d"])) *WSP [subj-blob] ":".
func refwd(s string) (string, bool) {
	switch {
	case hasPrefixFold(s, "re"):
		s = s[2:]
	case hasPrefixFold(s, "fwd"):
		s = s[3:]
	case hasPrefixFold(s, "fw"):
		s = s[2:]
	default:
		return s, false
	}
	s = strings.TrimLeft(s, " ")
	if after, ok := blob(s); ok {
		s = after
	}
	return strings.CutPrefix(s, ":")
}

// blob takes subj-blob: "[" *BLOBCHAR "]" *WSP.
func blob(s string) (string, bool) {
	if !strings.HasPrefix(s, "[") {
		return s, false
	}
	end := strings.IndexAny(s[1:], "[]")
	if end < 0 || s[1+end] == '[' {
		return s, false
	}
	return strings.TrimLeft(s[end+2:], " "), true
}

// cutBlobs takes away blobs as long as something is left (step 4). All at once: behind them is no
// leader, or cutLeader would have taken them, and a subject may be nothing but thousands of
// them.
func cutBlobs(s string) (rest string, ok bool) {
	for {
		rest, is := blob(s)
		if !is || rest == "" {
			return s, ok
		}
		s, ok = rest, true
	}
}

// cutForward takes "[fwd:" and "]" away.
func cutForward(s string) (string, bool) {
	const head = "[fwd:"
	if !hasPrefixFold(s, head) || !strings.HasSuffix(s, "]") {
		return s, false
	}
	return s[len(head) : len(s)-1], true
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
