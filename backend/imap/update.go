package imap

import (
	"bufio"
	"bytes"
	"maps"
	"slices"

	"waypost/backend/imap/carried"
	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mailbox"
)

const (
	// maxUpdates bounds the searches of a session that are kept up to date.
	maxUpdates = 16
	// maxUpdateRanges bounds the ranges of UIDs that all their results take, and maxUpdateKeys the bytes of
	// the keys of one: they go where the session goes.
	maxUpdateRanges = 1 << 16
	maxUpdateKeys   = 1 << 14
)

// updates are the searches of which the client is told what changes in their results (RFC 5267,
// Section 4.3). Nil: none. The session's lock guards them.
type updates struct {
	all []*update
	// stale are messages, in any order, that are to be looked at again, for they may have changed
	// before the session came here.
	stale   []mailbox.UID
	touched bool // since the last base of a checkpoint, but for the hits
}

// update is such a search. Its hits are what the client takes the result to be; the slice is not
// changed in place.
type update struct {
	tag   string
	byUID bool
	query *search.Query
	hits  []mailbox.UIDRange
	// in and out are by what the hits are others than in the last base of a checkpoint.
	in, out []mailbox.UIDRange
}

// tagged gives the search of that tag, or -1.
func (u *updates) tagged(tag string) int {
	if u == nil {
		return -1
	}
	return slices.IndexFunc(u.all, func(s *update) bool { return s.tag == tag })
}

// ranges is what the results take.
func (u *updates) ranges() (n int) {
	if u != nil {
		for _, s := range u.all {
			n += len(s.hits)
		}
	}
	return n
}

// keepUpdated has the client told what changes in a result from now on, or that it is not.
func (s *session) keepUpdated(c *cmd, q *search.Query, r *search.Result) {
	made := &update{tag: c.tag, byUID: c.uid, query: q}
	switch {
	case c.name == "SORT" || c.name == "UID SORT":
		s.noUpdate(c.tag, "not of what is sorted") // that would take CONTEXT=SORT
		return
	case s.updates != nil && len(s.updates.all) >= maxUpdates:
		s.noUpdate(c.tag, "too many searches")
		return
	case !q.Fix(s.searched()) || len(s.keys(made))+len(c.tag) > maxUpdateKeys:
		s.noUpdate(c.tag, "too long a search")
		return
	}
	if made.hits = ranges(r.All()); s.updates.ranges()+len(made.hits) > maxUpdateRanges {
		s.noUpdate(c.tag, "too large results")
		return
	}
	if s.updates == nil {
		s.updates = &updates{}
	}
	s.updates.all = append(s.updates.all, made)
	s.updates.touched = true
}

// noUpdate implements RFC 5267, Section 4.3.1.
func (s *session) noUpdate(tag, why string) {
	s.out.Raw("* NO [NOUPDATE ").String(tag).Raw("] no updates: ").Raw(why).CRLF()
}

// cancelUpdate implements RFC 5267, Section 4.3.5.
func (s *session) cancelUpdate(c *cmd) error {
	var tags []string
	for len(tags) == 0 || c.More() {
		if err := c.SP(); err != nil {
			return err
		}
		tag, err := c.String()
		if err != nil {
			return err
		}
		tags = append(tags, tag)
	}
	if err := c.End(); err != nil {
		return err
	}
	unknown := false
	for _, tag := range tags {
		i := s.updates.tagged(tag)
		if i < 0 {
			unknown = true
			continue
		}
		s.dropUpdate(i)
	}
	if unknown {
		return no("", "there is no such search")
	}
	return nil
}

func (s *session) dropUpdate(i int) {
	u := s.updates
	if u.all = slices.Delete(u.all, i, i+1); len(u.all) == 0 {
		s.updates = nil
		return
	}
	u.touched = true
}

// updateGone tells of messages that are about to be told to be expunged: their numbers are those of
// before (RFC 5267, Section 4.3.4).
func (s *session) updateGone(gone []mailbox.UID) {
	if s.updates == nil {
		return
	}
	for _, up := range s.updates.all {
		was := slices.DeleteFunc(slices.Clone(gone), func(uid mailbox.UID) bool { return !uid.Within(up.hits) })
		s.tellUpdate(up, was, nil)
	}
}

// updateChanged tells what a difference that was told has changed in the results. star is the
// message that was the last before it. After an error, which is that of a fence, it is to be done where the
// session goes on.
func (s *session) updateChanged(d difference, star mailbox.UID) error {
	u, v := s.updates, s.view
	if u == nil {
		return nil
	}
	always, flagged := u.stale, d.changed
	for _, m := range d.fresh {
		always = append(always, m.UID)
	}
	for _, m := range d.edits {
		flagged = append(flagged, m.UID)
	}
	u.stale = nil
	var last []mailbox.UID
	if now := v.lastUID(); now != star {
		last = slices.DeleteFunc([]mailbox.UID{star, now}, func(uid mailbox.UID) bool { return uid == 0 })
	}
	for i := 0; i < len(u.all); i++ {
		up := u.all[i]
		look := slices.Clone(always)
		if up.query.Fickle() {
			look = append(look, flagged...)
		}
		if up.query.Last() {
			look = append(look, last...)
		}
		switch err := s.lookAgain(up, look); {
		case err == nil && u.ranges() <= maxUpdateRanges:
			continue
		case err == nil:
			s.noUpdate(up.tag, "too large results")
		case s.ctx.Err() != nil:
			return nil // the session is over
		case fenced(err):
			u.stale = slices.Concat(always, flagged, last)
			u.touched = true
			return err
		default:
			s.log.Warn("imap search not kept up to date", "folder", v.name, "error", err)
			s.noUpdate(up.tag, "a temporary failure")
		}
		s.dropUpdate(i)
		i--
	}
	return nil
}

