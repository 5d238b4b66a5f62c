package thread

import "strings"

// IDs gives the message ids of a field, References or In-Reply-To (RFC 5256, Section 3; RFC
// 5322, Section 3.6.4), without brackets, normalised: what is quoted without need is not quoted
// and there is no white space. What is not "<left@right>" is passed over.
func IDs(field string) []string {
	var ids []string
	for {
		_, rest, ok := strings.Cut(field, "<")
		if !ok {
			return ids
		}
		id, after := one(rest)
		field = after
		if id != "" {
			ids = append(ids, id)
		}
	}
}

// ID gives the id of a Message-ID field, or "".
func ID(field string) string {
	if ids := IDs(field); len(ids) > 0 {
		return ids[0]
	}
	return ""
}

// plain: there is nothing to be normalised.
func plain(id string) bool {
	for i := range len(id) {
		switch id[i] {
		case '\\', '"', '<', ' ', '\t', '\r', '\n':
			return false
		}
	}
	return true
}

// one reads an id up to its '>'; another '<' before that begins anew.
func one(s string) (id, rest string) {
	if end := strings.IndexByte(s, '>'); end > 2 && strings.IndexByte(s[1:end], '@') >= 0 && plain(s[:end]) {
		return s[:end], s[end+1:]
	}
	var b strings.Builder
	quoted, at := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '"':
			quoted = !quoted
		case quoted:
			b.WriteByte(c)
		case c == '<':
			return "", s[i:]
		case c == '>':
			if !at || b.Len() < 3 {
				return "", s[i+1:]
			}
			return b.String(), s[i+1:]
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		default:
			at = at || c == '@' && b.Len() > 0
			b.WriteByte(c)
		}
	}
	return "", ""
}
