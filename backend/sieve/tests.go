package sieve

import (
	"fmt"
)

type constant bool

func (t constant) eval(*machine) (bool, error) { return bool(t), nil }

func compileConstant(_ *compiler, b *call) (check, *Error) { return constant(b.name == "true"), nil }

type notTest struct{ inner check }

func compileNot(c *compiler, b *call) (check, *Error) {
	inner, err := c.test(b.tests[0])
	return &notTest{inner}, err
}

func (t *notTest) eval(m *machine) (bool, error) {
	ok, err := t.inner.eval(m)
	return !ok, err
}

// joinTest is allof and anyof: from the left, and no further than needed.
type joinTest struct {
	inner []check
	until bool // what ends it: false for allof, true for anyof
}

func compileJoin(c *compiler, b *call) (check, *Error) {
	inner, err := c.tests(b.node.tests)
	return &joinTest{inner, b.name == "anyof"}, err
}

func (t *joinTest) eval(m *machine) (bool, error) {
	for _, one := range t.inner {
		if ok, err := one.eval(m); ok == t.until || err != nil {
			return ok, err
		}
	}
	return !t.until, nil
}

// index picks one of several fields (RFC 5260, Section 6); number 0 is all.
type index struct {
	number int64
	last   bool
}

func compileIndex(b *call) (index, *Error) {
	i := index{last: b.tagged("last")}
	if b.tagged("index") {
		if i.number = b.tags["index"][0].number; i.number == 0 {
			return i, b.fault(":index counts from 1")
		}
	} else if i.last {
		return i, b.fault(":last goes with :index only")
	}
	return i, nil
}

func (i index) pick(values []string) []string {
	switch {
	case i.number == 0:
		return values
	case i.number > int64(len(values)):
		return nil
	case i.last:
		return values[int64(len(values))-i.number:][:1]
	}
	return values[i.number-1:][:1]
}

// fieldNames compiles a list of header field names.
func (c *compiler) fieldNames(a arg) (texts, *Error) {
	names, err := c.strings(a)
	if err != nil {
		return texts{}, err
	}
	for i, n := range names.constants {
		if !validFieldName(n) {
			c.warn(a.list[i].position, "%q is no name of a header field: no message has one", n)
		}
		names.constants[i] = lower(n)
	}
	return names, nil
}

type headerTest struct {
	names texts
	index index
	match *matcher
}

func compileHeader(c *compiler, b *call) (check, *Error) {
	t := &headerTest{}
	var err *Error
	if t.index, err = compileIndex(b); err != nil {
		return nil, err
	}
	if t.names, err = c.fieldNames(b.pos[0]); err != nil {
		return nil, err
	}
	t.match, err = c.matcher(b, b.pos[1])
	return t, err
}

func (t *headerTest) eval(m *machine) (bool, error) {
	names, err := t.names.values(m)
	if err != nil {
		return false, err
	}
	if len(names) == 1 && t.index.number == 0 {
		values := m.header(names[0])
		return t.match.test(m, values, len(values))
	}
	var values []string
	for _, n := range names {
		values = append(values, m.header(n)...)
	}
	values = t.index.pick(values)
	return t.match.test(m, values, len(values))
}

type existsTest struct{ names texts }

func compileExists(c *compiler, b *call) (check, *Error) {
	names, err := c.fieldNames(b.pos[0])
	return &existsTest{names}, err
}

func (t *existsTest) eval(m *machine) (bool, error) {
	names, err := t.names.values(m)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if len(m.header(n)) == 0 {
			return false, nil
		}
	}
	return true, m.work(len(names))
}

type sizeTest struct {
	over  bool
	limit int64
}

func compileSize(_ *compiler, b *call) (check, *Error) {
	which, err := b.oneOf("over", "under")
	if err != nil {
		return nil, err
	}
	if which == "" {
		return nil, b.fault("size takes :over or :under and a number")
	}
	return &sizeTest{which == "over", b.tags[which][0].number}, nil
}

func (t *sizeTest) eval(m *machine) (bool, error) {
	size := m.msg.Size()
	if m.current.Edited() { // as the message is now (RFC 5293, Section 6, of tests of the header)
		size += int64(len(m.current.Bytes())) - m.current.Length()
	}
	if t.over {
		return size > t.limit, nil
	}
	return size < t.limit, nil
}

// stringTest is "string" (RFC 5229, Section 5).
type stringTest struct {
	sources texts
	match   *matcher
}

