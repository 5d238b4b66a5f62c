package mime

import (
	"bytes"
	"io"
	"strings"

	"waypost/internal/headerfield"
)

// Field is a header field.
type Field struct {
	// Name is in lower case.
	Name string
	// Value is unfolded and without the white space around it. From Fields it has
	// its encoded words decoded and is UTF-8; from RawFields it is otherwise as in
	// the message, and Text decodes it.
	Value string
	// Raw, from RawFields only, is the field byte for byte, from its name to its
	// line end (which it lacks where the message ends).
	Raw string
	// Cut, from RawFields only: there was such a field, and it was too much to
	// keep; Value and Raw are empty.
	Cut bool
}

// NewField takes apart what RawFields gives as Raw; name is its name in lower
// case.
func NewField(name, raw string) Field {
	value := raw[strings.IndexByte(raw, ':')+1:]
	if strings.IndexByte(value, '\n') >= 0 {
		value = strings.TrimSuffix(strings.TrimSuffix(value, "\n"), "\r")
		if strings.IndexByte(value, '\n') >= 0 {
			// RFC 5322, Section 2.2.3.
			value = strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", ""), "\n", "")
		}
	}
	return Field{Name: name, Value: strings.Trim(value, " \t"), Raw: raw}
}

// Text is the value for readers: encoded words decoded, as UTF-8.
func (f Field) Text() string { return headerfield.Decode(clean([]byte(f.Value))) }

// FieldLimits bounds what RawFields keeps: the bytes of one field and of all,
// and their number.
type FieldLimits struct{ Field, All, Count int }

// RawFields reads a header to its end and gives the fields whose names, in lower
// case, keep wants, in the header's order. Where one is over a limit there is a
// Field with Cut set, one for each name at most: a name without one is known
// wholly.
func RawFields(header io.Reader, keep func(name []byte) bool, max FieldLimits) ([]Field, error) {
	c := rawCollector{max: max}
	lines := newLineReader(header)
	for {
		piece, err := lines.next()
		if err == io.EOF || err == nil && lines.first && blank(piece) {
			c.flush()
			return c.out, nil
		}
		if err != nil {
			return nil, err
		}
		if lines.first && piece[0] != ' ' && piece[0] != '\t' {
			c.flush()
			if n, ok := fieldName(piece); ok {
				if lower, ok := lowerName(c.lower[:0], n); ok && keep(lower) {
					c.name = string(lower)
				}
			}
		}
		c.add(piece)
	}
}

// rawCollector gathers the field being read, name being "" if nobody wants it.
type rawCollector struct {
	max  FieldLimits
	out  []Field
	kept int // bytes in out
	cut  map[string]bool
	name string
	text []byte
	over bool
	// lower has room for a name.
	lower [nameBytes]byte
}

func (c *rawCollector) add(piece []byte) {
	if c.name == "" || c.over {
		return
	}
	if len(c.text)+len(piece) > c.max.Field || c.kept+len(c.text)+len(piece) > c.max.All || len(c.out) >= c.max.Count {
		c.over = true
		return
	}
	c.text = append(c.text, piece...)
}

func (c *rawCollector) flush() {
	switch {
	case c.name == "":
	case !c.over:
		c.kept += len(c.text)
		c.out = append(c.out, NewField(c.name, string(c.text)))
	case !c.cut[c.name]:
		if c.cut == nil {
			c.cut = make(map[string]bool)
		}
		c.cut[c.name] = true
		c.out = append(c.out, Field{Name: c.name, Cut: true})
	}
	c.name, c.text, c.over = "", c.text[:0], false
}

// Fields reads a header and gives its fields, decoded; each is cut off at 32
// KiB, and all end at 1 MiB.
func Fields(header io.Reader) ([]Field, error) {
	lines := newLineReader(io.LimitReader(header, headerBudget))
	var out []Field
	var text []byte
	name := ""
	flush := func() {
		if name != "" {
			out = append(out, Field{Name: name, Value: headerfield.Decode(clean(text))})
		}
		name, text = "", text[:0]
	}
	for {
		piece, err := lines.next()
		if err == io.EOF || err == nil && lines.first && blank(piece) {
			flush()
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if lines.first && piece[0] != ' ' && piece[0] != '\t' {
			flush()
			if n, ok := fieldName(piece); ok {
				name = strings.ToLower(string(n))
				piece = piece[bytes.IndexByte(piece, ':')+1:]
			}
		}
		if name != "" {
			text = append(text, piece[:min(len(piece), maxField-len(text))]...)
		}
	}
}
