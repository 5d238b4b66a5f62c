package sieve

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// text is a string of a script: constant, or with variables to be put in.
type text struct {
	constant string
	parts    []part // nil for a constant
}

// part is a constant (source none) or a reference.
type part struct {
	constant string
	ref      variable
}

type source byte

const (
	none source = iota
	local
	global
	matched
)

// variable is where a variable's value is kept: a slot of the script, a name
// in the run's global space, or a number of the match variables.
type variable struct {
	source source
	slot   int
	name   string
}

func (t *text) isConstant() bool { return t.parts == nil }

// value puts the variables in (RFC 5229, Section 3).
func (t *text) value(m *machine) (string, error) {
	if t.parts == nil {
		return t.constant, nil
	}
	var b strings.Builder
	for i := range t.parts {
		p := &t.parts[i]
		s := p.constant
		if p.ref.source != none {
			s = m.get(p.ref)
		}
		if b.Len()+len(s) > m.limits.StringBytes {
			return "", limitError("a string with its variables has more than %d bytes", m.limits.StringBytes)
		}
		b.WriteString(s)
	}
	return b.String(), m.work(b.Len() / 64)
}

// texts is a string list; constants are kept ready.
type texts struct {
	items     []text
	constants []string // set if all items are constants
}

func (t *texts) values(m *machine) ([]string, error) {
	if t.constants != nil || len(t.items) == 0 {
		return t.constants, nil
	}
	out := make([]string, len(t.items))
	for i := range t.items {
		s, err := t.items[i].value(m)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

func makeTexts(items []text) texts {
	t := texts{items: items}
	for i := range items {
		if !items[i].isConstant() {
			return t
		}
	}
	t.constants = make([]string, len(items))
	for i := range items {
		t.constants[i] = items[i].constant
	}
	return t
}

// matchVariables is how many match variables there are beside ${0}.
const matchVariables = 31

// text compiles a string as it is written.
func (c *compiler) text(at position, s string) (text, *Error) {
	if c.has("encoded-character") {
		var err *Error
		if s, err = encodedCharacters(at, s); err != nil {
			return text{}, err
		}
	}
	if !c.has("variables") || !strings.Contains(s, "${") {
		return text{constant: s}, nil
	}
	var parts []part
	constant := ""
	for s != "" {
		i := strings.Index(s, "${")
		if i < 0 {
			break
		}
		constant += s[:i]
		name, rest, ok := reference(s[i:])
		if !ok { // not a reference: it stays as it is
			constant += "${"
			s = s[i+2:]
			continue
		}
		ref, err := c.variable(at, name)
		if err != nil {
			return text{}, err
		}
		parts = append(parts, part{constant: constant}, part{ref: ref})
		constant, s = "", rest
	}
	constant += s
	if parts == nil {
		return text{constant: constant}, nil
	}
	return text{parts: append(parts, part{constant: constant})}, nil
}

// reference reads "${name}" at the start of s.
func reference(s string) (name, rest string, ok bool) {
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return "", "", false
	}
	name = lower(s[2:end])
	rest = s[end+1:]
	if isNumber(name) {
		return name, rest, true
	}
	for word := range strings.SplitSeq(name, ".") {
		if !isIdentifier(word) {
			return "", "", false
		}
	}
	return name, rest, true
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func isIdentifier(s string) bool {
	for i := range len(s) {
		if !nameStart(s[i]) && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// variable finds where a variable is kept; name is in lower case.
func (c *compiler) variable(at position, name string) (variable, *Error) {
	if isNumber(name) {
		n, err := strconv.Atoi(strings.TrimLeft(name[:len(name)-1], "0") + name[len(name)-1:])
		if err != nil || n > matchVariables {
			return variable{}, at.fault("there is no match variable ${%s}: they go up to ${%d}", name, matchVariables)
		}
		return variable{source: matched, slot: n}, nil
	}
	if space, rest, ok := strings.Cut(name, "."); ok {
		if space != "global" || !c.has("include") || !isIdentifier(rest) {
			return variable{}, at.fault("the variable ${%s} is in a namespace that is not known here", name)
		}
		return variable{source: global, name: rest}, nil
	}
	if c.globals[name] {
		return variable{source: global, name: name}, nil
	}
	slot, ok := c.slots[name]
	if !ok {
		if len(c.slots) >= c.limits.Variables {
			return variable{}, at.fault("the script has more than %d variables", c.limits.Variables)
		}
		slot = len(c.slots)
		c.slots[name] = slot
	}
	return variable{source: local, slot: slot}, nil
}

// encodedCharacters replaces ${hex:...} and ${unicode:...} (RFC 5228, Section
// 2.4.2.4).
func encodedCharacters(at position, s string) (string, *Error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		b.WriteString(s[:i])
		s = s[i:]
		end := strings.IndexByte(s, '}')
		kind, digits, _ := strings.Cut(s[2:max(end, 2)], ":")
		out, ok, err := encoded(at, lower(kind), digits)
		if err != nil {
			return "", err
		}
		if !ok {
			b.WriteString("${")
			s = s[2:]
			continue
		}
		b.WriteString(out)
		s = s[end+1:]
	}
}

func encoded(at position, kind, digits string) (out string, ok bool, err *Error) {
	numbers := strings.Fields(digits)
	if kind != "hex" && kind != "unicode" || len(numbers) == 0 {
		return "", false, nil
	}
	var b strings.Builder
	for _, d := range numbers {
		n, convErr := strconv.ParseUint(d, 16, 64)
		switch {
		case convErr != nil || d[0] == '+' || d[0] == '-':
			return "", false, nil
		case kind == "hex" && len(d) > 2:
			return "", false, nil
		case kind == "hex":
			b.WriteByte(byte(n))
		case n > utf8.MaxRune || !utf8.ValidRune(rune(n)):
			return "", false, at.fault("${unicode:%s} is no Unicode character", d)
		default:
			b.WriteRune(rune(n))
		}
	}
	return b.String(), true, nil
}

// cut shortens s to at most n bytes, at a character's boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
