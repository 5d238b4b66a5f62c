package poplist

import (
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"waypost/internal/headerfield"
)

// maxField bounds the header fields looked at, in bytes with their name and line
// ends: a longer one counts as empty, as it does in an index that keeps none of them.
const maxField = 8 << 10

// Header is what an entry needs of a message's header. Values are unfolded and
// otherwise as they are in the message; of fields that are there more than once
// it is the first.
type Header struct{ Date, From, Subject string }

// Fill sets an entry's date and texts.
func (h Header) Fill(e *Entry) {
	e.Date, e.From, e.Subject = Date(h.Date), From(h.From), Text(h.Subject)
}

// Text makes a field's value readable: bytes that are no UTF-8 are taken for
// Windows-1252, encoded words are decoded, and white space and control
// characters become single spaces. It is cut off at 600 bytes.
func Text(raw string) string {
	raw = utf8Text(raw)
	return cut(oneLine(headerfield.Decode(raw)))
}

func utf8Text(raw string) string {
	if utf8.ValidString(raw) {
		return raw
	}
	if text, err := charmap.Windows1252.NewDecoder().String(raw); err == nil {
		return text
	}
	return strings.ToValidUTF8(raw, "?")
}

// oneLine is s in valid UTF-8 without control characters, words divided by one
// space each.
func oneLine(s string) string {
	if plain(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
}

// plain: oneLine has nothing to do, which is the usual case.
func plain(s string) bool {
	space := true
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c >= 0x7f || c == ' ' && space {
			return false
		}
		space = c == ' '
	}
	return !space || s == ""
}

// From is the first author of a From field's value.
func From(raw string) string {
	if strings.TrimSpace(raw) == "" {
		return ""
	}
	parser := mail.AddressParser{WordDecoder: headerfield.Decoder()}
	list, err := parser.ParseList(utf8Text(raw))
	if err != nil || len(list) == 0 || list[0].Address == "" {
		return Text(raw)
	}
	address, name := oneLine(list[0].Address), oneLine(list[0].Name)
	if name == "" {
		return cut(address)
	}
	// The address is what counts where both do not fit.
	if room := maxText - len(address) - len(" <>"); len(name) > room {
		for room = max(room, 0); room > 0 && !utf8.RuneStart(name[room]); room-- {
		}
		name = name[:room]
	}
	return cut(name + " <" + address + ">")
}

// Date reads a Date field's value, in UTC; zero where it cannot, or the year is none of
// RFC 3339.
func Date(raw string) time.Time {
	t, _ := headerfield.Date(raw)
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// Scan takes a header apart, line by line. The zero value is ready for use.
type Scan struct {
	Header
	// ContentType, Disposition and their like, where Also asks for them.
	More map[string]string
	// Also are further fields that are wanted, in lower case.
	Also []string

	seen map[string]bool
	name string
	text []byte
	raw  int
}

// Line takes the next line of the header, without its line end. more is false
// at the empty line that ends it.
func (s *Scan) Line(line string) (more bool) {
	if line == "" {
		s.End()
		return false
	}
	if line[0] == ' ' || line[0] == '\t' {
		s.add(line, len(line)+2)
		return true
	}
	s.End()
	i := strings.IndexByte(line, ':')
	if i <= 0 {
		return true
	}
	name := strings.ToLower(strings.TrimRight(line[:i], " \t"))
	if name == "" || strings.ContainsAny(name, " \t") || s.seen[name] || !s.wants(name) {
		return true
	}
	s.name = name
	s.add(line[i+1:], len(line)+2)
	return true
}

func (s *Scan) wants(name string) bool {
	switch name {
	case "date", "from", "subject":
		return true
	}
	for _, n := range s.Also {
		if n == name {
			return true
		}
	}
	return false
}

// add bounds what is kept: the rest of an overlong field is not.
func (s *Scan) add(text string, raw int) {
	if s.name == "" {
		return
	}
	if s.raw += raw; s.raw <= maxField {
		s.text = append(s.text, text...)
	}
}

// End ends a header that the message ends with.
func (s *Scan) End() {
	name, value := s.name, strings.Trim(string(s.text), " \t")
	if s.raw > maxField {
		value = ""
	}
	s.name, s.text, s.raw = "", s.text[:0], 0
	if name == "" {
		return
	}
	if s.seen == nil {
		s.seen = make(map[string]bool)
	}
	s.seen[name] = true
	switch name {
	case "date":
		s.Date = value
	case "from":
		s.From = value
	case "subject":
		s.Subject = value
	default:
		if s.More == nil {
			s.More = make(map[string]string)
		}
		s.More[name] = value
	}
}
