package imap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

const (
	// seenBatch is how many messages a FETCH marks as seen at once, before it
	// sends them.
	seenBatch = 32
	// maxFields bounds header fields kept in memory while they are counted;
	// more are read twice.
	maxFields = 64 << 10
)

// Fetch implements FETCH and UID FETCH.
func (s *session) Fetch(w *imapserver.FetchWriter, set imap.NumSet, o *imap.FetchOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.selected()
	if err != nil {
		return err
	}
	if len(o.BinarySection) > 0 || len(o.BinarySectionSize) > 0 {
		return bad("BINARY is not supported")
	}
	marks := !v.readOnly && slices.ContainsFunc(o.BodySection, func(b *imap.FetchItemBodySection) bool { return !b.Peek })
	spans := v.resolve(set, s.saved)
	if !marks {
		return s.fetchAll(w, v, spans, nil, o)
	}
	var gone error
	for _, part := range batches(spans, seenBatch) {
		marked, err := s.markSeen(v, part)
		if err != nil {
			return err
		}
		// A message that is gone does not keep the others from being sent.
		switch err := s.fetchAll(w, v, part, marked, o); {
		case errors.Is(err, errGone):
			gone = err
		case err != nil:
			return err
		}
	}
	return gone
}

// errGone is FETCH's NO where messages of the view are expunged already (RFC
// 2180, Section 4.1.3).
var errGone = no("EXPUNGEISSUED", "some of the messages no longer exist")

func (s *session) fetchAll(w *imapserver.FetchWriter, v *view, spans []span, marked map[mailbox.UID]bool, o *imap.FetchOptions) error {
	var gone error
	for i, m := range v.messages(spans) {
		err := s.fetchOne(w, v, i, m, marked[m.UID], o)
		switch {
		case errors.Is(err, mailbox.ErrNoMessage):
			gone = errGone
		case err != nil:
			return s.fail("FETCH", err)
		}
	}
	return gone
}

// batches cuts spans into lists of at most n messages.
func batches(spans []span, n int) [][]span {
	var out [][]span
	for _, sp := range spans {
		for lo := sp.lo; lo < sp.hi; lo += n {
			out = append(out, []span{{lo, min(lo+n, sp.hi)}})
		}
	}
	return out
}

// markSeen sets \Seen and gives the messages that lacked it. A disk that takes
// no flags does not keep the client from reading.
func (s *session) markSeen(v *view, spans []span) (map[mailbox.UID]bool, error) {
	var unseen []mailbox.UID
	for _, m := range v.messages(spans) {
		if !v.toldFlags(m).Has(mailbox.Seen) {
			unseen = append(unseen, m.UID)
		}
	}
	if len(unseen) == 0 {
		return nil, nil
	}
	msgs, err := v.folder.SetFlags(unseen, mailbox.FlagsAdd, mailbox.Flags{System: mailbox.Seen})
	if err != nil {
		if fenced(err) || renumbered(err) {
			return nil, s.fail("FETCH", err)
		}
		s.log.Warn("imap messages not marked as seen", "folder", v.name, "error", err)
		return nil, nil
	}
	marked := make(map[mailbox.UID]bool, len(msgs))
	for _, m := range msgs {
		v.flags[m.UID] = m.Flags
		v.learn(m.Flags)
		marked[m.UID] = true
	}
	return marked, nil
}

// piece is a section of a message, found before anything is written.
type piece struct {
	section *imap.FetchItemBodySection
	at      mime.Range
	// For chosen header fields: their text, or if that is long its size, and
	// at is the header.
	fields bool
	text   []byte
	size   int64
}

