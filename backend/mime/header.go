package mime

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/encoding/charmap"
)

// fields are the header fields of a part that somebody asks for, unfolded. Where one is
// repeated, of those of MIME the first counts, addresses are put together, and else the last
// counts, as clients know it from other servers.
type fields struct {
	message bool // also those of an envelope
	kept    map[string]string
	name    string // of the field being read, "" if it is not kept
	text    []byte
	repeats int
}

// maxRepeats bounds how many repeated address fields of a header are put together.
const maxRepeats = 100

// wanted reports whether a field, in lower case, is kept.
func (f *fields) wanted(name string) bool {
	switch name {
	case "content-type", "content-transfer-encoding", "content-id", "content-description",
		"content-disposition", "content-language", "content-location", "content-md5":
		return true
	case "date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id":
		return f.message
	}
	return false
}

// addressField reports the fields that are lists of addresses.
func addressField(name string) bool {
	switch name {
	case "from", "sender", "reply-to", "to", "cc", "bcc":
		return true
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
		var room [nameBytes]byte
		lower, ok := lowerName(room[:0], name)
		if !ok || !f.wanted(string(lower)) {
			return
		}
		if _, had := f.kept[string(lower)]; had && bytes.HasPrefix(lower, []byte("content-")) {
			return
		}
		f.name = string(lower)
		piece = piece[bytes.IndexByte(piece, ':')+1:]
	}
	if f.name == "" {
		return
	}
	room := min(maxKeptField-len(f.text), s.budget, len(piece))
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
	value := unfold(f.text)
	if before, had := f.kept[f.name]; had && addressField(f.name) {
		if f.repeats++; f.repeats > maxRepeats {
			f.name, f.text = "", f.text[:0]
			return
		}
		value = before + "," + value
	}
	f.kept[f.name] = value
	f.name, f.text = "", f.text[:0]
}

// unfold takes out the folding (RFC 5322, Section 2.2.3) and replaces what no IMAP string
// may hold: a CR elsewhere by a space, a NUL by U+FFFD.
func unfold(raw []byte) string {
	line, ended := bytes.CutSuffix(raw, []byte("\r\n"))
	if !ended {
		line = bytes.TrimSuffix(raw, []byte{'\n'})
	}
	if solid(line) {
		return string(bytes.TrimLeft(line, " \t"))
	}
	out := make([]byte, 0, len(raw))
	for i, c := range raw {
		switch {
		case c == '\n', c == '\r' && i+1 < len(raw) && raw[i+1] == '\n':
		case c == '\r':
			out = append(out, ' ')
		case c == 0:
			out = append(out, "\uFFFD"...)
		default:
			out = append(out, c)
		}
	}
	// What is behind counts: envelopes give it as it is.
	return strings.TrimLeft(string(out), " \t")
}

// solid reports that there is nothing in a field for unfold to do.
func solid(line []byte) bool {
	return bytes.IndexByte(line, '\n') < 0 && bytes.IndexByte(line, '\r') < 0 && bytes.IndexByte(line, 0) < 0
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

// cleanText is clean for what is mostly clean already.
func cleanText(s string) string {
	s = strings.TrimSpace(s)
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return clean([]byte(s))
		}
	}
	return s
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
	w := &pieces{kind: `"text"`, subtype: `"plain"`}
	p.pieces = w
	p.Type, p.Subtype = "text", "plain"
	if digest {
		p.Type, p.Subtype = "message", "rfc822"
		w.kind, w.subtype = `"message"`, `"rfc822"`
	}
	if ct := kept["content-type"]; ct != "" {
		value, params := parseValue(ct)
		typ, sub, _ := strings.Cut(value, "/")
		if typ, sub = strings.TrimSpace(typ), strings.TrimSpace(sub); token(typ) && token(sub) {
			p.Type, p.Subtype, p.Params = strings.ToLower(typ), strings.ToLower(sub), lowerParams(params)
			boundary = strings.TrimRight(p.Params["boundary"], " ")
			w.kind, w.subtype = `"`+typ+`"`, `"`+sub+`"`
			w.params = joinParams(params)
		}
	}
	if p.Type == "text" && p.Params["charset"] == "" {
		// The default of RFC 2046, Section 4.1.2, said aloud.
		if p.Params == nil {
			p.Params = make(map[string]string)
		}
		p.Params["charset"] = "us-ascii"
	}
	w.md5 = strings.TrimSpace(kept["content-md5"])
	w.id, w.description = strings.TrimSpace(kept["content-id"]), strings.TrimRight(kept["content-description"], " \t")
	p.ID, p.Description = cleanText(w.id), cleanText(w.description)
	if enc, _ := parseValue(kept["content-transfer-encoding"]); token(enc) {
		p.Encoding, w.encoding = strings.ToLower(enc), enc
	}
	w.tail = p.extensions(kept)
	if n.fields.message {
		lists := addressLists(kept)
		p.Envelope = envelope(kept, &lists)
		w.envelope = string(appendEnvelope(make([]byte, 0, wireBytes), kept, &lists))
	}
	n.fields.kept = nil
	return boundary
}

