package imap

import (
	"errors"
	"time"

	"waypost/backend/imap/fetch"
	"waypost/backend/imap/search"
	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// fetchPause is after how many messages a FETCH looks whether the session must end.
const fetchPause = 256

// fetchMods are FETCH's modifiers.
type fetchMods struct {
	since    uint64
	changed  bool // CHANGEDSINCE was given
	vanished bool
	partial  *partial
}

// skips reports a message that CHANGEDSINCE leaves out.
func (m *fetchMods) skips(st state) bool { return m.changed && st.modSeq <= m.since }

// partial is RFC 9394's: messages numbered from 1, from the first on or, negative, from the last
// back.
type partial struct{ lo, hi int64 }

func parsePartial(c *cmd) (*partial, error) {
	back := c.Take('-')
	a, err := c.Positive()
	if err == nil {
		err = c.Expect(':')
	}
	if err == nil && back {
		err = c.Expect('-')
	}
	if err != nil {
		return nil, err
	}
	b, err := c.Positive()
	p := &partial{int64(min(a, b)), int64(max(a, b))}
	if back {
		p.lo, p.hi = -p.hi, -p.lo
	}
	return p, err
}

// of gives the part of spans.
func (p *partial) of(spans []search.Span) []search.Span {
	total := int64(0)
	for _, s := range spans {
		total += int64(s.Hi - s.Lo)
	}
	lo, hi := p.lo, p.hi
	if lo < 0 {
		lo, hi = total+lo+1, total+hi+1
	}
	var out []search.Span
	at := int64(1) // the number of the span's first
	for _, s := range spans {
		n := int64(s.Hi - s.Lo)
		from, to := max(lo, at), min(hi, at+n-1)
		if from <= to {
			out = append(out, search.Span{Lo: s.Lo + int(from-at), Hi: s.Lo + int(to-at) + 1})
		}
		at += n
	}
	return out
}

// fetch implements FETCH and UID FETCH (RFC 9051, Section 6.4.5).
func (s *session) fetch(c *cmd) error {
	set, err := s.set(c)
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	req, err := fetch.Parse(c.Parser, fetch.Options{UIDOnly: s.enabled.uidOnly, Buffers: s.srv.bodies})
	if err != nil {
		return err
	}
	mods, err := s.fetchModifiers(c)
	if err == nil {
		err = c.End()
	}
	if err == nil {
		err = s.numbers(set, c.uid)
	}
	if err == nil {
		err = s.alive()
	}
	if err != nil {
		return err
	}
	if mods.changed || req.ModSeq() {
		s.enabled.condstore = true
	}
	if mods.changed {
		req.AddModSeq()
	}
	if c.uid && !s.enabled.uidOnly {
		req.AddUID()
	}
	if mods.vanished && s.way.After == 0 {
		gone, err := s.view.expungedSince(mods.since, 0)
		if err != nil {
			return s.fail(err)
		}
		s.tellVanished(gone, s.asked(set))
	}
	return s.fetchSpans(req, mods, s.resolve(set, c.uid), &s.way.fetched)
}

// fetched is how far a FETCH came: up to the message After, of which Lost were gone.
type fetched struct {
	After mailbox.UID
	Lost  bool
}

// fetchModifiers takes what stands behind the items (RFC 4466; RFC 7162, Section 3.1.4 and
// 3.2.6; RFC 9394, Section 3.3).
func (s *session) fetchModifiers(c *cmd) (m fetchMods, err error) {
	if !c.Take(' ') {
		return m, nil
	}
	err = c.List(false, func() error {
		name, err := c.Name()
		switch {
		case err != nil:
			return err
		case name == "VANISHED":
			m.vanished = true
			return nil
		case name != "CHANGEDSINCE" && name != "PARTIAL":
			return bad("unknown modifier")
		}
		if err := c.SP(); err != nil {
			return err
		}
		if name == "PARTIAL" {
			if !c.uid {
				return bad("PARTIAL is for UID FETCH")
			}
			m.partial, err = parsePartial(c)
			return err
		}
		m.changed = true
		m.since, err = c.Number64()
		return err
	})
	if err == nil && m.vanished && (!c.uid || !m.changed || !s.enabled.qresync) {
		err = bad("VANISHED needs UID FETCH, CHANGEDSINCE and QRESYNC")
	}
	return m, err
}

// fetchSpans writes the answers, behind those that were written elsewhere. Messages that are marked
// as seen by it are marked before anything is written, all at once.
func (s *session) fetchSpans(req *fetch.Request, mods fetchMods, spans []search.Span, at *fetched) error {
	v := s.view
	if mods.partial != nil {
		spans = mods.partial.of(spans)
	}
	if req.SetsSeen() {
		if err := s.see(req, mods, spans); err != nil {
			return err
		}
	}
	src := &source{s, index.ReaderOf(v.folder)}
	n := 0
	for i, m := range v.messages(spans) {
		if m.UID <= at.After {
			continue
		}
		st := v.state(m)
		if mods.skips(st) {
			continue
		}
		if s.c.cut.Load() {
			return errEnded // nobody reads it; what writes little would not notice
		}
		if n++; (n%fetchPause == 0 || s.carrier != nil) && s.stopping() {
			return errEnded
		}
		if v.ghost(m.UID) {
			at.After, at.Lost = m.UID, true
			continue
		}
		var room [8]string
		msg := fetch.Message{Seq: uint32(i + 1), UID: m.UID, ModSeq: st.modSeq, Size: m.WireSize}
		_, news := v.news[m.UID]
		if (news || v.unsure(m.UID)) && req.SetsSeen() {
			msg.TellFlags, msg.TellModSeq = true, s.enabled.condstore
		}
		if msg.TellFlags || req.Flags() {
			msg.Flags = wireFlags(room[:0], st.flags, s.recentTold(m.UID))
		}
		err := req.Write(s.out, src, msg)
		switch {
		case s.out.Err() != nil:
			return s.out.Err()
		case errors.Is(err, mailbox.ErrNoMessage):
			at.Lost = true // it was expunged; the client learns so as soon as it may
		case errors.Is(err, fetch.ErrUnknownEncoding):
			return no("UNKNOWN-CTE", "a part cannot be decoded")
		case errors.Is(err, fetch.ErrBroken):
			s.srv.metrics.failures.Inc()
			s.log.Error("imap message not sent to its end", "folder", v.name, "uid", m.UID, "error", err)
			return err
		case err != nil:
			return s.fail(err)
		}
		at.After = m.UID
		if msg.TellFlags && v.unsure(m.UID) {
			v.tell(m.UID, st)
		}
	}
	if at.Lost && !s.enabled.qresync {
		return no("EXPUNGEISSUED", "some of the messages no longer exist")
	}
	return s.out.Err()
}

// see sets \Seen where it is missing (RFC 9051, Section 6.4.5), in messages that are told.
func (s *session) see(req *fetch.Request, mods fetchMods, spans []search.Span) error {
	v := s.view
	if v.readOnly {
		return nil
	}
	rights, err := s.viewRights()
	if err != nil {
		return s.fail(err)
	}
	if !rights.Has('s') {
		return nil
	}
	var unseen []mailbox.UID
	for _, m := range v.messages(spans) {
		if st := v.state(m); !st.flags.Has(mailbox.Seen) && !mods.skips(st) {
			unseen = append(unseen, m.UID)
		}
	}
	if len(unseen) == 0 {
		return nil
	}
	r, err := v.folder.SetFlags(unseen, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Seen}})
	switch {
	case errors.Is(err, mailbox.ErrNoSpace):
		// Reading must go on where writing cannot.
		s.log.Warn("imap messages not marked as seen", "folder", v.name, "error", err)
		return nil
	case err != nil:
		return s.fail(err)
	}
	for _, m := range r.Changed {
		v.tell(m.UID, state{m.Flags, m.ModSeq})
	}
	s.tellKeywords()
	return nil
}

