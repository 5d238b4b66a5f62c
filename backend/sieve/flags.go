package sieve

import (
	"slices"
	"strings"
)

// maxFlags bounds a set of flags.
const maxFlags = 64

// flagWords gives the flags in strings that may list several each; what IMAP
// does not let clients set is left out (RFC 5232, Section 2).
func flagWords(values []string) []string {
	var out []string
	for _, v := range values {
		for _, f := range strings.Fields(v) {
			if validFlag(f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// validFlag follows RFC 9051's flag and flag-keyword; \Recent is the server's.
func validFlag(f string) bool {
	name, system := strings.CutPrefix(f, `\`)
	if name == "" || len(f) > 100 {
		return false
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\]`, c) >= 0 {
			return false
		}
	}
	return !system || slices.Contains([]string{"answered", "flagged", "deleted", "seen", "draft"}, lower(name))
}

// addFlags adds flags to a set: each is there once, whatever its case.
func (m *machine) addFlags(set, values []string) ([]string, error) {
	out := slices.Clone(set)
	for _, f := range flagWords(values) {
		if err := m.work(1 + len(out)/8); err != nil {
			return nil, err
		}
		if !hasFlag(out, f) && len(out) < maxFlags {
			out = append(out, f)
		}
	}
	return out, nil
}

func hasFlag(set []string, flag string) bool {
	return slices.ContainsFunc(set, func(f string) bool { return equalFold(f, flag) })
}

func (m *machine) flagsNow() []string { return slices.Clone(m.flags) }

// flagVariable is a variable that holds flags; source none is the internal one.
func (c *compiler) flagVariable(a arg) (variable, *Error) {
	if err := c.need(a.position, "the name of a variable here", "variables"); err != nil {
		return variable{}, err
	}
	return c.settable(a)
}

func (m *machine) flagsIn(v variable) []string {
	if v.source == none {
		return m.flags
	}
	return flagWords([]string{m.get(v)})
}

// flagsOp is setflag, addflag and removeflag.
type flagsOp struct {
	how   string
	where variable
	list  texts
}

func compileFlags(c *compiler, b *call) (op, *Error) {
	o := &flagsOp{how: b.name}
	list := b.pos[len(b.pos)-1]
	var err *Error
	if len(b.pos) == 2 {
		if o.where, err = c.flagVariable(b.pos[0]); err != nil {
			return nil, err
		}
	}
	o.list, err = c.strings(list)
	return o, err
}

func (o *flagsOp) do(m *machine) error {
	values, err := o.list.values(m)
	if err != nil {
		return err
	}
	set := m.flagsIn(o.where)
	switch o.how {
	case "setflag":
		set, err = m.addFlags(nil, values)
	case "addflag":
		set, err = m.addFlags(set, values)
	case "removeflag":
		gone := flagWords(values)
		if err := m.work(1 + len(gone)); err != nil {
			return err
		}
		set = slices.DeleteFunc(slices.Clone(set), func(f string) bool { return hasFlag(gone, f) })
	}
	if err != nil {
		return err
	}
	if o.where.source == none {
		m.flags = set
		return nil
	}
	return m.set(o.where, strings.Join(set, " "))
}

// hasFlagTest is "hasflag" (RFC 5232, Section 4).
type hasFlagTest struct {
	where []variable // none for the internal variable
	match *matcher
}

func compileHasFlag(c *compiler, b *call) (check, *Error) {
	t := &hasFlagTest{where: []variable{{}}}
	list := b.pos[len(b.pos)-1]
	if len(b.pos) == 2 {
		t.where = nil
		for _, name := range b.pos[0].list {
			v, err := c.flagVariable(arg{position: name.position, kind: argString, text: name.text, list: []token{name}})
			if err != nil {
				return nil, err
			}
			t.where = append(t.where, v)
		}
	}
	// A key may list several flags: "a b" is the same as ["a", "b"].
	var words []token
	for _, k := range list.list {
		if k.text == "" || strings.Contains(k.text, "${") {
			words = append(words, k)
			continue
		}
		for _, w := range strings.Fields(k.text) {
			words = append(words, token{position: k.position, kind: tokenString, text: w})
		}
	}
	list.list = words
	var err *Error
	t.match, err = c.matcher(b, list)
	return t, err
}

func (t *hasFlagTest) eval(m *machine) (bool, error) {
	var values []string
	for _, v := range t.where {
		set, err := m.addFlags(nil, m.flagsIn(v))
		if err != nil {
			return false, err
		}
		values = append(values, set...)
	}
	return t.match.test(m, values, len(values))
}
