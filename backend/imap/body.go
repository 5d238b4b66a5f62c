package imap

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// openBody is a message being read. The session keeps the last one, because
// clients fetch a large message in parts, one after the other: starting again
// for each would read it over and over.
type openBody struct {
	uid  mailbox.UID
	body mailbox.Body
	pos  int64

	header *mime.Part // of the header alone
}

// Read continues where the last one ended.
func (b *openBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.pos += int64(n)
	return n, err
}

// seek goes to an offset.
func (b *openBody) seek(to int64) error {
	if to == b.pos {
		return nil
	}
	if _, err := b.body.Seek(to, io.SeekStart); err != nil {
		return fmt.Errorf("seek in message %d: %w", b.uid, err)
	}
	b.pos = to
	return nil
}

// copy writes n bytes from an offset on.
func (b *openBody) copy(w io.Writer, from, n int64, buffer []byte) error {
	if err := b.seek(from); err != nil {
		return err
	}
	// Hidden methods would let io choose a buffer of its own.
	written, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(b, n)}, buffer)
	if err == nil && written < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read message %d: %w", b.uid, err)
	}
	return nil
}

// scanHeader gives the header, and where the body is.
func (b *openBody) scanHeader() (*mime.Part, error) {
	if b.header == nil {
		if err := b.seek(0); err != nil {
			return nil, err
		}
		p, err := mime.ScanHeader(b)
		if err != nil {
			return nil, fmt.Errorf("read message %d: %w", b.uid, err)
		}
		p.Body.End = b.body.WireSize()
		b.header = p
	}
	return b.header, nil
}

// openMessage opens a message, or gives the one that is open already.
func (s *session) openMessage(v *view, uid mailbox.UID) (*openBody, error) {
	if s.body != nil && s.body.uid == uid {
		return s.body, nil
	}
	s.dropBody()
	body, err := v.folder.Open(uid)
	if err != nil {
		return nil, err
	}
	s.body = &openBody{uid: uid, body: body}
	return s.body, nil
}

func (s *session) dropBody() {
	if s.body == nil {
		return
	}
	if err := s.body.body.Close(); err != nil {
		s.log.Debug("imap message not closed", "uid", s.body.uid, "error", err)
	}
	s.body = nil
}

// fetched is what a FETCH answer needs of a message beyond the view.
type fetched struct {
	date   time.Time
	root   *mime.Part
	pieces []piece
}

// gather finds it. ErrNoMessage: the message is gone. What the folder's index
// knows is taken from there; the message is opened for all else.
func (s *session) gather(v *view, uid mailbox.UID, o *imap.FetchOptions, f *fetched) error {
	var meta *mailbox.Meta
	var err error
	if needsIndex(o) {
		if meta, err = v.folder.Meta(uid); err != nil {
			return err
		}
		f.root, f.date = meta.Root, meta.Arrived
	}
	if o.InternalDate && f.date.IsZero() {
		if f.date, err = v.folder.InternalDate(uid); err != nil {
			return err
		}
	}
	f.pieces = make([]piece, len(o.BodySection))
	for i, section := range o.BodySection {
		if f.pieces[i], err = s.findPiece(v, uid, meta, f.root, section); err != nil {
			s.dropBody() // its place in the file is not known any more
			return err
		}
	}
	return nil
}

// needsIndex reports that the answer is in the index, or needs the structure.
func needsIndex(o *imap.FetchOptions) bool {
	return o.Envelope || o.BodyStructure != nil || slices.ContainsFunc(o.BodySection, func(b *imap.FetchItemBodySection) bool {
		return len(b.Part) > 0 || listedFields(b)
	})
}

// listedFields reports BODY[HEADER.FIELDS (...)] with fields that an index has.
func listedFields(b *imap.FetchItemBodySection) bool {
	return b.Specifier == imap.PartSpecifierHeader && len(b.Part) == 0 && len(b.HeaderFields) > 0 &&
		!slices.ContainsFunc(b.HeaderFields, func(name string) bool { return !index.Kept(name) })
}

// findPiece finds a section; meta and root are nil where nothing asks for them.
func (s *session) findPiece(v *view, uid mailbox.UID, meta *mailbox.Meta, root *mime.Part, section *imap.FetchItemBodySection) (piece, error) {
	if meta != nil && listedFields(section) {
		if text, known := index.HeaderFields(meta, section.HeaderFields); known {
			return piece{section: section, text: []byte(text), size: int64(len(text))}, nil
		}
	}
	b, err := s.openMessage(v, uid)
	if err != nil {
		return piece{}, err
	}
	switch {
	case root != nil:
	case onlyWhole(section):
		root = &mime.Part{Body: mime.Range{End: b.body.WireSize()}}
	default:
		if root, err = b.scanHeader(); err != nil {
			return piece{}, err
		}
	}
	return b.pieceOf(root, section)
}

// onlyWhole reports BODY[]: that needs no look inside.
func onlyWhole(b *imap.FetchItemBodySection) bool {
	return b.Specifier == imap.PartSpecifierNone && len(b.Part) == 0
}
