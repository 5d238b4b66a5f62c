package fulltext

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"

	index "github.com/blevesearch/bleve_index_api"

	"waypost/backend/imap/search"
	"waypost/backend/mailbox"
)

// The fields of a document. A message with too much text has only fieldLong.
const (
	fieldID     = "_id"
	fieldHeader = "h"
	fieldBody   = "b"
	fieldLong   = "x"
	termLong    = "x"
)

// key is what a message is known by.
type key [16]byte

func keyOf(m *mailbox.Message) key {
	var buf [160]byte
	text := append(buf[:0], m.GUID...)
	text = append(text, 0)
	sum := sha256.Sum256(strconv.AppendInt(text, m.Size, 10))
	return key(sum[:16])
}

// once stands for a trigram in a message. How often and where it is does not matter, and is not
// written.
var once = &index.TokenFreq{}

// document is a message for zapx.
type document struct{ fields []*field }

var _ index.Document = (*document)(nil)

// ID implements index.Document.
func (d *document) ID() string { return string(d.fields[0].value) }

// Size implements index.Document.
func (d *document) Size() int { return 0 }

// VisitFields implements index.Document.
func (d *document) VisitFields(visit index.FieldVisitor) {
	for _, f := range d.fields {
		visit(f)
	}
}

// VisitComposite implements index.Document.
func (d *document) VisitComposite(index.CompositeFieldVisitor) {}

// HasComposite implements index.Document.
func (d *document) HasComposite() bool { return false }

// NumPlainTextBytes implements index.Document.
func (d *document) NumPlainTextBytes() uint64 { return 0 }

// AddIDField implements index.Document: it has one.
func (d *document) AddIDField() {}

// StoredFieldsBytes implements index.Document.
func (d *document) StoredFieldsBytes() uint64 { return 0 }

// Indexed implements index.Document.
func (d *document) Indexed() bool { return true }

// field is one of a document's.
type field struct {
	name    string
	value   []byte
	options index.FieldIndexingOptions
	terms   index.TokenFrequencies
}

// Name implements index.Field.
func (f *field) Name() string { return f.name }

// Value implements index.Field.
func (f *field) Value() []byte { return f.value }

// ArrayPositions implements index.Field.
func (f *field) ArrayPositions() []uint64 { return nil }

// EncodedFieldType implements index.Field: a text.
func (f *field) EncodedFieldType() byte { return 't' }

// Analyze implements index.Field.
func (f *field) Analyze() {}

// Options implements index.Field.
func (f *field) Options() index.FieldIndexingOptions { return f.options }

// AnalyzedLength implements index.Field.
func (f *field) AnalyzedLength() int { return len(f.terms) }

// AnalyzedTokenFrequencies implements index.Field.
func (f *field) AnalyzedTokenFrequencies() index.TokenFrequencies { return f.terms }

// NumPlainTextBytes implements index.Field.
func (f *field) NumPlainTextBytes() uint64 { return 0 }

// batch is documents on their way into a segment.
type batch struct {
	take  *taker
	docs  []index.Document
	keys  []key
	names map[uint32]string // trigrams as strings, shared by the documents
	terms int
}

func (b *batch) reset() {
	clear(b.names)
	b.docs, b.keys, b.terms = nil, nil, 0
}

// read takes a message in. The error is the folder's.
func (b *batch) read(f mailbox.Folder, m *mailbox.Message) error {
	meta, err := f.Meta(m.UID)
	if err != nil {
		return err
	}
	body, err := f.Open(m.UID)
	if err != nil {
		return err
	}
	defer body.Close() // was only read
	b.take.begin()
	err = search.Texts(meta.Root, func(at int64) (io.Reader, error) {
		if _, err := body.Seek(at, io.SeekStart); err != nil {
			return nil, fmt.Errorf("index message %d: %w", m.UID, err)
		}
		return body, nil
	}, b.take)
	long := errors.Is(err, errTooLong) || b.take.taken > maxText
	if err != nil && !long {
		return err
	}
	b.document(keyOf(m), long)
	return nil
}

func (b *batch) document(k key, long bool) {
	const plain = index.IndexField | index.SkipFreqNorm
	d := &document{fields: []*field{{
		name: fieldID, value: k[:], options: plain | index.StoreField, terms: index.TokenFrequencies{string(k[:]): once},
	}}}
	if long {
		d.fields = append(d.fields, &field{name: fieldLong, options: plain, terms: index.TokenFrequencies{termLong: once}})
	} else {
		for name, g := range map[string]*grams{fieldHeader: b.take.header, fieldBody: b.take.body} {
			if len(g.list) > 0 {
				d.fields = append(d.fields, &field{name: name, options: plain, terms: b.termsOf(g)})
			}
		}
	}
	b.docs, b.keys = append(b.docs, d), append(b.keys, k)
}

func (b *batch) termsOf(g *grams) index.TokenFrequencies {
	out := make(index.TokenFrequencies, len(g.list))
	for _, n := range g.list {
		name, ok := b.names[n]
		if !ok {
			name = gramText(n)
			b.names[n] = name
		}
		out[name] = once
	}
	b.terms += len(g.list)
	return out
}
