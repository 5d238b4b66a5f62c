package imap

import (
	"context"
	"errors"
	"iter"
	"time"

	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// progressAfter is when a search begins to tell how far it has come, and how often.
const progressAfter = 5 * time.Second

// search implements SEARCH, SORT and THREAD, with and without UID.
func (s *session) search(c *cmd) error {
	kind := search.Search
	switch c.name {
	case "SORT", "UID SORT":
		kind = search.Sort
	case "THREAD", "UID THREAD":
		kind = search.Thread
	}
	q, err := search.Parse(c.Parser, kind, search.Options{
		ByUID: c.uid, Rev2: s.enabled.rev2, UTF8: s.enabled.utf8, UIDOnly: s.enabled.uidOnly,
	})
	if err != nil {
		err = searchError(err)
		var a *answer
		if q.Save() && errors.As(err, &a) && a.kind == "NO" {
			s.saved = nil // RFC 5182, Section 2.1; a BAD leaves it as it is
		}
		return err
	}
	if q.Update() && s.updates.tagged(c.tag) >= 0 {
		return bad("the tag is that of a search that is kept up to date") // RFC 5267, Section 4.3
	}
	if err := s.alive(); err != nil {
		return err
	}
	if q.ModSeq() {
		s.enabled.condstore = true
	}
	had := s.saved
	if q.Save() {
		s.saved = nil // what a failed one leaves (RFC 5182, Section 2.1)
	}
	began, told := time.Now(), time.Now()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	share := s.srv.searches.Of(string(s.box.User()))
	defer share.Close()
	r, err := q.Run(ctx, s.searched(), search.Env{Slots: share, Progress: func(done, total int) {
		if s.stopping() {
			cancel()
		}
		if now := time.Now(); now.Sub(began) > s.srv.progressAfter && now.Sub(told) > s.srv.progressAfter {
			told = now
			if s.progress(c.tag, done, total) != nil {
				cancel() // nobody is there to hear what it finds
			}
		}
	}})
	if err != nil {
		if s.out.Err() != nil {
			return s.out.Err()
		}
		if ctx.Err() != nil {
			err = errEnded
		}
		if err = s.fail(err); errors.Is(err, errEnded) {
			s.saved = had // where it is executed again, it may name it
		}
		return err
	}
	if q.Save() {
		s.saved = r.Saved
	}
	r.Write(s.out, c.tag)
	if q.Update() {
		s.keepUpdated(c, q, r)
	}
	return s.out.Err()
}

// progress implements RFC 9585. Who has gone is known by its error, not at the first time but soon.
func (s *session) progress(tag string, done, total int) error {
	s.out.Raw("* OK [INPROGRESS (").String(tag).SP().Number(uint64(done)).SP().Number(uint64(total)).
		Raw(")] still working").CRLF()
	return s.out.Flush()
}

func searchError(err error) error {
	var charset *search.CharsetError
	switch {
	case errors.Is(err, search.ErrUIDRequired):
		return &answer{"BAD", "UIDREQUIRED", "message numbers are not allowed once UIDONLY is enabled"}
	case errors.Is(err, search.ErrTooMuch):
		return no("LIMIT", "too many search keys")
	case errors.As(err, &charset):
		return no(charset.Code(), "unknown charset")
	}
	return err
}

// searched is what package search sees of the session's view.
type searched struct {
	s *session
	r mailbox.Reader
}

var _ search.HeaderView = (*searched)(nil)

// Len implements search.View.
func (v *searched) Len() int { return v.s.view.told.Len() }

// From implements search.View.
func (v *searched) From(i int) iter.Seq2[int, *mailbox.Message] {
	view := v.s.view
	if len(view.news) == 0 {
		return view.told.From(i)
	}
	return func(yield func(int, *mailbox.Message) bool) {
		for i, m := range view.told.From(i) {
			if st, ok := view.news[m.UID]; ok {
				now := *m
				now.Flags, now.ModSeq = st.flags, st.modSeq
				m = &now
			}
			if !yield(i, m) {
				return
			}
		}
	}
}

// Resolve implements search.View.
func (v *searched) Resolve(set syntax.Set, byUID bool) []search.Span { return v.s.resolve(set, byUID) }

// Recent implements search.View.
func (v *searched) Recent(uid mailbox.UID) bool { return v.s.view.isRecent(uid) }

// InternalDate implements search.View.
func (v *searched) InternalDate(uid mailbox.UID) (time.Time, error) { return v.r.Arrived(uid) }

// Headers implements search.HeaderView.
func (v *searched) Headers(names []string) func(mailbox.UID, func(*mime.Field)) error {
	set, _ := index.NamesOf(names)
	return func(uid mailbox.UID, each func(*mime.Field)) error { return v.r.Fields(uid, set, each) }
}

// SaveDate implements search.View.
func (v *searched) SaveDate(uid mailbox.UID) (time.Time, error) { return v.s.view.folder.SaveDate(uid) }

// EmailID implements search.View.
func (v *searched) EmailID(uid mailbox.UID) (string, error) { return v.s.view.folder.EmailID(uid) }

// ThreadID implements search.View: there are none (RFC 8474, Section 5.2 allows NIL).
func (v *searched) ThreadID(mailbox.UID) (string, error) { return "", nil }

// Meta implements search.View.
func (v *searched) Meta(uid mailbox.UID) (*mailbox.Meta, error) { return v.s.view.folder.Meta(uid) }

// Open implements search.View.
func (v *searched) Open(uid mailbox.UID) (mailbox.Body, error) { return v.s.view.folder.Open(uid) }

// Candidates implements search.TextIndex.
func (v *searched) Candidates(ctx context.Context, needle string, body bool) ([]mailbox.UID, bool) {
	texts, view := v.s.data.Texts, v.s.view
	if texts == nil || !v.s.personal(view.name) {
		return nil, false // it is of the session's own user
	}
	return texts.Candidates(ctx, view.folder, view.told, needle, body)
}
