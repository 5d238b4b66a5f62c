package fetch

import (
	"slices"
	"sync"

	"waypost/backend/index"
)

// kind is a data item's.
type kind uint8

const (
	kindFlags kind = iota
	kindUID
	kindInternalDate
	kindSize
	kindEnvelope
	kindBody
	kindStructure
	kindModSeq
	kindSaveDate
	kindEmailID
	kindThreadID
	kindPreview
	// Those below have a section.
	kindSection
	kindBinary
	kindBinarySize
)

// specifier is what of a part is meant.
type specifier uint8

const (
	whole specifier = iota
	header
	fields
	fieldsNot
	text
	mimeHeader
)

// section is what stands in BODY[...] and BINARY[...].
type section struct {
	path  []int
	spec  specifier
	names []string // of header fields
	// kept is set for BODY[HEADER.FIELDS (...)] with fields that an index has.
	kept index.Names
	// label is what the answer calls it, without names and origin: "BODY[1.HEADER".
	label string
	// closed: the label is all of the name, without "]" either (RFC822 and the like).
	closed  bool
	partial bool
	offset  int64
	size    int64
}

// same reports that the answer would be the same.
func (s *section) same(o *section) bool {
	return s.label == o.label && s.closed == o.closed && s.partial == o.partial && s.offset == o.offset &&
		s.size == o.size && slices.Equal(s.names, o.names)
}

// item is one data item.
type item struct {
	kind    kind
	section *section
}

// Request is what a FETCH asks for. It is for one goroutine at a time.
type Request struct {
	items   []item
	seen    bool
	uidOnly bool
	// meta: something needs the Meta, whatever other sources know; wire: ENVELOPE or
	// BODYSTRUCTURE is asked for; brief: PREVIEW is; fields: header fields that are kept;
	// body: something needs the message's bytes, as far as the Meta does not know better.
	meta, wire, brief, fields, body bool
	buffers                         *sync.Pool
	answer                          answer // Write's, kept for its memory
}

// NeedsMeta reports that answers need Source.Meta (or what WireSource,
// FieldSource and SummarySource have instead).
func (r *Request) NeedsMeta() bool { return r.meta || r.wire || r.brief || r.fields }

// NeedsBody reports that answers may need Source.Open.
func (r *Request) NeedsBody() bool { return r.body }

// SetsSeen reports that the messages are to be marked as seen: BODY[...], RFC822,
// RFC822.TEXT and BINARY[...] (RFC 9051, Section 6.4.5).
func (r *Request) SetsSeen() bool { return r.seen }

// Flags, UID and ModSeq report whether the item is asked for, or was added.
func (r *Request) Flags() bool { return r.has(kindFlags) }

// UID: see Flags.
func (r *Request) UID() bool { return r.has(kindUID) }

// ModSeq: see Flags. Asked for by the client it enables CONDSTORE (RFC 7162, Section 3.1).
func (r *Request) ModSeq() bool { return r.has(kindModSeq) }

// AddUID has UID in the answers, in front: for UID FETCH.
func (r *Request) AddUID() {
	if !r.UID() {
		r.items = slices.Insert(r.items, 0, item{kind: kindUID})
	}
}

// AddFlags has FLAGS in the answers.
func (r *Request) AddFlags() {
	if !r.Flags() {
		r.insert(kindFlags)
	}
}

// AddModSeq has MODSEQ in the answers.
func (r *Request) AddModSeq() {
	if !r.ModSeq() {
		r.insert(kindModSeq)
	}
}

// insert puts an item in front, behind UID.
func (r *Request) insert(k kind) {
	at := 0
	if len(r.items) > 0 && r.items[0].kind == kindUID {
		at = 1
	}
	r.items = slices.Insert(r.items, at, item{kind: k})
}

func (r *Request) has(k kind) bool {
	return slices.ContainsFunc(r.items, func(i item) bool { return i.kind == k })
}

// add puts an item at the end, once.
func (r *Request) add(k kind, s *section) {
	if s == nil && r.has(k) || s != nil && slices.ContainsFunc(r.items, func(i item) bool { return i.kind == k && i.section.same(s) }) {
		return
	}
	r.items = append(r.items, item{k, s})
	switch {
	case k == kindEnvelope, k == kindStructure, k == kindBody:
		r.wire = true
	case k == kindPreview:
		r.brief = true
	case k == kindInternalDate:
		// A Meta that is there anyway has it.
	case s == nil:
	case s.kept != 0:
		// If the index lacks one of them after all, the message is read.
		r.fields, r.body = true, true
	default:
		r.body = true
		r.meta = r.meta || len(s.path) > 0
	}
}
