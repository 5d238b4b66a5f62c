package poplist

import (
	"io"
	"mime"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
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

// decoder decodes encoded words (RFC 2047). A character set that nobody knows is
// read as Windows-1252, so that what is ASCII in it shows.
func decoder() *mime.WordDecoder {
	return &mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		if enc, err := htmlindex.Get(charset); err == nil {
			return enc.NewDecoder().Reader(r), nil
		}
		return charmap.Windows1252.NewDecoder().Reader(r), nil
	}}
}

// Text makes a field's value readable: bytes that are no UTF-8 are taken for
// Windows-1252, encoded words are decoded, and white space and control
// characters become single spaces. It is cut off at 600 bytes.
func Text(raw string) string {
	raw = utf8Text(raw)
	if strings.Contains(raw, "=?") {
		if text, err := decoder().DecodeHeader(raw); err == nil {
			raw = text
		}
	}
	return cut(oneLine(raw))
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
	parser := mail.AddressParser{WordDecoder: decoder()}
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

// Date reads a Date field's value (RFC 5322, Section 3.3), with some leniency;
// zero where it cannot, or the year is none of RFC 3339.
func Date(raw string) time.Time {
	s := strings.Join(strings.Fields(raw), " ")
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 -0700", s) // nearly all
	if err != nil {
		t, err = mail.ParseDate(s)
	}
	if err != nil {
		if i := strings.IndexByte(s, '('); i > 0 {
			s = strings.TrimSpace(s[:i])
		}
		for _, layout := range []string{
			"Mon, 2 Jan 2006 15:04:05", "2 Jan 2006 15:04:05", time.ANSIC, time.UnixDate,
			"Monday, 2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 -07:00", time.RFC3339,
		} {
			if t, err = time.Parse(layout, s); err == nil {
				break
			}
		}
	}
	if err == nil {
		t = inZone(t).UTC()
	}
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// inZone gives the zones of RFC 5322, Section 4.3, their meaning: package time
// knows only the machine's own.
func inZone(t time.Time) time.Time {
	name, offset := t.Zone()
	hours, ok := map[string]int{
		"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
	}[name]
	if !ok || offset != 0 {
		return t
	}
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.FixedZone(name, hours*3600))
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