// drop closes the message that is kept open, if there is one.
func (s *session) drop() { _ = s.last.Drop() } // it was only read

// source gives a FETCH its messages.
type source struct {
	s *session
	r mailbox.Reader
}

var (
	_ fetch.WireSource    = (*source)(nil)
	_ fetch.FieldSource   = (*source)(nil)
	_ fetch.SummarySource = (*source)(nil)
)

// Open implements fetch.Source.
func (f *source) Open(uid mailbox.UID) (mailbox.Body, error) {
	return f.s.last.Open(uid, f.s.view.folder.Open)
}

// Meta implements fetch.Source.
func (f *source) Meta(uid mailbox.UID) (*mailbox.Meta, error) { return f.s.view.folder.Meta(uid) }

// InternalDate implements fetch.Source.
func (f *source) InternalDate(uid mailbox.UID) (time.Time, error) { return f.r.Arrived(uid) }

// Wire implements fetch.WireSource.
func (f *source) Wire(uid mailbox.UID) (w mime.Wire, ok bool, err error) {
	w, err = f.r.Wire(uid)
	return w, err == nil, err
}

// HeaderFields implements fetch.FieldSource.
func (f *source) HeaderFields(uid mailbox.UID, names index.Names) (header string, known bool, err error) {
	return f.r.Header(uid, names)
}

// Summary implements fetch.SummarySource.
func (f *source) Summary(uid mailbox.UID) (mailbox.Summary, error) { return f.r.Summary(uid) }

// SaveDate implements fetch.Source.
func (f *source) SaveDate(uid mailbox.UID) (time.Time, error) { return f.s.view.folder.SaveDate(uid) }

// EmailID implements fetch.Source.
func (f *source) EmailID(uid mailbox.UID) (string, error) { return f.s.view.folder.EmailID(uid) }
