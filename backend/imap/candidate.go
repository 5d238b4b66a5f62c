package imap

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// candidate is a message that a search looks at; what has to be read is read
// once, and only if asked for.
type candidate struct {
	s     *session
	v     *view
	i     int
	m     *mailbox.Message
	words *needles

	arrived    time.Time
	meta       *mailbox.Meta
	header     []mime.Field
	hasHeader  bool
	body, text []bool
}

// date is the internal date.
func (c *candidate) date() (time.Time, error) {
	if !c.arrived.IsZero() {
		return c.arrived, nil
	}
	t, err := c.v.folder.InternalDate(c.m.UID)
	c.arrived = t
	return t, err
}

// indexed is what the folder's index knows.
func (c *candidate) indexed() (*mailbox.Meta, error) {
	if c.meta != nil {
		return c.meta, nil
	}
	var err error
	c.meta, err = c.v.folder.Meta(c.m.UID)
	return c.meta, err
}

// sent is the date in the header, zero if there is none.
func (c *candidate) sent() (time.Time, error) {
	meta, err := c.indexed()
	if err != nil {
		return time.Time{}, err
	}
	return meta.Root.Envelope.Date, nil
}

// hasField looks for a substring in a field; an empty one asks whether there
// is such a field (RFC 9051, Section 6.4.4: HEADER). The message is opened only
// for fields of which the index knows nothing.
func (c *candidate) hasField(h imap.SearchCriteriaHeaderField) (bool, error) {
	name, value := strings.ToLower(h.Key), strings.ToLower(h.Value)
	if index.Kept(name) {
		meta, err := c.indexed()
		if err != nil {
			return false, err
		}
		if values, known := index.Values(meta, name); known {
			return slices.ContainsFunc(values, func(v string) bool {
				return strings.Contains(strings.ToLower(mime.Field{Value: v}.Text()), value)
			}), nil
		}
	}
	fields, err := c.fields()
	return slices.ContainsFunc(fields, func(f mime.Field) bool {
		return f.Name == name && strings.Contains(strings.ToLower(f.Value), value)
	}), err
}

// fields are all of the header, from the message itself.
func (c *candidate) fields() ([]mime.Field, error) {
	if c.hasHeader {
		return c.header, nil
	}
	b, err := c.s.openMessage(c.v, c.m.UID)
	if err != nil {
		return nil, err
	}
	if err := b.seek(0); err != nil {
		return nil, err
	}
	c.header, err = mime.Fields(b)
	c.hasHeader = err == nil
	return c.header, err
}

// look reads the message for all strings of the search at once: BODY in its
// texts, TEXT in its header as well.
func (c *candidate) look() (body, text []bool, err error) {
	if c.body != nil || c.text != nil {
		return c.body, c.text, nil
	}
	fields, err := c.fields()
	if err != nil {
		return nil, nil, err
	}
	inHeader := mime.NewMatcher(c.words.text)
	if err := scanFields(inHeader, fields); err != nil {
		return nil, nil, err
	}
	inBody := mime.NewMatcher(append(append([]string{}, c.words.body...), c.words.text...))
	if err := c.scanParts(inBody); err != nil {
		return nil, nil, err
	}
	found := inBody.Found()
	c.body, c.text = found[:len(c.words.body)], found[len(c.words.body):]
	for i, ok := range inHeader.Found() {
		c.text[i] = c.text[i] || ok
	}
	return c.body, c.text, nil
}

// scanParts looks through all texts, and the headers of enclosed messages.
func (c *candidate) scanParts(m *mime.Matcher) error {
	b, err := c.s.openMessage(c.v, c.m.UID)
	if err != nil {
		return err
	}
	meta, err := c.indexed()
	if err != nil {
		return err
	}
	meta.Root.Walk(func(p *mime.Part) {
		switch {
		case err != nil || m.Done():
		case p.Message != nil:
			if err = b.seek(p.Message.Header.Start); err != nil {
				return
			}
			var fields []mime.Field
			if fields, err = mime.Fields(io.LimitReader(b, p.Message.Header.Len())); err == nil {
				err = scanFields(m, fields)
			}
		case p.Type == "text":
			if err = b.seek(p.Body.Start); err == nil {
				err = m.Scan(p.Text(io.LimitReader(b, p.Body.Len())))
			}
		}
	})
	return err
}

func scanFields(m *mime.Matcher, fields []mime.Field) error {
	var text strings.Builder
	for _, f := range fields {
		text.WriteString(f.Name + ": " + f.Value + "\n")
	}
	return m.Scan(strings.NewReader(text.String()))
}
