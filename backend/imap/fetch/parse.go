package fetch

import (
	"strconv"
	"strings"

	"waypost/backend/imap/syntax"
	"waypost/backend/index"
)

const (
	// maxItems bounds what is asked of each message, maxNames the fields of a
	// section, maxPath a part's number.
	maxItems = 256
	maxNames = 512
	maxPath  = 128
)

// simple are the items that are a word.
var simple = map[string]kind{
	"FLAGS": kindFlags, "UID": kindUID, "INTERNALDATE": kindInternalDate, "RFC822.SIZE": kindSize,
	"ENVELOPE": kindEnvelope, "BODY": kindBody, "BODYSTRUCTURE": kindStructure, "MODSEQ": kindModSeq,
	"SAVEDATE": kindSaveDate, "EMAILID": kindEmailID, "THREADID": kindThreadID,
}

// macros are short for lists (RFC 9051, Section 6.4.5).
var macros = map[string][]kind{
	"FAST": {kindFlags, kindInternalDate, kindSize},
	"ALL":  {kindFlags, kindInternalDate, kindSize, kindEnvelope},
	"FULL": {kindFlags, kindInternalDate, kindSize, kindEnvelope, kindBody},
}

// Parse takes FETCH's items: a macro, an item, or a list of items. Modifiers behind
// them are the caller's.
func Parse(p *syntax.Parser, o Options) (*Request, error) {
	r := &Request{uidOnly: o.UIDOnly, buffers: o.Buffers}
	if r.buffers == nil {
		r.buffers = NewBuffers()
	}
	if kinds, ok := macros[p.PeekName()]; ok {
		_, err := p.Name()
		for _, k := range kinds {
			r.add(k, nil)
		}
		return r, err
	}
	if err := p.One(func() error { return r.item(p) }); err != nil {
		return nil, err
	}
	return r, nil
}

// item takes one data item.
func (r *Request) item(p *syntax.Parser) error {
	if len(r.items) == maxItems {
		return syntax.Syntax("too many data items")
	}
	name, err := p.Name()
	if err != nil {
		return err
	}
	if p.Peek() == '[' {
		return r.sectioned(p, name)
	}
	if k, ok := simple[name]; ok {
		r.add(k, nil)
		return nil
	}
	switch name {
	case "PREVIEW":
		r.preview(p)
	case "RFC822":
		r.seen = true
		r.add(kindSection, &section{spec: whole, label: name, closed: true})
	case "RFC822.HEADER":
		r.add(kindSection, &section{spec: header, label: name, closed: true})
	case "RFC822.TEXT":
		r.seen = true
		r.add(kindSection, &section{spec: text, label: name, closed: true})
	default:
		return syntax.Syntax("unknown data item %s", name)
	}
	return nil
}

// preview takes PREVIEW's modifier: LAZY makes no difference where previews are at hand
// (RFC 8970, Section 3.1). Any other parenthesis behind a lone PREVIEW is the command's
// modifiers; in a list it is an error of the next item.
func (r *Request) preview(p *syntax.Parser) {
	p.TakeText(" (LAZY)")
	r.add(kindPreview, nil)
}

// sectioned takes BODY[...] and BINARY[...].
func (r *Request) sectioned(p *syntax.Parser, name string) error {
	s := &section{}
	k, seen := kindSection, false
	switch name {
	case "BODY":
		s.label, seen = "BODY[", true
	case "BODY.PEEK":
		s.label = "BODY["
	case "BINARY":
		k, s.label, seen = kindBinary, "BINARY[", true
	case "BINARY.PEEK":
		k, s.label = kindBinary, "BINARY["
	case "BINARY.SIZE":
		k, s.label = kindBinarySize, "BINARY.SIZE["
	default:
		return syntax.Syntax("unknown data item %s[", name)
	}
	p.Take('[')
	if err := s.inside(p, k == kindSection); err != nil {
		return err
	}
	if err := p.Expect(']'); err != nil {
		return err
	}
	if k != kindBinarySize && p.Take('<') {
		if err := s.origin(p); err != nil {
			return err
		}
	}
	r.seen = r.seen || seen
	r.add(k, s)
	return nil
}

// origin takes what is behind the '<' of a partial.
func (s *section) origin(p *syntax.Parser) error {
	from, err := p.Number64()
	if err != nil {
		return err
	}
	if err := p.Expect('.'); err != nil {
		return err
	}
	n, err := p.Number64()
	if err != nil {
		return err
	}
	if n == 0 {
		return syntax.Syntax("a partial of no bytes")
	}
	s.partial, s.offset, s.size = true, int64(from), int64(n)
	return p.Expect('>')
}

// inside takes a section's text; specs: more than a part's number is allowed.
func (s *section) inside(p *syntax.Parser, specs bool) error {
	if p.Peek() == ']' {
		return nil
	}
	name, err := p.Name()
	if err != nil {
		return err
	}
	rest, err := s.number(name)
	if err != nil {
		return err
	}
	s.label += name
	if rest == "" {
		return nil
	}
	if !specs {
		return syntax.Syntax("BINARY takes a part's number only")
	}
	switch rest {
	case "HEADER":
		s.spec = header
	case "TEXT":
		s.spec = text
	case "MIME":
		s.spec = mimeHeader
		if len(s.path) == 0 {
			return syntax.Syntax("MIME needs a part's number")
		}
	case "HEADER.FIELDS":
		s.spec = fields
	case "HEADER.FIELDS.NOT":
		s.spec = fieldsNot
	default:
		return syntax.Syntax("unknown section %s", rest)
	}
	if s.spec != fields && s.spec != fieldsNot {
		return nil
	}
	if err := p.SP(); err != nil {
		return err
	}
	err = p.List(false, func() error {
		if len(s.names) == maxNames {
			return syntax.Syntax("too many header fields")
		}
		name, err := p.AString()
		s.names = append(s.names, name)
		return err
	})
	if err == nil && s.spec == fields && len(s.path) == 0 {
		s.kept, _ = index.NamesOf(s.names)
	}
	return err
}

// number takes the part's number off a section's name and gives the rest.
func (s *section) number(name string) (rest string, err error) {
	for name != "" && name[0] >= '0' && name[0] <= '9' {
		digits, after, more := strings.Cut(name, ".")
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || digits[0] == '0' || more && after == "" || len(s.path) == maxPath {
			return "", syntax.Syntax("invalid part number")
		}
		s.path = append(s.path, int(n))
		name = after
	}
	return name, nil
}
