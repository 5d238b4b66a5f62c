package fetch

import (
	"bytes"
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mime"
)

// maxKept bounds chosen header fields, in bytes, that are kept in memory between
// counting and sending; more are read twice.
const maxKept = 64 << 10

// form is how a piece comes about.
type form uint8

const (
	absent  form = iota // there is no such part: an empty string
	ready               // the text is there
	raw                 // bytes of the message
	chosen              // a header's fields, read anew
	decoded             // a part's content, decoded anew
)

// piece is a section of a message, found before anything is written.
type piece struct {
	form form
	at   mime.Range
	text []byte
	part *mime.Part // for decoded
	size int64
	// binary: it has NULs, so that it must be a literal8 (RFC 3516, Section 4.4).
	binary bool
}

// find finds the section of an item.
func (a *answer) find(it *item) (piece, error) {
	s := it.section
	if a.r.meta {
		if err := a.needMeta(); err != nil {
			return piece{}, err
		}
	}
	if s.kept != 0 {
		text, known, err := a.keptFields(s)
		if err != nil || known {
			return piece{form: ready, text: []byte(text), size: int64(len(text))}, err
		}
	}
	if err := a.body.open(a); err != nil {
		return piece{}, err
	}
	root, err := a.root(s)
	if err != nil {
		return piece{}, err
	}
	if it.kind != kindSection && len(s.path) > 0 {
		return a.findBinary(root, it)
	}
	at, ok := root.Section(s.path, s.spec.of())
	switch {
	case !ok:
		return piece{}, nil
	case s.spec == fields || s.spec == fieldsNot:
		return a.findFields(s, at)
	}
	return piece{form: raw, at: at, size: at.Len()}, nil
}

// keptFields asks the index for header fields.
func (a *answer) keptFields(s *section) (text string, known bool, err error) {
	if fs, ok := a.src.(FieldSource); ok && a.meta == nil {
		if text, known, err = fs.HeaderFields(a.uid, s.kept); err != nil || known {
			return text, known, err
		}
	}
	if err = a.needMeta(); err != nil {
		return "", false, err
	}
	text, known = index.HeaderFields(a.meta, s.names)
	return text, known, nil
}

// root is the structure as far as the section needs it.
func (a *answer) root(s *section) (*mime.Part, error) {
	switch {
	case a.meta != nil:
		return a.meta.Root, nil
	case s.spec == whole:
		return &mime.Part{Body: mime.Range{End: a.body.WireSize()}}, nil
	}
	return a.body.scanHeader()
}

// findFields counts what chosen header fields are, and keeps them if they are short.
func (a *answer) findFields(s *section, at mime.Range) (piece, error) {
	c := counter{max: maxKept}
	if err := a.body.copyFields(&c, at, s); err != nil {
		return piece{}, err
	}
	if c.n <= maxKept {
		return piece{form: ready, text: c.text, size: c.n}, nil
	}
	return piece{form: chosen, at: at, size: c.n}, nil
}

// findBinary counts what a part is when decoded. BINARY[] does not come here: the
// message itself has no encoding to undo.
func (a *answer) findBinary(root *mime.Part, it *item) (piece, error) {
	part := root.Find(it.section.path)
	if part == nil {
		return piece{}, nil
	}
	for _, had := range a.pieces {
		if had.part == part {
			return had, nil
		}
	}
	p := piece{form: decoded, part: part, at: part.Body}
	var c counter
	if err := a.body.decode(a.r, &c, p); err != nil {
		return piece{}, err
	}
	p.size, p.binary = c.n, c.nul
	return p, nil
}

// piece writes an item with its section.
func (a *answer) piece(e *syntax.Encoder, it *item, p *piece) error {
	it.section.write(e)
	if it.kind == kindBinarySize {
		e.SP().Number(uint64(p.size))
		return nil
	}
	if p.form == absent {
		e.Raw(` ""`)
		return nil
	}
	from, n := int64(0), p.size
	if s := it.section; s.partial {
		from = min(s.offset, p.size)
		n = min(s.size, p.size-from)
	}
	e.SP().LiteralHeader(n, p.binary)
	w := window{w: e, skip: from, left: n}
	if it.kind == kindSection {
		w.w = withoutNUL{e}
	}
	switch p.form {
	case ready:
		_, err := w.w.Write(p.text[from : from+n])
		return err
	case raw:
		return a.body.copy(a.r, w.w, p.at.Start+from, n)
	case chosen:
		return w.end(a.body.copyFields(&w, p.at, it.section))
	}
	return w.end(a.body.decode(a.r, &w, *p))
}

// write writes the item's name, with the origin of a partial (RFC 9051, Section 7.5.2).
func (s *section) write(e *syntax.Encoder) {
	e.Raw(s.label)
	if s.closed {
		return
	}
	if len(s.names) > 0 {
		e.Raw(" (")
		for i, n := range s.names {
			if i > 0 {
				e.SP()
			}
			e.AString(n)
		}
		e.Byte(')')
	}
	e.Byte(']')
	if s.partial {
		e.Byte('<').Number(uint64(s.offset)).Byte('>')
	}
}

// withoutNUL replaces NULs by 0x80: a literal may not have them (RFC 9051, Section 9:
// CHAR8), and clients know this from other servers. BINARY has them as they are.
type withoutNUL struct{ w io.Writer }

// Write implements io.Writer; it changes p, which is the caller's buffer.
func (w withoutNUL) Write(p []byte) (int, error) {
	for rest := p; ; {
		i := bytes.IndexByte(rest, 0)
		if i < 0 {
			return w.w.Write(p)
		}
		rest[i] = 0x80
		rest = rest[i+1:]
	}
}

// errWindow ends reading where all that is wanted was written.
var errWindow = errors.New("enough")

// window passes on the bytes from skip on, left of them.
type window struct {
	w          io.Writer
	skip, left int64
}

// Write implements io.Writer.
func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	cut := min(w.skip, int64(n))
	w.skip -= cut
	p = p[cut:]
	p = p[:min(w.left, int64(len(p)))]
	w.left -= int64(len(p))
	if _, err := w.w.Write(p); err != nil {
		return 0, err
	}
	if w.left == 0 {
		return n, errWindow
	}
	return n, nil
}

// end judges how what wrote to the window ended: the announced bytes must be there.
func (w *window) end(err error) error {
	switch {
	case w.left == 0 && (err == nil || errors.Is(err, errWindow)):
		return nil
	case err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}

// counter counts, looks for NULs, and keeps the text as long as it is not over max.
type counter struct {
	n, max int64
	nul    bool
	text   []byte
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.nul = c.nul || bytes.IndexByte(p, 0) >= 0
	if c.n <= c.max {
		c.text = append(c.text, p...)
	}
	return len(p), nil
}

// of is the specifier as package mime knows it.
func (s specifier) of() imap.PartSpecifier {
	switch s {
	case header, fields, fieldsNot:
		return imap.PartSpecifierHeader
	case text:
		return imap.PartSpecifierText
	case mimeHeader:
		return imap.PartSpecifierMIME
	}
	return imap.PartSpecifierNone
}