func compileString(c *compiler, b *call) (check, *Error) {
	t := &stringTest{}
	var err *Error
	if t.sources, err = c.strings(b.pos[0]); err != nil {
		return nil, err
	}
	t.match, err = c.matcher(b, b.pos[1])
	return t, err
}

func (t *stringTest) eval(m *machine) (bool, error) {
	values, err := t.sources.values(m)
	if err != nil {
		return false, err
	}
	return t.match.test(m, values, filledIn(values))
}

func filledIn(values []string) (n int) {
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

// environmentTest is "environment" (RFC 5183).
type environmentTest struct {
	item  text
	match *matcher
}

func compileEnvironment(c *compiler, b *call) (check, *Error) {
	t := &environmentTest{}
	var err *Error
	if t.item, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	t.match, err = c.matcher(b, b.pos[1])
	return t, err
}

func (t *environmentTest) eval(m *machine) (bool, error) {
	name, err := t.item.value(m)
	if err != nil {
		return false, err
	}
	value, ok := m.env.item(lower(name))
	if !ok {
		return false, nil
	}
	return t.match.test(m, []string{value}, filledIn([]string{value}))
}

// compileIHave is "ihave" (RFC 5463). What it asks for is enabled from there to
// the script's end as it is written, whether or not it is evaluated.
func compileIHave(c *compiler, b *call) (check, *Error) {
	names, err := c.constants(b.pos[0], "the list of extensions")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		// Those that change what strings mean can't be had half-way (Section 4).
		if !c.has(n) && (!known(n) || n == "variables" || n == "encoded-character") {
			return constant(false), nil
		}
	}
	for _, n := range names {
		c.extensions[n] = true
	}
	return constant(true), nil
}

// mailboxTest is mailboxexists (RFC 5490, Section 3.1).
type mailboxTest struct{ names texts }

func compileMailboxExists(c *compiler, b *call) (check, *Error) {
	names, err := c.strings(b.pos[0])
	return &mailboxTest{names}, err
}

func (t *mailboxTest) eval(m *machine) (bool, error) {
	names, err := t.names.values(m)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if err := m.work(16); err != nil {
			return false, err
		}
		if equalFold(n, inbox) {
			continue
		}
		if m.env.MailboxExists == nil {
			return false, nil
		}
		if ok, err := m.env.MailboxExists(m.ctx, n); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// specialUseTest is specialuse_exists (RFC 8579, Section 4).
type specialUseTest struct {
	mailbox *text // the mailbox that must have all the uses; nil for any
	uses    texts
}

func compileSpecialUseExists(c *compiler, b *call) (check, *Error) {
	t := &specialUseTest{}
	uses := b.pos[0]
	if len(b.pos) == 2 {
		mailbox, err := c.string(b.pos[0])
		if err != nil {
			return nil, err
		}
		t.mailbox, uses = &mailbox, b.pos[1]
	}
	var err *Error
	t.uses, err = c.strings(uses)
	return t, err
}

func (t *specialUseTest) eval(m *machine) (bool, error) {
	uses, err := t.uses.values(m)
	if err != nil {
		return false, err
	}
	wanted := ""
	if t.mailbox != nil {
		if wanted, err = t.mailbox.value(m); err != nil {
			return false, err
		}
	}
	for _, u := range uses {
		if err := m.work(16); err != nil {
			return false, err
		}
		name, ok, err := m.specialUse(u)
		if !ok || err != nil || t.mailbox != nil && name != wanted {
			return false, err
		}
	}
	return true, nil
}

// validListTest is valid_ext_list (RFC 6134, Section 2.5).
type validListTest struct{ names texts }

func compileValidList(c *compiler, b *call) (check, *Error) {
	names, err := c.strings(b.pos[0])
	return &validListTest{names}, err
}

func (t *validListTest) eval(m *machine) (bool, error) {
	names, err := t.names.values(m)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if err := m.work(16); err != nil {
			return false, err
		}
		if m.env.Lists == nil || !m.env.Lists.Valid(n) {
			return false, nil
		}
	}
	return true, nil
}

// inList asks an external list (RFC 6134, Section 2.2).
func (m *machine) inList(list, value string) (bool, error) {
	if m.env.Lists == nil || !m.env.Lists.Valid(list) {
		return false, fmt.Errorf("there is no list %q", cut(list, 200))
	}
	ok, err := m.env.Lists.Contains(m.ctx, list, value)
	if err != nil {
		return false, fmt.Errorf("list %q: %w", cut(list, 200), err)
	}
	return ok, m.work(16)
}
