package sieve

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"waypost/backend/sieve/regex"
)

// errStop and errReturn end scripts; they are no failures.
var (
	errStop   = errors.New("stop")
	errReturn = errors.New("return")
)

type branch struct {
	line int
	test check // nil for else
	body []statement
}

type ifOp struct{ branches []branch }

func (o *ifOp) do(m *machine) error {
	for i := range o.branches {
		b := &o.branches[i]
		if b.test == nil {
			return m.block(b.body)
		}
		ok, err := b.test.eval(m)
		if err != nil {
			return m.at(b.line, err)
		}
		if ok {
			return m.block(b.body)
		}
	}
	return nil
}

type stopOp struct{ with error }

func (o stopOp) do(*machine) error { return o.with }

func compileStop(*compiler, *call) (op, *Error)   { return stopOp{errStop}, nil }
func compileReturn(*compiler, *call) (op, *Error) { return stopOp{errReturn}, nil }

// failOp fails when it is run: what "ihave" put off.
type failOp struct{ text string }

func (o *failOp) do(*machine) error           { return errors.New(o.text) }
func (o *failOp) eval(*machine) (bool, error) { return false, errors.New(o.text) }

type errorOp struct{ message text }

func compileError(c *compiler, b *call) (op, *Error) {
	t, err := c.string(b.pos[0])
	return &errorOp{t}, err
}

func (o *errorOp) do(m *machine) error {
	s, err := o.message.value(m)
	if err != nil {
		return err
	}
	return fmt.Errorf("the script says: %s", cut(s, 1000))
}

// includeOp runs another script in the place where it stands (RFC 6609).
type includeOp struct {
	location       IncludeLocation
	name           string
	once, optional bool
}

func compileInclude(c *compiler, b *call) (op, *Error) {
	where, err := b.oneOf("personal", "global")
	if err != nil {
		return nil, err
	}
	names, err := c.constants(b.pos[0], "the name of an included script")
	if err != nil {
		return nil, err
	}
	o := &includeOp{name: names[0], once: b.tagged("once"), optional: b.tagged("optional")}
	if where == "global" {
		o.location = IncludeGlobal
	}
	if !ValidScriptName(o.name) {
		return nil, b.pos[0].fault("%q is not allowed as the name of a script", o.name)
	}
	return o, nil
}

// ValidScriptName follows RFC 5804, Section 1.6: 1 to 128 characters, none of
// them a control or a line separator. It also refuses what could name another
// folder: slashes, and a dot in front.
func ValidScriptName(name string) bool {
	n := utf8.RuneCountInString(name)
	if n == 0 || n > 128 || !utf8.ValidString(name) || name[0] == '.' {
		return false
	}
	for _, r := range name {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == '/' || r == '\\' {
			return false
		}
	}
	return true
}

func (o *includeOp) do(m *machine) error {
	key := o.location.String() + ":" + o.name
	if o.once && (m.included[key] || slices.Contains(m.open, key)) {
		return nil
	}
	switch {
	case slices.Contains(m.open, key):
		return fmt.Errorf("script %q includes itself", o.name)
	case len(m.open) >= m.limits.IncludeDepth:
		return limitError("scripts include each other more than %d deep", m.limits.IncludeDepth)
	case m.includes >= m.limits.Includes:
		return limitError("more than %d scripts are included", m.limits.Includes)
	case m.env.Include == nil:
		return fmt.Errorf("include %q: scripts cannot be included here", o.name)
	}
	m.includes++
	script, err := m.env.Include(m.ctx, o.location, o.name)
	if errors.Is(err, fs.ErrNotExist) && o.optional {
		return nil
	}
	if err != nil {
		return fmt.Errorf("include %q: %w", o.name, err)
	}
	m.included[key] = true
	m.open = append(m.open, key)
	err = m.call(script)
	m.open = m.open[:len(m.open)-1]
	if errors.Is(err, errReturn) {
		return nil
	}
	return err
}

// compileGlobal makes names mean the run's shared variables (RFC 6609, Section
// 3.4.1).
func compileGlobal(c *compiler, b *call) (op, *Error) {
	if err := c.need(b.position, "global", "variables"); err != nil {
		return nil, err
	}
	names, err := c.constants(b.pos[0], "the name of a global variable")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		n = lower(n)
		if !isIdentifier(n) {
			return nil, b.pos[0].fault("%q is no name for a variable", n)
		}
		if c.isSet[n] {
			return nil, b.pos[0].fault("the variable %q was set before it is declared global", n)
		}
		if c.globals[n] = true; len(c.globals) > c.limits.Variables {
			return nil, b.fault("the script has more than %d global variables", c.limits.Variables)
		}
	}
	return nil, nil
}

// setOp is "set" (RFC 5229, Section 4).
type setOp struct {
	name      variable
	value     text
	modifiers []string
}

// modifierRanks lists the modifiers of each precedence, those applied first
// first (RFC 5229, Section 4.1; RFC 5435, Section 6; draft-ietf-sieve-regex).
var modifierRanks = [][]string{
	{"lower", "upper"}, {"lowerfirst", "upperfirst"}, {"quotewildcard", "quoteregex"}, {"encodeurl"}, {"length"},
}

func compileSet(c *compiler, b *call) (op, *Error) {
	o := &setOp{}
	var err *Error
	if o.name, err = c.settable(b.pos[0]); err != nil {
		return nil, err
	}
	if o.value, err = c.string(b.pos[1]); err != nil {
		return nil, err
	}
	for _, rank := range modifierRanks {
		name, err := b.oneOf(rank...)
		if err != nil {
			return nil, err
		}
		if name != "" {
			o.modifiers = append(o.modifiers, name)
		}
	}
	return o, nil
}

// settable reads the constant name of a variable that is written to.
func (c *compiler) settable(a arg) (variable, *Error) {
	names, err := c.constants(a, "the name of a variable")
	if err != nil {
		return variable{}, err
	}
	name := lower(names[0])
	if isNumber(name) {
		return variable{}, a.fault("match variables such as ${%s} cannot be set", name)
	}
	for word := range strings.SplitSeq(name, ".") {
		if !isIdentifier(word) || len(name) > 256 {
			return variable{}, a.fault("%q is no name for a variable", name)
		}
	}
	if !c.globals[name] {
		c.isSet[name] = true
	}
	return c.variable(a.position, name)
}

func (o *setOp) do(m *machine) error {
	s, err := o.value.value(m)
	if err != nil {
		return err
	}
	s = cut(s, m.limits.VariableBytes)
	for _, name := range o.modifiers {
		s = modify(name, s)
	}
	return m.set(o.name, s)
}

func modify(name, s string) string {
	switch name {
	case "lower":
		return lower(s)
	case "upper":
		return upper(s)
	case "lowerfirst":
		if s != "" {
			return lower(s[:1]) + s[1:]
		}
	case "upperfirst":
		if s != "" {
			return upper(s[:1]) + s[1:]
		}
	case "quotewildcard":
		return strings.NewReplacer("*", `\*`, "?", `\?`, `\`, `\\`).Replace(s)
	case "quoteregex":
		return regex.Quote(s)
	case "encodeurl":
		return encodeURL(s)
	case "length":
		return strconv.Itoa(utf8.RuneCountInString(s))
	}
	return s
}

// encodeURL percent-encodes all but unreserved characters (RFC 3986, Section
// 2.3).
func encodeURL(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
