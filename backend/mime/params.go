package mime

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// continued are the pieces of one parameter (RFC 2231, Section 3).
type continued struct {
	name     string
	values   map[int]string
	extended map[int]bool // pieces in percent encoding
	last     int
}

// joinParams puts the pieces of parameters together (RFC 2231, Section 3). One with a piece
// in percent encoding (Section 4) becomes one whose name ends with '*', all of it in that
// encoding. Joined parameters come behind the others, by name. Where a piece is missing they
// stay as they are.
func joinParams(params []string) []string {
	var out []string
	var joined []*continued
	for i := 0; i < len(params); i += 2 {
		name, number, ext, ok := splitName(params[i])
		if !ok {
			out = append(out, params[i], params[i+1])
			continue
		}
		at := slices.IndexFunc(joined, func(c *continued) bool { return strings.EqualFold(c.name, name) })
		if at < 0 {
			at = len(joined)
			joined = append(joined, &continued{name: name, values: map[int]string{}, extended: map[int]bool{}})
		}
		c := joined[at]
		if _, had := c.values[number]; had {
			continue
		}
		c.values[number], c.last = params[i+1], max(c.last, number)
		c.extended[number] = ext
	}
	slices.SortStableFunc(joined, func(a, b *continued) int { return strings.Compare(a.name, b.name) })
	for _, c := range joined {
		out = c.join(out)
	}
	return out
}

// splitName takes "name*3*" apart.
func splitName(s string) (name string, number int, extended, ok bool) {
	name, rest, ok := strings.Cut(s, "*")
	if !ok || rest == "" {
		return "", 0, false, false
	}
	digits, extended := strings.CutSuffix(rest, "*")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n >= maxParams || len(digits) > 1 && digits[0] == '0' {
		return "", 0, false, false
	}
	return name, int(n), extended, true
}

// join appends what the pieces are together.
func (c *continued) join(out []string) []string {
	extended := false
	for _, x := range c.extended {
		extended = extended || x
	}
	if len(c.values) <= c.last {
		for _, n := range slices.Sorted(maps.Keys(c.values)) {
			name := c.name + "*" + strconv.Itoa(n)
			if c.extended[n] {
				name += "*"
			}
			out = append(out, name, c.values[n])
		}
		return out
	}
	var b strings.Builder
	if extended && !c.extended[0] {
		b.WriteString("''")
	}
	for i := range len(c.values) {
		if v := c.values[i]; extended && !c.extended[i] {
			// Decoding percents must give it back.
			b.WriteString(strings.ReplaceAll(v, "%", "%25"))
		} else {
			b.WriteString(v)
		}
	}
	if extended {
		return append(out, c.name+"*", b.String())
	}
	return append(out, c.name, b.String())
}
