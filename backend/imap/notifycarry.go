package imap

import (
	"bufio"
	"bytes"
	"maps"
	"slices"

	"waypost/backend/imap/carried"
	"waypost/backend/imap/fetch"
	"waypost/backend/imap/syntax"
)

// Flags of carried.Folder.
const (
	carriedExists = 1 << iota
	carriedAccess
	carriedRefused
	carriedSubscribed
	carriedOwn
)

func (n *notify) carry() *carried.Notify {
	if n == nil {
		return nil
	}
	c := &carried.Notify{Selected: uint8(n.selected), Delayed: n.delayed, Account: carryEntries(n.account)}
	if n.fetch != nil {
		c.Fetch = n.fetch.String()
	}
	for i := range n.groups {
		g := &n.groups[i]
		c.Groups = append(c.Groups, carried.Group{Filter: uint8(g.filter), Events: uint8(g.events), Names: slices.Sorted(maps.Keys(g.names))})
	}
	for name, w := range n.folders {
		f := carried.Folder{Name: name, ID: w.id, Counts: w.counted, Metadata: carryEntries(w.metadata)}
		for bit, on := range w.bits() {
			if *on {
				f.Flags |= bit
			}
		}
		if w.counted {
			f.UIDValidity, f.UIDNext, f.Messages = w.counts.uidValidity, w.counts.uidNext, uint32(w.counts.messages)
			f.Unseen, f.ModSeq = int64(w.counts.unseen), w.counts.modSeq
		}
		c.Folders = append(c.Folders, f)
	}
	return c
}

func (w *known) bits() map[uint8]*bool {
	return map[uint8]*bool{
		carriedExists: &w.exists, carriedAccess: &w.access, carriedRefused: &w.refused,
		carriedSubscribed: &w.subscribed, carriedOwn: &w.own,
	}
}

func carryEntries(all map[string]uint64) []carried.Entry {
	if all == nil {
		return nil
	}
	out := make([]carried.Entry, 0, len(all))
	for name, hash := range all {
		out = append(out, carried.Entry{Name: name, Hash: hash})
	}
	return out
}

// takeNotify makes what NOTIFY asked for, and reports that it cannot: then the client is told.
func (s *session) takeNotify(c *carried.Notify) (overflow bool) {
	if c == nil {
		return false
	}
	n := &notify{selected: event(c.Selected), delayed: c.Delayed, account: takeEntries(c.Account)}
	s.notify = n
	if c.Fetch != "" {
		p := syntax.New(text{bufio.NewReader(bytes.NewReader([]byte(c.Fetch + "\r\n")))}, syntax.Limits{Command: maxRecord, Literal: maxRecord})
		err := p.Next()
		if err == nil {
			n.fetch, err = fetch.Parse(p, fetch.Options{UIDOnly: s.enabled.uidOnly, Buffers: s.srv.bodies})
		}
		if err != nil {
			return true
		}
	}
	for _, g := range c.Groups {
		made := group{filter: filter(g.Filter), events: event(g.Events)}
		if made.filter > filterMailboxes {
			return true
		}
		if made.filter == filterSubtree || made.filter == filterMailboxes {
			made.names = make(map[string]struct{})
			for _, name := range g.Names {
				made.names[name] = struct{}{}
			}
		}
		n.groups = append(n.groups, made)
		n.all |= made.events
	}
	if len(n.groups) == 0 {
		return false
	}
	n.learnOthers(s.box)
	// All is looked at anew: what is as the client knows it is not told.
	n.relist = true
	n.pending, n.folders = make(map[string]struct{}), make(map[string]*known)
	for i := range c.Folders {
		n.takeFolder(&c.Folders[i])
	}
	return false
}

func (n *notify) takeFolder(f *carried.Folder) {
	w := &known{id: f.ID, counted: f.Counts, metadata: takeEntries(f.Metadata)}
	for bit, on := range w.bits() {
		*on = f.Flags&bit != 0
	}
	if f.Counts {
		w.counts = counts{f.UIDValidity, f.UIDNext, int(f.Messages), int(f.Unseen), f.ModSeq}
	}
	if w.id != "" {
		n.ids++
	}
	n.folders[f.Name] = w
	if w.access && n.all&messageEvents != 0 {
		n.pending[f.Name] = struct{}{}
	}
}

func takeEntries(all []carried.Entry) map[string]uint64 {
	if all == nil {
		return nil
	}
	out := make(map[string]uint64, len(all))
	for _, e := range all {
		out[e.Name] = e.Hash
	}
	return out
}

// text is a syntax.Input of what was written down.
type text struct{ *bufio.Reader }

// Line implements syntax.Input.
func (t text) Line(max int) ([]byte, error) {
	line, err := t.ReadBytes('\n')
	if err == nil && len(line) > max+2 {
		err = syntax.ErrTooBig
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// Continue implements syntax.Input.
func (text) Continue() error { return nil }
