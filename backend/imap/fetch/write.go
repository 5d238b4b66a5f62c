package fetch

import (
	"fmt"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// answer is what one message's line needs, gathered before it is written.
type answer struct {
	r       *Request
	src     Source
	uid     mailbox.UID
	body    opened
	meta    *mailbox.Meta
	summary mailbox.Summary
	wire    mime.Wire
	date    time.Time
	saved   time.Time
	emailID string
	pieces  []piece
	// withWire and withSummary: wire and summary are there.
	withWire, withSummary bool
}

// end gives back what only this message needed.
func (a *answer) end() {
	a.body.close(a.r)
	clear(a.pieces)
	*a = answer{pieces: a.pieces}
}

// Write writes one message's whole line. mailbox.ErrNoMessage, ErrUnknownEncoding and
// other errors of src come before any byte of it; ErrBroken in the middle. Errors of e's
// sink stay in e and are returned, too.
func (r *Request) Write(e *syntax.Encoder, src Source, m Message) error {
	a := &r.answer
	*a = answer{r: r, src: src, uid: m.UID, pieces: a.pieces[:0]}
	defer a.end()
	for i := range r.items {
		if err := a.gather(&r.items[i]); err != nil {
			return fmt.Errorf("fetch message %d: %w", m.UID, err)
		}
	}
	a.begin(e, m)
	piece, first := 0, true
	for i := range r.items {
		it := &r.items[i]
		if r.uidOnly && it.kind == kindUID {
			continue // RFC 9586, Section 3.3: it stands in front
		}
		if !first {
			e.SP()
		}
		first = false
		if it.section == nil {
			a.simple(e, it.kind, m)
			continue
		}
		if err := a.piece(e, it, &a.pieces[piece]); err != nil {
			return fmt.Errorf("%w: message %d: %w", ErrBroken, m.UID, err)
		}
		piece++
	}
	if first = a.told(e, m, first); first {
		a.simple(e, kindUID, m) // msg-att is not empty (RFC 9051, Section 9)
	}
	e.Raw(")\r\n")
	return e.Err()
}

// begin writes what stands before the items.
func (a *answer) begin(e *syntax.Encoder, m Message) {
	e.Raw("* ")
	if a.r.uidOnly {
		e.Number(uint64(m.UID)).Raw(" UIDFETCH (")
		return
	}
	e.Number(uint64(m.Seq)).Raw(" FETCH (")
}

// told writes what the message is to tell without having been asked, and reports
// whether there is still nothing in the answer.
func (a *answer) told(e *syntax.Encoder, m Message, first bool) bool {
	tell := func(k kind) {
		if !first {
			e.SP()
		}
		first = false
		a.simple(e, k, m)
	}
	if m.TellFlags && !a.r.Flags() {
		tell(kindFlags)
	}
	if m.TellModSeq && !a.r.ModSeq() {
		tell(kindModSeq)
	}
	return first
}

// gather finds what an item needs.
func (a *answer) gather(it *item) (err error) {
	switch it.kind {
	case kindEnvelope, kindBody, kindStructure:
		return a.needWire()
	case kindPreview:
		return a.needSummary()
	case kindInternalDate:
		if a.r.meta || a.r.brief {
			if err = a.needSummary(); err == nil {
				a.date = a.summary.Arrived
			}
		}
		if err == nil && a.date.IsZero() {
			a.date, err = a.src.InternalDate(a.uid)
		}
	case kindSaveDate:
		a.saved, err = a.src.SaveDate(a.uid)
	case kindEmailID:
		a.emailID, err = a.src.EmailID(a.uid)
	case kindSection, kindBinary, kindBinarySize:
		var p piece
		if p, err = a.find(it); err == nil {
			a.pieces = append(a.pieces, p)
		}
	}
	return err
}

func (a *answer) needMeta() (err error) {
	if a.meta == nil {
		a.meta, err = a.src.Meta(a.uid)
	}
	return err
}

// needSummary gets preview and date, without the Meta where that is not needed.
func (a *answer) needSummary() (err error) {
	if a.withSummary {
		return nil
	}
	if ss, ok := a.src.(SummarySource); ok && !a.r.meta {
		a.summary, err = ss.Summary(a.uid)
	} else if err = a.needMeta(); err == nil {
		a.summary = a.meta.Summary()
	}
	a.withSummary = err == nil
	return err
}

// needWire gets the ready-made texts, without the Meta where that is not needed.
func (a *answer) needWire() error {
	if a.withWire {
		return nil
	}
	if ws, ok := a.src.(WireSource); ok && !a.r.meta {
		w, known, err := ws.Wire(a.uid)
		if err != nil {
			return err
		}
		if known {
			a.wire, a.withWire = w, true
			return nil
		}
	}
	if err := a.needMeta(); err != nil {
		return err
	}
	a.wire, a.withWire = a.meta.Root.Wire, true
	return nil
}

// simple writes an item without a section.
func (a *answer) simple(e *syntax.Encoder, k kind, m Message) {
	switch k {
	case kindFlags:
		e.Raw("FLAGS ").Atoms(m.Flags)
	case kindUID:
		e.Raw("UID ").Number(uint64(m.UID))
	case kindInternalDate:
		e.Raw("INTERNALDATE ").DateTime(a.date)
	case kindSize:
		e.Raw("RFC822.SIZE ").Number(uint64(max(m.Size, 0)))
	case kindEnvelope:
		e.Raw("ENVELOPE ").Raw(a.wire.Envelope)
	case kindBody:
		e.Raw("BODY ").Raw(mime.WithoutExtensions(a.wire.Structure))
	case kindStructure:
		e.Raw("BODYSTRUCTURE ").Raw(a.wire.Structure)
	case kindModSeq:
		e.Raw("MODSEQ (").Number(m.ModSeq).Byte(')')
	case kindSaveDate:
		e.Raw("SAVEDATE ")
		if a.saved.IsZero() {
			e.Raw("NIL")
		} else {
			e.DateTime(a.saved)
		}
	case kindEmailID:
		e.Raw("EMAILID (").Raw(a.emailID).Byte(')')
	case kindThreadID:
		e.Raw("THREADID NIL") // RFC 8474, Section 5.2: no threads are known
	case kindPreview:
		e.Raw("PREVIEW ").String(a.summary.Preview)
	}
}
