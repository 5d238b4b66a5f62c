// Package mime finds out how a message is built without holding it: where its
// headers and parts begin and end, and what IMAP's ENVELOPE and BODYSTRUCTURE
// say of it (RFC 9051, Section 7.5.2; RFC 2045 to 2049, RFC 2231; RFC 5322).
//
// It works in two passes: Scan reads the message once and gives its structure
// with byte offsets; the caller then copies byte ranges. It never fails for
// what is in a message, however malformed: only errors of the reader come back.
// Memory is bounded whatever the message: MaxParts parts, MaxDepth levels, a
// budget for kept header text, and buffers of some KiB. It keeps no state and
// is safe for concurrent use; a Part is not changed after Scan returned it.
package mime

import (
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"
)

const (
	// MaxParts bounds the parts that are told apart; further delimiter lines
	// are content of the last part.
	MaxParts = 1000
	// MaxDepth bounds nesting; what is deeper is one opaque part.
	MaxDepth = 100

	// maxField bounds one header field's text, maxKeptField that of one that
	// structure or envelope is made of, headerBudget that of all.
	maxField     = 32 << 10
	maxKeptField = 256 << 10
	headerBudget = 1 << 20
	bufferSize   = 16 << 10
)

// Range is a run of a message's bytes, End excluded.
type Range struct{ Start, End int64 }

// Len is the range's size in bytes.
func (r Range) Len() int64 { return r.End - r.Start }

// Part is a message or a part of one.
type Part struct {
	// Type and Subtype are lower case, never empty.
	Type, Subtype string
	Params        map[string]string
	// ID, Description, Encoding and Location are as in the header, unfolded.
	ID, Description, Encoding, Location string
	Disposition                         *imap.BodyStructureDisposition
	Language                            []string

	// Header includes the empty line that ends it, Body is all behind it, up
	// to the line end that belongs to the next delimiter.
	Header, Body Range
	// Lines counts the line ends in Body.
	Lines int64

	// Children are a multipart's parts: at least one.
	Children []*Part
	// Message is what a message/rfc822 part encloses.
	Message *Part
	// Envelope is set for a message: the root and each Message.
	Envelope *imap.Envelope
	// Wire is set for what Scan gives, not for parts below it.
	Wire Wire

	pieces *pieces // nil after Scan
}

// Multipart reports whether the part has Children.
func (p *Part) Multipart() bool { return len(p.Children) > 0 }

// Section finds what BODY[part.spec] names (RFC 9051, Section 6.4.5.1); the
// receiver is the whole message. It reports false where there is no such thing.
// Field lists are not looked at: HEADER is the whole header.
func (p *Part) Section(path []int, spec imap.PartSpecifier) (Range, bool) {
	if len(path) == 0 {
		switch spec {
		case imap.PartSpecifierNone:
			return Range{p.Header.Start, p.Body.End}, true
		case imap.PartSpecifierHeader:
			return p.Header, true
		case imap.PartSpecifierText:
			return p.Body, true
		}
		return Range{}, false
	}
	part := p.Find(path)
	if part == nil {
		return Range{}, false
	}
	switch spec {
	case imap.PartSpecifierNone:
		return part.Body, true
	case imap.PartSpecifierMIME:
		return part.Header, true
	}
	if part.Message == nil {
		return Range{}, false
	}
	return part.Message.Section(nil, spec)
}

// Find walks a part number; nil if there is no such part. A message that is not multipart has its body as
// part 1, and so has a message/rfc822 part's message.
func (p *Part) Find(path []int) *Part {
	cur := p
	for i, n := range path {
		container := cur
		switch {
		case i == 0 || cur.Multipart():
		case cur.Message != nil:
			container = cur.Message
		default:
			return nil
		}
		switch {
		case n >= 1 && n <= len(container.Children):
			cur = container.Children[n-1]
		case n == 1 && !container.Multipart():
			cur = container
		default:
			return nil
		}
	}
	return cur
}

// Walk calls f for the part and all below it, parents first.
func (p *Part) Walk(f func(*Part)) {
	f(p)
	for _, c := range p.Children {
		c.Walk(f)
	}
	if p.Message != nil {
		p.Message.Walk(f)
	}
}

// BodyStructure gives the part as IMAP describes it, extension data included.
func (p *Part) BodyStructure() imap.BodyStructure {
	if p.Multipart() {
		m := &imap.BodyStructureMultiPart{
			Subtype: p.Subtype,
			Extended: &imap.BodyStructureMultiPartExt{
				Params: p.Params, Disposition: p.Disposition, Language: p.Language, Location: p.Location,
			},
		}
		for _, c := range p.Children {
			m.Children = append(m.Children, c.BodyStructure())
		}
		return m
	}
	s := &imap.BodyStructureSinglePart{
		Type: p.Type, Subtype: p.Subtype, Params: p.Params, ID: p.ID,
		Description: p.Description, Encoding: p.Encoding,
		Size: uint32(min(p.Body.Len(), 1<<32-1)),
		Extended: &imap.BodyStructureSinglePartExt{
			Disposition: p.Disposition, Language: p.Language, Location: p.Location,
		},
	}
	switch {
	case p.Message != nil:
		s.MessageRFC822 = &imap.BodyStructureMessageRFC822{
			Envelope: p.Message.Envelope, BodyStructure: p.Message.BodyStructure(), NumLines: p.Lines,
		}
	case p.Type == "text":
		s.Text = &imap.BodyStructureText{NumLines: p.Lines}
	}
	return s
}

// CopyFields copies from a header those fields that names lists, or does not
// list (not), and the empty line (RFC 9051, Section 6.4.5.1).
func CopyFields(w io.Writer, header io.Reader, names []string, not bool) error {
	lines := newLineReader(header)
	take := false
	for {
		piece, err := lines.next()
		if err == io.EOF || err == nil && lines.first && blank(piece) {
			_, err = io.WriteString(w, "\r\n")
			return err
		}
		if err != nil {
			return err
		}
		if lines.first && piece[0] != ' ' && piece[0] != '\t' {
			name, ok := fieldName(piece)
			take = ok && slices.ContainsFunc(names, func(n string) bool { return equalFold(n, name) }) != not
		}
		if take {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
	}
}
