package sieve

import (
	"fmt"
	"strconv"

	"waypost/backend/sieve/regex"
)

type matchKind byte

const (
	matchIs matchKind = iota
	matchContains
	matchMatches
	matchRegex
	matchCount
	matchValue
	matchList
)

// matcher compares values with keys by a match type and a comparator (RFC
// 5228, Section 2.7; RFC 5231; RFC 6134).
type matcher struct {
	kind     matchKind
	relation string
	cmp      comparator
	keys     texts
	ready    []matchKey // the keys, if they are constant
	captures bool       // set match variables
}

// matchKey is a key, made ready for its match type.
type matchKey struct {
	text string
	glob *glob
	re   *regex.Regex
}

// matcher compiles the match type, comparator and keys of a test.
func (c *compiler) matcher(b *call, keys arg) (*matcher, *Error) {
	m := &matcher{}
	name, err := b.oneOf("is", "contains", "matches", "regex", "count", "value", "list")
	if err != nil {
		return nil, err
	}
	m.kind = map[string]matchKind{"contains": matchContains, "matches": matchMatches, "regex": matchRegex,
		"count": matchCount, "value": matchValue, "list": matchList}[name]
	if m.kind == matchCount || m.kind == matchValue {
		if m.relation, err = c.choice(b.tags[name][0], "the relation", "gt", "ge", "lt", "le", "eq", "ne"); err != nil {
			return nil, err
		}
	}
	if b.tagged("comparator") {
		if m.cmp, err = c.comparator(b.tags["comparator"][0]); err != nil {
			return nil, err
		}
	}
	if m.cmp == numeric && (m.kind == matchContains || m.kind == matchMatches || m.kind == matchRegex) {
		return nil, b.fault("the comparator i;ascii-numeric compares whole numbers; :%s needs another", name)
	}
	m.captures = c.has("variables") && (m.kind == matchMatches || m.kind == matchRegex) && b.name != "body"
	if m.keys, err = c.strings(keys); err != nil {
		return nil, err
	}
	return m, c.prepare(m, keys)
}

func (c *compiler) comparator(a arg) (comparator, *Error) {
	names, err := c.constants(a, "the comparator")
	if err != nil {
		return 0, err
	}
	cmp, ok := comparators[names[0]]
	if !ok {
		return 0, a.missing("the comparator %q is not known", names[0])
	}
	if cmp == numeric || cmp == unicasemap {
		return cmp, c.need(a.position, "the comparator "+names[0], "comparator-"+names[0])
	}
	return cmp, nil
}

func (c *compiler) prepare(m *matcher, keys arg) *Error {
	if m.keys.constants == nil {
		return nil
	}
	for i, s := range m.keys.constants {
		k, err := m.key(s, c.limits)
		if err != nil {
			return keys.list[i].fault("%v", err)
		}
		m.ready = append(m.ready, k)
	}
	return nil
}

func (t *matcher) key(s string, limits Limits) (k matchKey, err error) {
	switch t.kind {
	case matchMatches:
		k.glob = compileGlob(s, t.cmp)
	case matchRegex:
		if len(s) > limits.RegexBytes {
			return k, limitError("a regular expression has more than %d bytes", limits.RegexBytes)
		}
		k.re, err = regex.Compile(s, t.cmp != octet, limits.RegexSize)
		if err != nil {
			err = fmt.Errorf("regular expression %q: %w", s, err)
		}
	case matchList:
		k.text = s
	default:
		k.text = t.cmp.key(s)
	}
	return k, err
}

// test compares a test's values; count is what ":count" compares.
func (t *matcher) test(m *machine, values []string, count int) (bool, error) {
	if t.kind == matchCount {
		values = []string{strconv.Itoa(count)}
	}
	keys := t.ready
	if t.keys.constants == nil && len(values) > 0 {
		list, err := t.keys.values(m)
		if err != nil {
			return false, err
		}
		keys = make([]matchKey, len(list))
		for i, s := range list {
			if err := m.work(1 + len(s)/8); err != nil {
				return false, err
			}
			if keys[i], err = t.key(s, m.limits); err != nil {
				return false, err
			}
		}
	}
	for _, v := range values {
		for i := range keys {
			if ok, err := t.one(m, v, &keys[i]); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// globWork is how many characters a glob compares in one step.
const globWork = 16

func (t *matcher) one(m *machine, value string, k *matchKey) (bool, error) {
	if err := m.work(1 + len(value)/64); err != nil {
		return false, err
	}
	switch t.kind {
	case matchIs:
		return t.cmp.equal(value, k.text), nil
	case matchContains:
		return t.cmp.contains(value, k.text), nil
	case matchMatches:
		ok, found, work := k.glob.match(value, t.captures, m.left()*globWork)
		if ok && t.captures {
			m.setMatches(value, found)
		}
		return ok, m.work(work / globWork)
	case matchRegex:
		return t.regex(m, value, k.re)
	case matchList:
		return m.inList(k.text, value)
	}
	return holds(t.relation, t.cmp.order(value, k.text)), nil
}

func (t *matcher) regex(m *machine, value string, re *regex.Regex) (bool, error) {
	// Its time is in proportion to this, whatever the pattern.
	if err := m.work(re.Size() * len(value) / 32); err != nil {
		return false, err
	}
	if !t.captures {
		return re.Match(value), nil
	}
	groups := re.Groups(value)
	if groups == nil {
		return false, nil
	}
	m.setMatches(groups[0], groups[1:])
	return true, nil
}

// holds reads a relation of RFC 5231, Section 4.1.
func holds(relation string, order int) bool {
	switch relation {
	case "gt":
		return order > 0
	case "ge":
		return order >= 0
	case "lt":
		return order < 0
	case "le":
		return order <= 0
	case "eq":
		return order == 0
	}
	return order != 0
}
