package imap

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// search is a SEARCH's criteria, made ready for the view.
type search struct {
	criteria *imap.SearchCriteria
	sets     [][]span // all must have the message
	// bodies and texts are indices into the needles of the whole search.
	bodies, texts []int
	not           []*search
	or            [][2]*search
}

// needles are the strings that a search looks for in messages.
type needles struct{ body, text []string }

// Search implements SEARCH, UID SEARCH, ESEARCH (RFC 4731) and SEARCHRES (RFC
// 5182).
func (s *session) Search(kind imapserver.NumKind, c *imap.SearchCriteria, o *imap.SearchOptions) (*imap.SearchData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.selected()
	if err != nil {
		return nil, err
	}
	if err := mendSmaller(c, s.c.in.command()); err != nil {
		return nil, err
	}
	var words needles
	root := s.compile(v, c, &words)
	var hits []int
	for i, m := range v.told.All() {
		if s.c.ending() != endNone {
			return nil, s.end(s.c.ending())
		}
		cand := candidate{s: s, v: v, i: i, m: m, words: &words}
		hit, err := root.match(&cand)
		if errors.Is(err, mailbox.ErrNoMessage) {
			continue
		}
		if err != nil {
			s.dropBody()
			return nil, s.fail("SEARCH", err)
		}
		if hit {
			hits = append(hits, i)
		}
	}
	if o.ReturnSave {
		s.saved = v.save(hits, o)
	}
	return v.found(kind, hits), nil
}

// found gives the result in sequence numbers or UIDs.
func (v *view) found(kind imapserver.NumKind, hits []int) *imap.SearchData {
	data := &imap.SearchData{Count: uint32(len(hits))}
	number := func(i int) uint32 { return uint32(i + 1) }
	if kind == imapserver.NumKindUID {
		number = func(i int) uint32 { return uint32(v.told.At(i).UID) }
		var set imap.UIDSet
		for _, i := range hits {
			set.AddNum(imap.UID(number(i)))
		}
		data.All = set
	} else {
		var set imap.SeqSet
		for _, i := range hits {
			set.AddNum(number(i))
		}
		data.All = set
	}
	if len(hits) > 0 {
		data.Min, data.Max = number(hits[0]), number(hits[len(hits)-1])
	}
	return data
}

// save is what '$' stands for from now on: with MIN or MAX alone only those
// (RFC 5182, Section 2.4).
func (v *view) save(hits []int, o *imap.SearchOptions) imap.UIDSet {
	if len(hits) > 0 && !o.ReturnAll && !o.ReturnCount {
		var ends []int
		if o.ReturnMin {
			ends = append(ends, hits[0])
		}
		if o.ReturnMax {
			ends = append(ends, hits[len(hits)-1])
		}
		hits = ends
	}
	var set imap.UIDSet
	for _, i := range hits {
		set.AddNum(imap.UID(v.told.At(i).UID))
	}
	return set
}

// compile resolves number sets and collects the strings to look for.
func (s *session) compile(v *view, c *imap.SearchCriteria, words *needles) *search {
	n := &search{criteria: c}
	for _, set := range c.SeqNum {
		n.sets = append(n.sets, v.resolve(set, s.saved))
	}
	for _, set := range c.UID {
		n.sets = append(n.sets, v.resolve(set, s.saved))
	}
	for _, b := range c.Body {
		n.bodies = append(n.bodies, len(words.body))
		words.body = append(words.body, b)
	}
	for _, t := range c.Text {
		n.texts = append(n.texts, len(words.text))
		words.text = append(words.text, t)
	}
	for i := range c.Not {
		n.not = append(n.not, s.compile(v, &c.Not[i], words))
	}
	for i := range c.Or {
		n.or = append(n.or, [2]*search{s.compile(v, &c.Or[i][0], words), s.compile(v, &c.Or[i][1], words)})
	}
	return n
}

func contains(spans []span, i int) bool {
	_, ok := slices.BinarySearchFunc(spans, i, func(s span, i int) int {
		switch {
		case s.hi <= i:
			return -1
		case s.lo > i:
			return 1
		}
		return 0
	})
	return ok
}