// lookAgain searches again among some messages, given in any order. It takes the slice.
func (s *session) lookAgain(up *update, look []mailbox.UID) error {
	slices.Sort(look)
	spans := s.view.spansOf(slices.Compact(look))
	if len(spans) == 0 {
		return nil
	}
	share := s.srv.searches.Of(string(s.box.User()))
	defer share.Close()
	r, err := up.query.Run(s.ctx, s.searched(), search.Env{Slots: share, Among: spans})
	if err != nil {
		return err
	}
	is := ranges(r.All())
	var out, in []mailbox.UID
	for _, m := range s.view.messages(spans) {
		switch was, now := m.UID.Within(up.hits), m.UID.Within(is); {
		case was && !now:
			out = append(out, m.UID)
		case now && !was:
			in = append(in, m.UID)
		}
	}
	s.tellUpdate(up, out, in)
	return nil
}

// tellUpdate tells what left a result and what came to it, both rising.
func (s *session) tellUpdate(up *update, out, in []mailbox.UID) {
	if len(out)+len(in) == 0 {
		return
	}
	byUID := up.byUID || s.enabled.uidOnly
	s.out.Raw("* ESEARCH (TAG ").String(up.tag).Byte(')')
	if byUID {
		s.out.Raw(" UID")
	}
	for _, part := range [...]struct {
		name string
		uids []mailbox.UID
	}{{" REMOVEFROM (0 ", out}, {" ADDTO (0 ", in}} {
		if len(part.uids) == 0 {
			continue
		}
		numbers := make([]uint32, len(part.uids))
		for i, uid := range part.uids {
			numbers[i] = uint32(uid)
			if !byUID {
				numbers[i] = uint32(s.view.index(uid) + 1)
			}
		}
		s.out.Raw(part.name).Ranges(syntax.Compact(numbers)).Byte(')')
	}
	s.out.CRLF()
	came, left := ranges(in), ranges(out)
	up.hits = mailbox.Without(mailbox.Union(up.hits, came), left)
	up.in, up.out = mailbox.Without(mailbox.Union(up.in, came), left), mailbox.Without(mailbox.Union(up.out, left), came)
}

// searched is the view for package search.
func (s *session) searched() *searched { return &searched{s, index.ReaderOf(s.view.folder)} }

// keys are the search's keys as they are written in a command.
func (s *session) keys(up *update) string {
	var b bytes.Buffer
	e := syntax.NewEncoder(&b, s.srv.outputs)
	up.query.WriteKeys(e)
	_ = e.Flush() // a buffer has no errors
	return b.String()
}

func (s *session) carryUpdates() *carried.Updates {
	if s.updates == nil {
		return nil
	}
	c := &carried.Updates{Stale: ranges(s.updates.stale)}
	for _, up := range s.updates.all {
		c.All = append(c.All, carried.Update{Tag: up.tag, ByUID: up.byUID, Keys: s.keys(up), Hits: up.hits})
	}
	return c
}

// tip is what a tip says of the results.
func (u *updates) tip() (all []carried.Updated) {
	if u == nil {
		return nil
	}
	for _, up := range u.all {
		all = append(all, carried.Updated{In: up.in, Out: up.out})
	}
	return all
}

// settled notes that a base has the results.
func (u *updates) settled() {
	if u == nil {
		return
	}
	u.touched = false
	for _, up := range u.all {
		up.in, up.out = nil, nil
	}
}

// takeUpdates makes the searches go on here; it gives the tags of those that cannot, of which the client
// is told. The view is what the client knows.
func (s *session) takeUpdates(from *carried.Updates) (refused []string) {
	if s.view == nil || from == nil {
		return nil
	}
	u := &updates{stale: slices.AppendSeq(among(s.view.told, from.Stale), maps.Keys(s.view.owed))}
	for _, c := range from.All {
		p := syntax.New(text{bufio.NewReader(bytes.NewReader([]byte(" " + c.Keys + "\r\n")))}, syntax.Limits{Command: maxRecord, Literal: maxRecord})
		err := p.Next()
		var q *search.Query
		if err == nil {
			q, err = search.Parse(p, search.Search, search.Options{})
		}
		if err != nil {
			refused = append(refused, c.Tag)
			continue
		}
		u.all = append(u.all, &update{tag: c.Tag, byUID: c.ByUID, query: q, hits: c.Hits})
	}
	if len(u.all) > 0 {
		s.updates = u
	}
	return refused
}