// fetchOne writes one message's answer. Whatever can fail is done before the
// first byte is written; behind it the connection is cut.
func (s *session) fetchOne(w *imapserver.FetchWriter, v *view, i int, m *mailbox.Message, marked bool, o *imap.FetchOptions) error {
	var items fetched
	if err := s.gather(v, m.UID, o, &items); err != nil {
		return err
	}
	rw := w.CreateMessage(uint32(i + 1))
	if o.UID {
		rw.WriteUID(imap.UID(m.UID))
	}
	if o.Flags || marked {
		rw.WriteFlags(wireFlags(v.toldFlags(m), v.recent[m.UID]))
	}
	if o.InternalDate {
		rw.WriteInternalDate(items.date)
	}
	if o.RFC822Size {
		rw.WriteRFC822Size(m.WireSize)
	}
	if o.Envelope {
		rw.WriteEnvelope(items.root.Envelope)
	}
	if o.BodyStructure != nil {
		rw.WriteBodyStructure(items.root.BodyStructure())
	}
	var failed error
	for _, p := range items.pieces {
		if failed = s.writePiece(rw, p); failed != nil {
			break
		}
	}
	if failed != nil {
		s.log.Warn("imap message not sent to its end", "folder", v.name, "uid", m.UID, "error", failed)
		s.c.abort(endIO)
	}
	// The response must be closed in any case: it holds the library's lock.
	if err := rw.Close(); err != nil || failed != nil {
		return errEnded
	}
	return nil
}

func (s *session) writePiece(rw *imapserver.FetchResponseWriter, p piece) error {
	from, n := int64(0), p.size
	if part := p.section.Partial; part != nil {
		from = min(max(part.Offset, 0), p.size)
		n = min(max(part.Size, 0), p.size-from)
	}
	lw := rw.WriteBodySection(p.section, n)
	var err error
	switch {
	case p.text != nil:
		_, err = lw.Write(p.text[from : from+n])
	case p.fields:
		err = s.body.copyFields(&window{w: lw, skip: from, left: n}, p)
	default:
		chunk := s.srv.chunks.Get().(*[]byte)
		err = s.body.copy(lw, p.at.Start+from, n, *chunk)
		s.srv.chunks.Put(chunk)
	}
	return errors.Join(err, lw.Close())
}

// window passes on the bytes from skip on, left of them.
type window struct {
	w          io.Writer
	skip, left int64
}

func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	cut := min(w.skip, int64(len(p)))
	w.skip -= cut
	p = p[cut:]
	p = p[:min(w.left, int64(len(p)))]
	w.left -= int64(len(p))
	if len(p) > 0 {
		if _, err := w.w.Write(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// counter counts, and keeps the text as long as it is short.
type counter struct {
	n    int64
	text bytes.Buffer
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.n <= maxFields {
		c.text.Write(p)
	}
	return len(p), nil
}

// pieceOf finds a section in a message whose structure is known as far as the
// section needs it.
func (b *openBody) pieceOf(root *mime.Part, section *imap.FetchItemBodySection) (piece, error) {
	p := piece{section: section}
	at, ok := root.Section(section.Part, section.Specifier)
	if !ok {
		p.text = []byte{}
		return p, nil
	}
	p.at, p.size = at, at.Len()
	names := section.HeaderFields
	if len(section.HeaderFieldsNot) > 0 {
		names = section.HeaderFieldsNot
	}
	if len(names) == 0 || section.Specifier != imap.PartSpecifierHeader {
		return p, nil
	}
	p.fields = true
	var c counter
	if err := b.copyFields(&c, p); err != nil {
		return p, err
	}
	p.size = c.n
	if c.n <= maxFields {
		p.text = c.text.Bytes()
	}
	return p, nil
}

func (b *openBody) copyFields(w io.Writer, p piece) error {
	if err := b.seek(p.at.Start); err != nil {
		return err
	}
	not := len(p.section.HeaderFieldsNot) > 0
	names := p.section.HeaderFields
	if not {
		names = p.section.HeaderFieldsNot
	}
	if err := mime.CopyFields(w, io.LimitReader(b, p.at.Len()), names, not); err != nil {
		return fmt.Errorf("header of message %d: %w", b.uid, err)
	}
	return nil
}
