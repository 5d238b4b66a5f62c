package search

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"waypost/backend/imap/collate"
	"waypost/backend/imap/order"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// candidate is the message that a run looks at. What has to be read of it is read once, and only
// if asked for; buffers stay from one to the next.
type candidate struct {
	p    *plan
	run  *run
	now  time.Time
	i    int
	m    *mailbox.Message
	meta *mailbox.Meta
	body mailbox.Body
	date struct {
		arrived, sent time.Time
	}
	hadDate   bool
	hasFields bool      // verdicts and the sent date are from the index
	hasHeader bool      // verdicts are from the message
	verdicts  []verdict // of plan.headers
	found     []bool    // of plan.texts, once looked
	folded    []byte
	readIndex func(uid mailbox.UID, each func(*mime.Field)) error
	takeField func(*mime.Field)
	inHeader  *collate.Matcher
	inBody    *collate.Matcher
}

func newCandidate(p *plan, r *run, now time.Time) *candidate {
	c := &candidate{p: p, run: r, now: now, verdicts: make([]verdict, len(p.headers))}
	if v, ok := p.view.(HeaderView); ok {
		names := p.names
		if p.sent && !slices.Contains(names, "date") {
			names = append(slices.Clone(names), "date")
		}
		if len(names) > 0 {
			c.readIndex = v.Headers(names)
		}
	}
	c.takeField = c.field
	if len(p.texts) > 0 {
		c.inBody = collate.NewMatcher(p.needles)
		c.found = make([]bool, 0, len(p.texts))
	}
	if p.anyHead {
		c.inHeader = collate.NewMatcher(p.needles)
	}
	return c
}

// begin turns to another message; the last one is closed.
func (c *candidate) begin(i int, m *mailbox.Message) {
	c.i, c.m, c.meta, c.hasFields, c.hasHeader, c.hadDate = i, m, nil, false, false, false
	c.date.arrived, c.date.sent = time.Time{}, time.Time{}
	c.found = c.found[:0]
}

// end closes the message, if it was opened.
func (c *candidate) end() {
	if c.body != nil {
		_ = c.body.Close() // was only read
		c.body = nil
		c.run.release()
	}
}

func (c *candidate) arrived() (time.Time, error) {
	if !c.date.arrived.IsZero() {
		return c.date.arrived, nil
	}
	t, err := c.p.view.InternalDate(c.m.UID)
	c.date.arrived = t
	return t, err
}

// indexed is what the folder's index knows.
func (c *candidate) indexed() (*mailbox.Meta, error) {
	if c.meta != nil {
		return c.meta, nil
	}
	var err error
	c.meta, err = c.p.view.Meta(c.m.UID)
	return c.meta, err
}

// sent is the date in the header, zero if there is none.
func (c *candidate) sent() (time.Time, error) {
	err := c.fields()
	return c.date.sent, err
}

// fields goes through the fields that the index keeps, for all header keys at once. A
// field that was too much for it leaves its keys unknown.
func (c *candidate) fields() error {
	if c.hasFields {
		return nil
	}
	for i, n := range c.p.headers {
		c.verdicts[i] = unknown
		if n.level == inIndex {
			c.verdicts[i] = no
		}
	}
	if c.readIndex != nil {
		if err := c.readIndex(c.m.UID, c.takeField); err != nil {
			return err
		}
	} else if len(c.p.names) > 0 || c.p.sent {
		meta, err := c.indexed()
		if err != nil {
			return err
		}
		for i := range meta.Fields {
			c.field(&meta.Fields[i])
		}
	}
	c.hasFields = true
	return nil
}

func (c *candidate) field(f *mime.Field) {
	if c.p.sent && f.Name == "date" && !c.hadDate {
		c.hadDate, c.date.sent = true, order.Sent(f.Value)
	}
	if f.Cut {
		for i, n := range c.p.headers {
			if n.name == f.Name && c.verdicts[i] == no {
				c.verdicts[i] = unknown
			}
		}
		return
	}
	folded := false
	for i, n := range c.p.headers {
		if n.name != f.Name || c.verdicts[i] == yes {
			continue
		}
		if !folded {
			c.folded, folded = collate.Append(c.folded[:0], readable(f)), true
		}
		if bytes.Contains(c.folded, n.needle) {
			c.verdicts[i] = yes
		}
	}
}

// readable decodes a field's value; most are plain already.
func readable(f *mime.Field) string {
	for i := range len(f.Value) {
		if c := f.Value[i]; c < ' ' || c >= 0x7f || c == '=' {
			return f.Text()
		}
	}
	return f.Value
}

// header decides a header key. The message is opened only for fields of which the index
// knows nothing.
func (c *candidate) header(n *node, at level) (verdict, error) {
	if n.level > at {
		return unknown, nil
	}
	if err := c.fields(); err != nil {
		return unknown, err
	}
	if c.verdicts[n.slot] == unknown && at >= inHeader {
		if err := c.wholeHeader(); err != nil {
			return unknown, err
		}
	}
	return c.verdicts[n.slot], nil
}

// wholeHeader decides all header keys by the message itself.
func (c *candidate) wholeHeader() error {
	if c.hasHeader {
		return nil
	}
	fields, err := c.headerAt(0, -1)
	if err != nil {
		return err
	}
	for i, n := range c.p.headers {
		if c.verdicts[i] != unknown {
			continue
		}
		c.verdicts[i] = no
		for j := range fields {
			if fields[j].Name != n.name {
				continue
			}
			c.folded = collate.Append(c.folded[:0], fields[j].Value)
			if bytes.Contains(c.folded, n.needle) {
				c.verdicts[i] = yes
				break
			}
		}
	}
	c.hasHeader = true
	return nil
}

// headerAt reads the header of the message, or of a part; size -1: to its end.
func (c *candidate) headerAt(start, size int64) ([]mime.Field, error) {
	b, err := c.open(start)
	if err != nil {
		return nil, err
	}
	if size >= 0 {
		b = io.LimitReader(b, size)
	}
	return mime.Fields(b)
}

// open gives the message's bytes from an offset on.
func (c *candidate) open(at int64) (io.Reader, error) {
	if c.body == nil {
		if err := c.run.acquire(); err != nil {
			return nil, err
		}
		b, err := c.p.view.Open(c.m.UID)
		if err != nil {
			c.run.release()
			return nil, err
		}
		c.body = b
	}
	if _, err := c.body.Seek(at, io.SeekStart); err != nil {
		return nil, fmt.Errorf("search message %d: %w", c.m.UID, err)
	}
	return c.body, nil
}

// ruledOut reports that an index of texts does not have the message for a needle.
func (c *candidate) ruledOut(slot int) bool {
	t := &c.p.texts[slot]
	if !t.known {
		return false
	}
	_, ok := slices.BinarySearch(t.candidates, c.m.UID)
	return !ok
}

// look reads the message for all strings of the search at once, and tells of each text whether
// it was found.
func (c *candidate) look() ([]bool, error) {
	if len(c.found) > 0 {
		return c.found, nil
	}
	c.inBody.Reset()
	if c.inHeader != nil {
		c.inHeader.Reset()
	}
	if err := c.scan(); err != nil {
		return nil, err
	}
	body := c.inBody.Found()
	for i, t := range c.p.texts {
		found := body[i] || !t.body && c.inHeader.Found()[i]
		c.found = append(c.found, found)
	}
	return c.found, nil
}

// scan looks through all headers, if a TEXT asks for it, and all texts.
func (c *candidate) scan() error {
	meta, err := c.indexed()
	if err != nil {
		return err
	}
	return Texts(meta.Root, c.open, inMessage{c})
}
