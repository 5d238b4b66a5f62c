package popclient

import (
	"strings"

	"waypost/internal/poplist"
)

// maxDepth bounds multiparts within each other; deeper ones are not looked into.
const maxDepth = 50

// parts reads a message line by line and finds whether it has an attachment, by
// the rule of docs/pop3-listing.md: a leaf part with disposition attachment, or
// with a file name and not a text to be shown inline, or an enclosed message.
// Signatures and keys of S/MIME and OpenPGP are none, nor are the parts of
// multipart/encrypted and multipart/report, the messages of a digest, and parts
// with a Content-ID in multipart/related.
type parts struct {
	top    poplist.Header
	first  *part // the message itself
	header *poplist.Scan
	stack  []level
	nested bool // behind the message's own header
	found  bool
}

// level is an open multipart.
type level struct {
	boundary string
	subtype  string
	ignored  bool // nothing in it counts
	parts    int
}

// part is what a header says of its part.
type part struct {
	kind, subtype   string
	params          map[string]string
	disposition     string
	dispositionPars map[string]string
	id              string
}

func newParts() *parts {
	p := &parts{}
	p.begin()
	return p
}

func (p *parts) begin() {
	p.header = &poplist.Scan{Also: []string{"content-type", "content-disposition", "content-id"}}
}

// line takes the next line, without its end.
func (p *parts) line(line string) {
	if p.nested && strings.HasPrefix(line, "--") && p.delimiter(line) {
		return
	}
	if p.header != nil && !p.header.Line(line) {
		p.described()
	}
}

// delimiter looks for the boundary of an open multipart, innermost first: one of
// an outer multipart ends the inner ones (RFC 2046, Section 5.1.2).
func (p *parts) delimiter(line string) bool {
	for i := len(p.stack) - 1; i >= 0; i-- {
		rest, ok := strings.CutPrefix(line[2:], p.stack[i].boundary)
		if !ok {
			continue
		}
		rest = strings.TrimRight(rest, " \t")
		if rest != "" && rest != "--" {
			continue
		}
		if p.header != nil { // a part that ends within its header
			p.header.End()
			p.described()
		}
		p.stack = p.stack[:i+1]
		if rest == "--" {
			p.stack = p.stack[:i]
			p.header = nil
			return true
		}
		p.stack[i].parts++
		p.begin()
		return true
	}
	return false
}

// described takes a header that is complete.
func (p *parts) described() {
	h := p.header
	p.header = nil
	digest := len(p.stack) > 0 && p.stack[len(p.stack)-1].subtype == "digest"
	d := describe(h.More, digest)
	if !p.nested {
		p.nested, p.top, p.first = true, h.Header, d
	}
	parent := p.parent()
	if boundary := d.params["boundary"]; d.kind == "multipart" && boundary != "" && len(p.stack) < maxDepth {
		ignored := d.subtype == "encrypted" || d.subtype == "report" || parent != nil && parent.ignored
		p.stack = append(p.stack, level{boundary: boundary, subtype: d.subtype, ignored: ignored})
		return
	}
	if (parent == nil || !parent.ignored) && d.attachment(parent) {
		p.found = true
	}
}

func (p *parts) parent() *level {
	if len(p.stack) == 0 {
		return nil
	}
	return &p.stack[len(p.stack)-1]
}

// summary is the result, at the end of what was read. whole: that was the whole
// message, and not only its header.
func (p *parts) summary(whole bool) summary {
	if p.header != nil {
		p.header.End()
		p.described()
	}
	var e poplist.Entry
	p.top.Fill(&e)
	s := summary{Date: e.Date, From: e.From, Subject: e.Subject, Attachment: p.found}
	if !whole && p.first.kind == "multipart" {
		s.Attachment, s.Guessed = p.first.subtype == "mixed", true
	}
	return s
}

func (d *part) attachment(parent *level) bool {
	saved, inline := d.disposition == "attachment", d.disposition == "inline"
	switch {
	case d.kind == "application" && cryptographic(d.subtype):
		return false
	case saved:
		return true
	case d.kind == "message" && (d.subtype == "rfc822" || d.subtype == "global"):
		return parent != nil && parent.subtype != "digest"
	case parent != nil && parent.subtype == "related" && d.id != "":
		return false
	case d.kind == "text" && inline:
		return false
	}
	return named(d.params, "name") || named(d.dispositionPars, "filename")
}

func cryptographic(subtype string) bool {
	switch subtype {
	case "pgp-signature", "pgp-encrypted", "pgp-keys", "pkcs7-signature", "x-pkcs7-signature", "pkcs7-mime", "x-pkcs7-mime":
		return true
	}
	return false
}

// named reports a parameter, also one in the pieces of RFC 2231.
func named(params map[string]string, name string) bool {
	for k, v := range params {
		if rest, ok := strings.CutPrefix(k, name); ok && v != "" && (rest == "" || rest[0] == '*') {
			return true
		}
	}
	return false
}

// describe reads the fields of a part; what they lack is text/plain, or a message
// in a digest (RFC 2046, Section 5.1.5).
func describe(fields map[string]string, digest bool) *part {
	d := &part{kind: "text", subtype: "plain", id: fields["content-id"]}
	if digest {
		d.kind, d.subtype = "message", "rfc822"
	}
	value, params := parameters(fields["content-type"])
	if kind, subtype, ok := strings.Cut(value, "/"); ok && kind != "" && subtype != "" {
		d.kind, d.subtype, d.params = strings.TrimSpace(kind), strings.TrimSpace(subtype), params
	}
	d.disposition, d.dispositionPars = parameters(fields["content-disposition"])
	return d
}

// parameters reads "value; name=value; ..." tolerantly (RFC 2045, Section 5.1);
// value and names come in lower case.
func parameters(s string) (value string, params map[string]string) {
	params = make(map[string]string)
	for n := 0; s != ""; n++ {
		end := delimited(s)
		item := strings.TrimSpace(s[:end])
		s = strings.TrimPrefix(s[end:], ";")
		if n == 0 {
			value = strings.ToLower(withoutComment(item))
			continue
		}
		name, text, ok := strings.Cut(item, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := params[name]; !ok || name == "" || twice {
			continue
		}
		params[name] = unquote(strings.TrimSpace(text))
	}
	return value, params
}

// delimited is the index of the next semicolon outside of quotes.
func delimited(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ';' && !quoted:
			return i
		}
	}
	return len(s)
}

func withoutComment(s string) string {
	s, _, _ = strings.Cut(s, "(")
	return strings.TrimSpace(s)
}

func unquote(s string) string {
	if !strings.HasPrefix(s, `"`) {
		return withoutComment(s)
	}
	var b strings.Builder
	for i := 1; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
