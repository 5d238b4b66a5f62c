package mime

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/encoding/charmap"
)

// fields are the header fields of a part that somebody asks for, unfolded;
// the first of a name counts.
type fields struct {
	message bool // also those of an envelope
	kept    map[string]string
	name    string // of the field being read, "" if it is not kept
	text    []byte
}

// wanted reports whether a field, in lower case, is kept.
func (f *fields) wanted(name string) bool {
	switch name {
	case "content-type", "content-transfer-encoding", "content-id", "content-description",
		"content-disposition", "content-language", "content-location":
		return true
	case "date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id":
		return f.message
	}
	return false
}

// header takes a piece of a header line.
func (n *node) header(s *scanner, piece []byte) {
	f := &n.fields
	if s.lines.first && piece[0] != ' ' && piece[0] != '\t' {
		f.flush()
		name, ok := fieldName(piece)
		if !ok {
			return
		}
		name = strings.ToLower(name)
		if _, had := f.kept[name]; had || !f.wanted(name) {
			return
		}
		f.name = name
		piece = piece[bytes.IndexByte(piece, ':')+1:]
	}
	if f.name == "" {
		return
	}
	room := min(maxField-len(f.text), s.budget, len(piece))
	f.text = append(f.text, piece[:room]...)
	s.budget -= room
}

// flush keeps the field that was being read.
func (f *fields) flush() {
	if f.name == "" {
		return
	}
	if f.kept == nil {
		f.kept = make(map[string]string)
	}
	f.kept[f.name] = clean(f.text)
	f.name, f.text = "", f.text[:0]
}

// clean unfolds a field (RFC 5322, Section 2.2.3), takes out what no IMAP
// string may hold, and makes it UTF-8.
func clean(raw []byte) string {
	raw = bytes.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return -1
		}
		return r
	}, latin(raw))
	return strings.TrimSpace(strings.ReplaceAll(string(raw), "\t", " "))
}

// latin reads bytes that are no UTF-8 as Windows-1252, the usual cause.
func latin(raw []byte) []byte {
	if utf8.Valid(raw) {
		return raw
	}
	out, err := charmap.Windows1252.NewDecoder().Bytes(raw)
	if err != nil {
		return bytes.ToValidUTF8(raw, []byte("?"))
	}
	return out
}

// describe fills in the part from its header and returns its boundary.
func (n *node) describe(digest bool) (boundary string) {
	n.fields.flush()
	p, kept := n.part, n.fields.kept
	p.Type, p.Subtype = "text", "plain"
	if digest {
		p.Type, p.Subtype = "message", "rfc822"
	}
	if ct := kept["content-type"]; ct != "" {
		value, params := parseValue(ct)
		if typ, sub, ok := strings.Cut(value, "/"); ok && token(typ) && token(sub) {
			p.Type, p.Subtype, p.Params = strings.ToLower(typ), strings.ToLower(sub), params
			boundary = strings.TrimRight(params["boundary"], " ")
		}
	}
	if p.Type == "text" && p.Params["charset"] == "" {
		// The default of RFC 2046, Section 4.1.2, said aloud.
		if p.Params == nil {
			p.Params = make(map[string]string)
		}
		p.Params["charset"] = "us-ascii"
	}
	p.ID, p.Description, p.Location = kept["content-id"], kept["content-description"], kept["content-location"]
	if enc, _ := parseValue(kept["content-transfer-encoding"]); token(enc) {
		p.Encoding = strings.ToLower(enc)
	}
	if cd := kept["content-disposition"]; cd != "" {
		if value, params := parseValue(cd); token(value) {
			p.Disposition = &imap.BodyStructureDisposition{Value: strings.ToLower(value), Params: params}
		}
	}
	for tag := range strings.SplitSeq(kept["content-language"], ",") {
		if tag = strings.TrimSpace(tag); token(tag) {
			p.Language = append(p.Language, tag)
		}
	}
	if n.fields.message {
		p.Envelope = envelope(kept)
	}
	n.fields.kept = nil
	return boundary
}

// token reports a token of RFC 2045, Section 5.1, taken liberally.
func token(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?=`, r)
	})
}

// maxParams bounds the parameters of one field.
const maxParams = 64

// parseValue reads `value; name=value; name="value"` (RFC 2045, Section 5.1),
// comments left out. Names are lower case; the first of a name counts.
func parseValue(s string) (value string, params map[string]string) {
	value, rest := cut(s)
	for rest != "" && len(params) < maxParams {
		var item string
		item, rest = cut(rest)
		name, v, ok := strings.Cut(item, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || !token(name) {
			continue
		}
		if params == nil {
			params = make(map[string]string)
		}
		if _, had := params[name]; !had {
			params[name] = strings.TrimSpace(v)
		}
	}
	return strings.TrimSpace(value), params
}

// cut takes what is before the next ';', with quotes resolved and comments
// taken out.
func cut(s string) (item, rest string) {
	var b strings.Builder
	quoted, depth := false, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && (quoted || depth > 0) && i+1 < len(s):
			i++
			if depth == 0 {
				b.WriteByte(s[i])
			}
		case quoted:
			if c == '"' {
				quoted = false
			} else {
				b.WriteByte(c)
			}
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth > 0:
		case c == '"':
			quoted = true
		case c == ';':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
