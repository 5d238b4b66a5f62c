package sieve

import (
	"fmt"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"
)

// traceFields are fields that no script may add or delete: those RFC 5293,
// Section 6 names, and those that tell how a message came.
var traceFields = []string{"received", "auto-submitted", "return-path", "delivered-to"}

// addHeaderOp is "addheader" (RFC 5293, Section 4).
type addHeaderOp struct {
	name, value text
	last        bool
}

func compileAddHeader(c *compiler, b *call) (op, *Error) {
	o := &addHeaderOp{last: b.tagged("last")}
	var err *Error
	if o.name, err = c.editedName(b.pos[0]); err != nil {
		return nil, err
	}
	o.value, err = c.string(b.pos[1])
	return o, err
}

func (c *compiler) editedName(a arg) (text, *Error) {
	name, err := c.string(a)
	if err == nil && name.isConstant() && !validFieldName(name.constant) {
		err = a.fault("%q is no name of a header field", name.constant)
	}
	return name, err
}

// editName gives the name at run time, and counts the edit.
func (m *machine) editName(name *text) (string, error) {
	s, err := name.value(m)
	if err != nil {
		return "", err
	}
	if !validFieldName(s) {
		return "", fmt.Errorf("%q is no name of a header field", cut(s, 100))
	}
	if m.edits++; m.edits > m.limits.HeaderEdits {
		return "", limitError("more than %d changes of the header", m.limits.HeaderEdits)
	}
	return s, m.work(len(m.current.fields))
}

func (o *addHeaderOp) do(m *machine) error {
	name, err := m.editName(&o.name)
	if err != nil {
		return err
	}
	value, err := o.value.value(m)
	if err != nil {
		return err
	}
	if slices.Contains(traceFields, lower(name)) {
		return nil // what is not permitted is silently ignored (Section 6)
	}
	// A value cannot bring in a field of its own: line ends become spaces.
	value = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(value, string(utf8.RuneError))))
	raw := foldField(name, value)
	if m.added += len(raw); m.added > m.limits.AddedBytes {
		return limitError("more than %d bytes of header added", m.limits.AddedBytes)
	}
	m.change(m.current.with(Field{Name: name, Value: unfold(string(raw[len(name)+1:])), Raw: raw}, o.last))
	return nil
}

// change takes over an edited header.
func (m *machine) change(h *Header) {
	m.current = h
	m.decoded, m.parsed = nil, nil
}

// foldField writes a header field: not-ASCII text encoded (RFC 2047), lines
// folded at spaces (RFC 5322, Section 2.2.3).
func foldField(name, value string) []byte {
	if strings.ContainsFunc(value, func(r rune) bool { return r >= utf8.RuneSelf }) || strings.Contains(value, "=?") {
		value = mime.QEncoding.Encode("utf-8", value)
	}
	var b strings.Builder
	b.WriteString(name + ":")
	line := b.Len()
	for i, word := range strings.Split(value, " ") {
		if i > 0 && word != "" && line+1+len(word) > 78 {
			b.WriteString("\r\n")
			line = 0
		}
		b.WriteString(" " + word)
		line += 1 + len(word)
	}
	return []byte(strings.TrimRight(b.String(), " ") + "\r\n")
}

// deleteHeaderOp is "deleteheader" (RFC 5293, Section 5).
type deleteHeaderOp struct {
	name  text
	index index
	match *matcher // nil for all values
}

func compileDeleteHeader(c *compiler, b *call) (op, *Error) {
	o := &deleteHeaderOp{}
	var err *Error
	if o.index, err = compileIndex(b); err != nil {
		return nil, err
	}
	if o.name, err = c.editedName(b.pos[0]); err != nil {
		return nil, err
	}
	if len(b.pos) == 2 {
		o.match, err = c.matcher(b, b.pos[1])
	}
	return o, err
}

func (o *deleteHeaderOp) do(m *machine) error {
	name, err := m.editName(&o.name)
	if err != nil || slices.Contains(traceFields, lower(name)) {
		return err
	}
	var found []int
	for i, f := range m.current.fields {
		if equalFold(f.Name, name) {
			found = append(found, i)
		}
	}
	switch n := int64(len(found)); {
	case o.index.number > n:
		found = nil
	case o.index.number > 0 && o.index.last:
		found = found[n-o.index.number:][:1]
	case o.index.number > 0:
		found = found[o.index.number-1:][:1]
	}
	gone := map[int]bool{}
	for _, i := range found {
		ok := true
		if o.match != nil {
			if ok, err = o.match.test(m, []string{decode(m.current.fields[i].Value)}, 1); err != nil {
				return err
			}
		}
		if ok {
			gone[i] = true
		}
	}
	if len(gone) > 0 {
		m.change(m.current.without(gone))
	}
	return nil
}
