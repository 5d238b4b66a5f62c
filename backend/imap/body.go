package imap

import (
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/imap/mime"
	"waypost/backend/mailbox"
)

// openBody is a message being read. The session keeps the last one, because
// clients fetch a large message in parts, one after the other: starting again
// for each would read it over and over.
type openBody struct {
	uid  mailbox.UID
	body mailbox.Body
	pos  int64

	header *mime.Part // of the header alone
	whole  *mime.Part // of all
}

// Read continues where the last one ended.
func (b *openBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.pos += int64(n)
	return n, err
}

// seek goes to an offset, forward by reading.
func (b *openBody) seek(to int64) error {
	if to < b.pos {
		if err := b.body.Rewind(); err != nil {
			return fmt.Errorf("rewind message %d: %w", b.uid, err)
		}
		b.pos = 0
	}
	if _, err := io.CopyN(io.Discard, b, to-b.pos); err != nil {
		return fmt.Errorf("read message %d: %w", b.uid, short(err))
	}
	return nil
}

// short: the message has fewer bytes than it said.
func short(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
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

// scan gives the whole structure.
func (b *openBody) scan() (*mime.Part, error) {
	if b.whole == nil {
		if err := b.seek(0); err != nil {
			return nil, err
		}
		p, err := mime.Scan(b)
		if err != nil {
			return nil, fmt.Errorf("read message %d: %w", b.uid, err)
		}
		b.whole = p
	}
	return b.whole, nil
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

// gather finds it. ErrNoMessage: the message is gone.
func (s *session) gather(v *view, uid mailbox.UID, o *imap.FetchOptions, f *fetched) error {
	var err error
	if o.InternalDate {
		if f.date, err = v.folder.InternalDate(uid); err != nil {
			return err
		}
	}
	deep := o.BodyStructure != nil
	for _, b := range o.BodySection {
		deep = deep || len(b.Part) > 0
	}
	if !deep && !o.Envelope && len(o.BodySection) == 0 {
		return nil
	}
	b, err := s.openMessage(v, uid)
	if err != nil {
		return err
	}
	switch {
	case deep:
		f.root, err = b.scan()
	case o.Envelope || !onlyWhole(o.BodySection):
		f.root, err = b.scanHeader()
	default:
		f.root = &mime.Part{Body: mime.Range{End: b.body.WireSize()}}
	}
	for i := 0; err == nil && i < len(o.BodySection); i++ {
		var p piece
		p, err = b.pieceOf(f.root, o.BodySection[i])
		f.pieces = append(f.pieces, p)
	}
	if err != nil {
		s.dropBody() // its place in the file is not known any more
	}
	return err
}

// onlyWhole reports that only BODY[] is asked for: that needs no look inside.
func onlyWhole(sections []*imap.FetchItemBodySection) bool {
	for _, b := range sections {
		if b.Specifier != imap.PartSpecifierNone || len(b.Part) > 0 {
			return false
		}
	}
	return true
}
