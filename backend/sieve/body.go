package sieve

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"waypost/backend/mime"
)

// bodyTest is "body" (RFC 5173).
type bodyTest struct {
	transform string // raw, content, text
	types     texts  // of content
	match     *matcher
}

func compileBody(c *compiler, b *call) (check, *Error) {
	t := &bodyTest{}
	var err *Error
	if t.transform, err = b.oneOf("raw", "content", "text"); err != nil {
		return nil, err
	}
	if t.transform == "content" {
		if t.types, err = c.strings(b.tags["content"][0]); err != nil {
			return nil, err
		}
	}
	t.match, err = c.matcher(b, b.pos[0])
	return t, err
}

func (t *bodyTest) eval(m *machine) (bool, error) {
	view, err := m.bodyView()
	if err != nil {
		return false, err
	}
	var values []string
	switch t.transform {
	case "raw":
		values = []string{view.raw}
	case "content":
		types, err := t.types.values(m)
		if err != nil {
			return false, err
		}
		values, err = view.content(m, types)
		if err != nil {
			return false, err
		}
	default:
		if values, err = view.text(m); err != nil {
			return false, err
		}
	}
	return t.match.test(m, values, len(values))
}

// bodyView is what body tests see of a message: at most Limits.BodyBytes of it,
// read once a run.
type bodyView struct {
	all   string // the message from its beginning, as far as is looked at
	raw   string // the body
	root  *mime.Part
	items []bodyItem
	texts []string // for :text, made when first asked for
	plain bool
}

// bodyItem is what a part gives to match against: for a leaf its decoded text.
type bodyItem struct {
	part   *mime.Part
	values []string
	done   bool
}

func (m *machine) bodyView() (*bodyView, error) {
	if m.body != nil {
		return m.body, nil
	}
	r, err := m.msg.Open()
	if err != nil {
		return nil, fmt.Errorf("open message: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(m.limits.BodyBytes)))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	if err := m.work(len(b) / 64); err != nil {
		return nil, err
	}
	v := &bodyView{all: string(b)}
	if v.root, err = mime.Scan(strings.NewReader(v.all)); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	v.raw = v.slice(v.root.Body)
	v.root.Walk(func(p *mime.Part) { v.items = append(v.items, bodyItem{part: p}) })
	m.body = v
	return v, nil
}

// slice gives the bytes of a range, as far as they were read.
func (v *bodyView) slice(r mime.Range) string {
	end := min(r.End, int64(len(v.all)))
	return v.all[min(r.Start, end):end]
}

// content gives the parts of certain types (Section 5.2).
func (v *bodyView) content(m *machine, types []string) ([]string, error) {
	var out []string
	for i := range v.items {
		item := &v.items[i]
		if !wantedType(item.part, types) {
			continue
		}
		if err := v.load(m, item); err != nil {
			return nil, err
		}
		out = append(out, item.values...)
	}
	return out, nil
}

func wantedType(p *mime.Part, types []string) bool {
	for _, t := range types {
		t = lower(t)
		kind, sub, full := strings.Cut(t, "/")
		if t == "" || kind == p.Type && (!full || sub == p.Subtype) && !strings.HasSuffix(t, "/") {
			return true
		}
	}
	return false
}

// load decodes a part once.
func (v *bodyView) load(m *machine, item *bodyItem) error {
	if item.done {
		return nil
	}
	item.done = true
	p := item.part
	switch body := v.slice(p.Body); {
	case p.Multipart():
		item.values = v.around(p)
	case p.Message != nil:
		item.values = []string{v.slice(p.Message.Header)}
	default:
		b, err := io.ReadAll(io.LimitReader(p.Text(strings.NewReader(body)), 2*int64(m.limits.BodyBytes)))
		if err != nil {
			b = []byte(body) // what cannot be decoded is taken as it is
		}
		item.values = []string{string(b)}
		return m.work(len(b) / 64)
	}
	return nil
}

// around gives a multipart's prologue and epilogue.
func (v *bodyView) around(p *mime.Part) []string {
	first, last := p.Children[0], p.Children[len(p.Children)-1]
	before := v.slice(mime.Range{Start: p.Body.Start, End: first.Header.Start})
	after := v.slice(mime.Range{Start: last.Body.End, End: p.Body.End})
	if i := strings.LastIndex(before, "--"); i >= 0 { // the first delimiter line
		if j := strings.LastIndex(before[:i], "\n"); j >= 0 {
			before = before[:j+1]
		} else {
			before = ""
		}
	}
	after = strings.TrimPrefix(after, "\r\n")
	if i := strings.IndexByte(after, '\n'); i >= 0 { // the last one
		after = after[i+1:]
	} else {
		after = ""
	}
	return []string{before, after}
}

// text gives the text of all text parts, markup taken out of HTML (Section 5.3).
func (v *bodyView) text(m *machine) ([]string, error) {
	if v.plain {
		return v.texts, nil
	}
	for i := range v.items {
		item := &v.items[i]
		if item.part.Type != "text" || item.part.Multipart() {
			continue
		}
		if err := v.load(m, item); err != nil {
			return nil, err
		}
		for _, s := range item.values {
			if item.part.Subtype == "html" {
				s = stripMarkup(s)
			}
			v.texts = append(v.texts, s)
		}
	}
	v.plain = true
	return v.texts, nil
}