// extensions fills in disposition, language and location, and gives their text.
func (p *Part) extensions(kept map[string]string) string {
	tail := []byte(" NIL")
	if cd := kept["content-disposition"]; cd != "" {
		if value, params := parseValue(cd); token(value) {
			p.Disposition = &imap.BodyStructureDisposition{Value: strings.ToLower(value), Params: lowerParams(params)}
			tail = append(tail[:0], " ("...)
			tail = appendParams(append(appendString(tail, value), ' '), joinParams(params))
			tail = append(tail, ')')
		}
	}
	for rest := kept["content-language"]; rest != ""; {
		var tag string
		if tag, rest = cut(rest, ','); token(tag) {
			p.Language = append(p.Language, tag)
		}
	}
	p.Location = cleanText(kept["content-location"])
	tail = appendParams(append(tail, ' '), p.Language)
	return string(appendNString(append(tail, ' '), strings.TrimSpace(kept["content-location"])))
}

// token reports a token of RFC 2045, Section 5.1, taken liberally.
func token(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; c {
		case '(', ')', '<', '>', '@', ',', ';', ':', '\\', '"', '/', '[', ']', '?', '=':
			return false
		default:
			if c <= ' ' || c >= 0x7f {
				return false
			}
		}
	}
	return true
}

// maxParams bounds the parameters of one field.
const maxParams = 64

// parseValue reads `value; name=value; name="value"` (RFC 2045, Section 5.1),
// comments left out. params are names and values by turns.
func parseValue(s string) (value string, params []string) {
	value, rest := cut(s, ';')
	for rest != "" && len(params) < 2*maxParams {
		var item string
		item, rest = through(rest)
		name, v, ok := strings.Cut(item, "=")
		name, _ = cut(name, 0)
		if ok && token(name) {
			v, _ = cut(v, 0)
			params = append(params, name, v)
		}
	}
	return value, params
}

// through takes what is before the next ';' outside of quotes and comments, as it is.
func through(s string) (item, rest string) {
	quoted, depth := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && (quoted || depth > 0):
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ';' && depth == 0:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// lowerParams makes a map of params: names are lower case, the first of a name counts,
// and what is not UTF-8 becomes so.
func lowerParams(params []string) map[string]string {
	if len(params) == 0 {
		return nil
	}
	m := make(map[string]string, len(params)/2)
	for i := 0; i < len(params); i += 2 {
		name := strings.ToLower(params[i])
		if _, had := m[name]; !had {
			m[name] = cleanText(params[i+1])
		}
	}
	return m
}

// cut takes what is before the next end (0: all), with quotes resolved, and comments and the white
// space around taken out.
func cut(s string, end byte) (item, rest string) {
	if item, rest, ok := cutPlain(s, end); ok {
		return item, rest
	}
	return cutQuoted(s, end)
}

// cutQuoted is cut for all that there is.
func cutQuoted(s string, end byte) (item, rest string) {
	var b strings.Builder
	quoted, depth := false, 0
	solid := 0 // what must not be trimmed from the end
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && (quoted || depth > 0) && i+1 < len(s):
			i++
			if depth == 0 {
				b.WriteByte(s[i])
				solid = b.Len()
			}
		case quoted:
			if c == '"' {
				quoted = false
			} else {
				b.WriteByte(c)
			}
			solid = b.Len()
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth > 0:
		case c == '"':
			quoted = true
		case c == end && c != 0:
			return b.String()[:solid], s[i+1:]
		case c == ' ' || c == '\t':
			if b.Len() > 0 {
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
			solid = b.Len()
		}
	}
	return b.String()[:solid], ""
}

// cutPlain is cut for what has neither quotes nor comments before the end.
func cutPlain(s string, end byte) (item, rest string, ok bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '(':
			return "", "", false
		case c == end && c != 0:
			return strings.Trim(s[:i], " \t"), s[i+1:], true
		}
	}
	return strings.Trim(s, " \t"), "", true
}
