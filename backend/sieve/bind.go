package sieve

import (
	"slices"
	"strings"
)

// tagSpec is a tagged argument: the extension it belongs to, and what follows.
type tagSpec struct {
	extension string
	params    []argKind
}

// spec says what arguments a command or a test takes.
type spec struct {
	tags map[string]tagSpec
	// match, part and index stand for the tags of match types and comparators,
	// address parts, and the index extension.
	match, part, index bool
	// args are the positional arguments; fewer than all may be given, down to
	// least, those at the end left out, or those in front (front).
	args  []argKind
	least int
	front bool
	// tests: none, one, or a list of them.
	tests testCount
	block bool
}

type testCount byte

const (
	noTests testCount = iota
	oneTest
	someTests
)

var (
	matchTags = map[string]tagSpec{
		"is": {}, "contains": {}, "matches": {}, "regex": {extension: "regex"}, "list": {extension: "extlists"},
		"count": {"relational", []argKind{argString}}, "value": {"relational", []argKind{argString}},
		"comparator": {"", []argKind{argString}},
	}
	partTags = map[string]tagSpec{
		"all": {}, "localpart": {}, "domain": {}, "user": {extension: "subaddress"}, "detail": {extension: "subaddress"},
	}
	indexTags = map[string]tagSpec{"index": {"index", []argKind{argNumber}}, "last": {extension: "index"}}
)

func (s *spec) tag(name string) (tagSpec, bool) {
	for _, from := range []struct {
		on   bool
		tags map[string]tagSpec
	}{{true, s.tags}, {s.match, matchTags}, {s.part, partTags}, {s.index, indexTags}} {
		if t, ok := from.tags[name]; from.on && ok {
			return t, true
		}
	}
	return tagSpec{}, false
}

// call is a command or a test with its arguments told apart.
type call struct {
	*node
	tags map[string][]arg
	pos  []arg
}

func (b *call) tagged(name string) bool { _, ok := b.tags[name]; return ok }

// oneOf gives which of several tags that exclude each other is there, or "".
func (b *call) oneOf(names ...string) (string, *Error) {
	found := ""
	for _, n := range names {
		if !b.tagged(n) {
			continue
		}
		if found != "" {
			return "", b.fault("%s takes :%s or :%s, not both", b.name, found, n)
		}
		found = n
	}
	return found, nil
}

// bind checks a command's or test's arguments against what it takes.
func (c *compiler) bind(n *node, s *spec) (*call, *Error) {
	b := &call{node: n, tags: map[string][]arg{}}
	for i := 0; i < len(n.args); i++ {
		a := n.args[i]
		if a.kind != argTag {
			b.pos = append(b.pos, a)
			continue
		}
		if len(b.pos) > 0 {
			return nil, a.fault(":%s comes too late: tagged arguments stand in front of the others", a.text)
		}
		params, err := c.bindTag(b, s, a, n.args[i+1:])
		if err != nil {
			return nil, err
		}
		i += params
	}
	if err := b.checkArgs(s); err != nil {
		return nil, err
	}
	return b, checkShape(n, s)
}

// bindTag takes a tag's parameters out of what follows it and says how many.
func (c *compiler) bindTag(b *call, s *spec, a arg, rest []arg) (int, *Error) {
	t, ok := s.tag(a.text)
	if !ok {
		return 0, a.missing("%s takes no argument :%s", b.name, a.text)
	}
	if b.tagged(a.text) {
		return 0, a.fault(":%s is given twice", a.text)
	}
	if err := c.need(a.position, ":"+a.text, t.extension); err != nil {
		return 0, err
	}
	if len(rest) < len(t.params) {
		return 0, a.fault(":%s must be followed by %s", a.text, kindName(t.params[0]))
	}
	for i, kind := range t.params {
		if !fits(rest[i].kind, kind) {
			return 0, rest[i].fault(":%s must be followed by %s", a.text, kindName(kind))
		}
	}
	b.tags[a.text] = rest[:len(t.params)]
	return len(t.params), nil
}

func fits(have, want argKind) bool {
	return have == want || want == argList && have == argString
}

func kindName(k argKind) string {
	return map[argKind]string{argTag: "a tag", argNumber: "a number", argString: "one string", argList: "a string or a list of strings"}[k]
}

func (b *call) checkArgs(s *spec) *Error {
	kinds := s.args
	if n := len(b.pos); n < s.least || n > len(kinds) {
		if len(kinds) == 0 {
			return b.pos[0].fault("%s takes no such argument", b.name)
		}
		names := make([]string, len(kinds))
		for i, k := range kinds {
			names[i] = kindName(k)
		}
		return b.fault("%s takes %s; %d of these were given", b.name, strings.Join(names, ", then "), n)
	}
	if s.front {
		kinds = kinds[len(kinds)-len(b.pos):]
	}
	for i, a := range b.pos {
		if !fits(a.kind, kinds[i]) {
			return a.fault("argument %d of %s must be %s", i+1, b.name, kindName(kinds[i]))
		}
	}
	return nil
}

func checkShape(n *node, s *spec) *Error {
	switch {
	case s.tests == noTests && len(n.tests) > 0:
		return n.tests[0].fault("%s takes no test", n.name)
	case s.tests == oneTest && len(n.tests) != 1:
		return n.fault("%s takes one test; several are joined by allof(...) or anyof(...)", n.name)
	case s.tests == someTests && len(n.tests) == 0:
		return n.fault("%s takes a list of tests in parentheses", n.name)
	case s.block && !n.hasBlock:
		return n.fault("%s must be followed by a block in { and }", n.name)
	case !s.block && n.hasBlock:
		return n.fault("%s takes no block: it ends with a semicolon", n.name)
	}
	return nil
}

// need asserts that an extension was asked for.
func (c *compiler) need(at position, what, extension string) *Error {
	if extension == "" || c.has(extension) {
		return nil
	}
	return at.missing(`%s needs the extension %q: write require "%s"; at the top`, what, extension, extension)
}

// string compiles an argument that is one string.
func (c *compiler) string(a arg) (text, *Error) { return c.text(a.position, a.text) }

// strings compiles an argument that is a list.
func (c *compiler) strings(a arg) (texts, *Error) {
	items := make([]text, 0, len(a.list))
	for _, t := range a.list {
		one, err := c.text(t.position, t.text)
		if err != nil {
			return texts{}, err
		}
		items = append(items, one)
	}
	return makeTexts(items), nil
}

// constants gives a list in which no variables may stand.
func (c *compiler) constants(a arg, what string) ([]string, *Error) {
	list, err := c.strings(a)
	if err != nil {
		return nil, err
	}
	if list.constants == nil && len(list.items) > 0 {
		return nil, a.fault("%s must be constant: no variables may stand in it", what)
	}
	return list.constants, nil
}

// choice gives a constant string that must be one of several.
func (c *compiler) choice(a arg, what string, of ...string) (string, *Error) {
	list, err := c.constants(a, what)
	if err != nil {
		return "", err
	}
	word := lower(list[0])
	if !slices.Contains(of, word) {
		return "", a.fault("%s is one of %s, not %q", what, strings.Join(of, ", "), word)
	}
	return word, nil
}
