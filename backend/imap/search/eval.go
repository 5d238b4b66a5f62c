package search

import (
	"strings"
	"time"
)

// verdict is three-valued: unknown is what the present level cannot tell.
type verdict uint8

const (
	unknown verdict = iota
	no
	yes
)

func verdictOf(ok bool) verdict {
	if ok {
		return yes
	}
	return no
}

// eval decides a node as far as can be done with what is at hand at a level.
func (n *node) eval(c *candidate, at level) (verdict, error) {
	switch n.kind {
	case kAnd:
		return n.each(c, at, no)
	case kOr:
		return n.each(c, at, yes)
	case kNot:
		v, err := n.kids[0].eval(c, at)
		switch v {
		case yes:
			v = no
		case no:
			v = yes
		}
		return v, err
	}
	if n.level == inMemory {
		return verdictOf(n.memory(c)), nil
	}
	if n.kind == kBody || n.kind == kText {
		return n.inText(c, at)
	}
	if at == inMemory {
		return unknown, nil
	}
	if n.kind == kHeader {
		return c.header(n, at)
	}
	ok, err := n.indexed(c)
	return verdictOf(ok), err
}

// each goes through the nodes below until one has the verdict that decides.
func (n *node) each(c *candidate, at level, decides verdict) (verdict, error) {
	open := false
	for _, kid := range n.kids {
		if kid.least > at && kid.level < inText {
			open = true
			continue
		}
		v, err := kid.eval(c, at)
		if err != nil || v == decides {
			return v, err
		}
		open = open || v == unknown
	}
	switch {
	case open:
		return unknown, nil
	case decides == no:
		return yes, nil
	}
	return no, nil
}

// memory decides what needs nothing but the message's line in the list.
func (n *node) memory(c *candidate) bool {
	switch m := c.m; n.kind {
	case kSet:
		return n.has(c.i)
	case kFlag:
		return m.Flags.System&n.have == n.have && m.Flags.System&n.lack == 0
	case kKeyword:
		for _, k := range m.Flags.Keywords {
			if strings.EqualFold(k, n.name) {
				return true
			}
		}
		return false
	case kRecent:
		return c.p.view.Recent(m.UID)
	case kLarger:
		return m.WireSize > n.n
	case kSmaller:
		return m.WireSize < n.n
	case kModSeq:
		return m.ModSeq >= uint64(n.n)
	}
	return true // kAll
}

// indexed decides what the view has at hand of a message.
func (n *node) indexed(c *candidate) (bool, error) {
	switch n.kind {
	case kEmailID:
		id, err := c.p.view.EmailID(c.m.UID)
		return id == n.name, err
	case kThreadID:
		id, err := c.p.view.ThreadID(c.m.UID)
		return id != "" && id == n.name, err
	case kSaveDates:
		t, err := c.p.view.SaveDate(c.m.UID)
		return !t.IsZero(), err
	case kSent:
		t, err := c.sent()
		return !t.IsZero() && n.within(t), err
	}
	t, err := c.arrived()
	if n.kind == kSaved && err == nil {
		var saved time.Time
		if saved, err = c.p.view.SaveDate(c.m.UID); !saved.IsZero() {
			t = saved // else the internal date counts (RFC 8514, Section 4.3)
		}
	}
	if err != nil {
		return false, err
	}
	switch age := int64(c.now.Sub(t) / time.Second); n.kind {
	case kOlder:
		return age >= n.n, nil
	case kYounger:
		return age <= n.n, nil
	}
	return n.within(t), nil
}

// within compares dates, without time of day and zone (RFC 9051, Section 6.4.4).
func (n *node) within(t time.Time) bool {
	y, m, d := t.Date()
	day := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	return (n.since.IsZero() || !day.Before(n.since)) && (n.before.IsZero() || day.Before(n.before))
}

// inText decides early what an index of texts rules out, and the rest by reading.
func (n *node) inText(c *candidate, at level) (verdict, error) {
	if at < inText {
		if c.ruledOut(n.slot) {
			return no, nil
		}
		return unknown, nil
	}
	found, err := c.look()
	if err != nil {
		return unknown, err
	}
	return verdictOf(found[n.slot]), nil
}
