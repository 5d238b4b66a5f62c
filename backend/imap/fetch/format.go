package fetch

import (
	"bytes"
	"strconv"

	"waypost/backend/imap/syntax"
)

// String gives the items as they can be written in a command, on one line but for literals that do
// not wait for leave: Parse makes the same Request of it.
func (r *Request) String() string {
	var out bytes.Buffer
	e := syntax.NewEncoder(&out, syntax.Buffers())
	e.List(len(r.items), func(i int) { r.format(e, &r.items[i]) })
	_ = e.Flush() // a buffer takes everything
	return out.String()
}

func (r *Request) format(e *syntax.Encoder, it *item) {
	s := it.section
	if s == nil {
		e.Raw(nameOf(it.kind))
		return
	}
	label := s.label
	if !s.closed && !r.seen && it.kind != kindBinarySize {
		at := bytes.IndexByte([]byte(label), '[')
		label = label[:at] + ".PEEK" + label[at:]
	}
	e.Raw(label)
	if len(s.names) > 0 {
		e.SP().List(len(s.names), func(i int) { formatName(e, s.names[i]) })
	}
	if !s.closed {
		e.Byte(']')
	}
	if s.partial {
		e.Byte('<').Raw(strconv.FormatInt(s.offset, 10)).Byte('.').Raw(strconv.FormatInt(s.size, 10)).Byte('>')
	}
}

// formatName writes a header field's name, whatever it is.
func formatName(e *syntax.Encoder, name string) {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f {
			e.Byte('{').Number(uint64(len(name))).Raw("+}\r\n").Raw(name)
			return
		}
	}
	e.AString(name)
}

// nameOf is simple's other direction.
func nameOf(k kind) string {
	for name, is := range simple {
		if is == k {
			return name
		}
	}
	return "PREVIEW"
}