// match tries what is cheap first.
func (n *search) match(c *candidate) (bool, error) {
	for _, spans := range n.sets {
		if !contains(spans, c.i) {
			return false, nil
		}
	}
	if !n.matchView(c) {
		return false, nil
	}
	for _, step := range []func(*candidate) (bool, error){n.matchDate, n.matchOr, n.matchNot, n.matchHeader, n.matchText} {
		if ok, err := step(c); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// matchView looks at flags and size.
func (n *search) matchView(c *candidate) bool {
	m, flags := c.m, c.v.toldFlags(c.m)
	for _, f := range n.criteria.Flag {
		if !hasFlag(flags, f, c.v.recent[m.UID]) {
			return false
		}
	}
	for _, f := range n.criteria.NotFlag {
		if hasFlag(flags, f, c.v.recent[m.UID]) {
			return false
		}
	}
	return (n.criteria.Larger <= 0 || m.WireSize > n.criteria.Larger) &&
		(n.criteria.Smaller <= 0 || m.WireSize < n.criteria.Smaller)
}

func hasFlag(flags mailbox.Flags, f imap.Flag, recent bool) bool {
	for _, s := range systemFlags() {
		if f == s.name {
			return flags.Has(s.bit)
		}
	}
	if f == flagRecent {
		return recent
	}
	return slices.ContainsFunc(flags.Keywords, func(k string) bool { return strings.EqualFold(k, string(f)) })
}

// within compares dates, without time of day and zone (RFC 9051, Section
// 6.4.4).
func within(t, since, before time.Time) bool {
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	return (since.IsZero() || !day.Before(since)) && (before.IsZero() || day.Before(before))
}

func (n *search) matchDate(c *candidate) (bool, error) {
	if n.criteria.Since.IsZero() && n.criteria.Before.IsZero() {
		return true, nil
	}
	t, err := c.date()
	return err == nil && within(t, n.criteria.Since, n.criteria.Before), err
}

func (n *search) matchOr(c *candidate) (bool, error) {
	for _, pair := range n.or {
		ok, err := pair[0].match(c)
		if err == nil && !ok {
			ok, err = pair[1].match(c)
		}
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (n *search) matchNot(c *candidate) (bool, error) {
	for _, not := range n.not {
		if ok, err := not.match(c); ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (n *search) matchHeader(c *candidate) (bool, error) {
	cr := n.criteria
	if len(cr.Header) == 0 && cr.SentSince.IsZero() && cr.SentBefore.IsZero() {
		return true, nil
	}
	for _, h := range cr.Header {
		if ok, err := c.hasField(h); !ok || err != nil {
			return false, err
		}
	}
	if cr.SentSince.IsZero() && cr.SentBefore.IsZero() {
		return true, nil
	}
	sent, err := c.sent()
	return err == nil && !sent.IsZero() && within(sent, cr.SentSince, cr.SentBefore), err
}

func (n *search) matchText(c *candidate) (bool, error) {
	if len(n.bodies) == 0 && len(n.texts) == 0 {
		return true, nil
	}
	body, text, err := c.look()
	if err != nil {
		return false, err
	}
	for _, i := range n.bodies {
		if !body[i] {
			return false, nil
		}
	}
	for _, i := range n.texts {
		if !text[i] {
			return false, nil
		}
	}
	return true, nil
}

// mendSmaller puts right what the protocol library loses: any date or LARGER
// key behind a SMALLER makes it forget that one, and the client would be told
// of messages it did not ask for. Where it cannot be put right the command is
// refused.
func mendSmaller(c *imap.SearchCriteria, command string) error {
	if !strings.Contains(command, "SMALLER") {
		return nil
	}
	text := unquoted(command)
	if _, options, ok := strings.Cut(text, "RETURN ("); ok {
		_, text, _ = strings.Cut(options, ")")
	}
	flat := !strings.Contains(text, "(")
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ()\r\n", r) })
	keys, smallest := 0, int64(math.MaxInt64)
	for i, w := range words {
		if w == "NOT" || w == "OR" {
			flat = false
		}
		if w != "SMALLER" || i+1 == len(words) {
			continue
		}
		if n, err := strconv.ParseInt(words[i+1], 10, 64); err == nil {
			keys++
			smallest = min(smallest, n)
		}
	}
	switch {
	case keys == 0 || keys == countSmaller(c):
	case flat:
		c.Smaller = max(smallest, 1)
	default:
		return no(imap.ResponseCodeCannot, "SMALLER cannot be combined like this")
	}
	return nil
}

func countSmaller(c *imap.SearchCriteria) int {
	n := 0
	if c.Smaller > 0 {
		n++
	}
	for i := range c.Not {
		n += countSmaller(&c.Not[i])
	}
	for i := range c.Or {
		n += countSmaller(&c.Or[i][0]) + countSmaller(&c.Or[i][1])
	}
	return n
}

// unquoted takes quoted strings out.
func unquoted(s string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
