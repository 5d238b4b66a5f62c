package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// errPayload: not a Meta's payload.
var errPayload = errors.New("damaged payload")

// maxOffset bounds offsets in a message: they stay sums without overflow.
const maxOffset = 1 << 48

// decoder reads a payload. After an error all it gives is zero.
type decoder struct {
	in    []byte // fields, while they are read
	all   string // wire, header text and rest
	pos   int    // in in, or in all
	bad   bool
	parts int
	// first and spare save allocations.
	first *first
	spare []imap.Address
}

// first is what every Meta has.
type first struct {
	meta     mailbox.Meta
	root     mime.Part
	envelope imap.Envelope
}

// decodeMeta reads a payload, of which it keeps nothing.
func decodeMeta(in []byte) (*mailbox.Meta, error) {
	if len(in) > maxPayload {
		return nil, errPayload
	}
	d := decoder{in: in, first: new(first)}
	m := &d.first.meta
	envelope, wire := d.wire()
	m.Fields = d.fields(wire)
	m.Arrived = d.time()
	m.Attachment = d.uint(1) == 1
	m.Preview = d.string()
	m.Root = d.part(0, 0)
	if m.Root != nil {
		m.Root.Wire = mime.Wire{Envelope: d.all[:envelope], Structure: d.all[envelope:len(wire)]}
	}
	if d.bad || d.pos != len(d.all) {
		return nil, errPayload
	}
	return m, nil
}

// decodeWire reads of a payload only what it begins with.
func decodeWire(in []byte, room *Room) (mime.Wire, error) {
	d := decoder{in: in}
	envelope, text := d.wire()
	if d.bad {
		return mime.Wire{}, errPayload
	}
	all := room.put(text)
	return mime.Wire{Envelope: all[:envelope], Structure: all[envelope:]}, nil
}

// decodeHeader reads of a payload only the fields of a set, as HeaderFields gives them.
func decodeHeader(in []byte, names Names) (header string, known bool, err error) {
	d := decoder{in: in}
	d.wire()
	size, count := d.rawUint(maxPayload), d.rawUint(2*maxFields)
	out := make([]byte, 0, min(size+2, 1<<10))
	known = true
	for range count {
		place, form, text := d.field()
		switch {
		case d.bad:
			return "", false, errPayload
		case !inSet(names, place):
		case form == fieldCut:
			known = false
		case form == fieldPlain:
			out = append(append(out, keptNames[place]...), ": "...)
			out = append(append(out, text...), "\r\n"...)
		default:
			out = append(out, text...)
		}
	}
	switch {
	case d.bad:
		return "", false, errPayload
	case !known:
		return "", false, nil
	}
	return string(append(out, "\r\n"...)), true, nil
}

// wire reads the ready-made texts, of which the first has envelope bytes.
func (d *decoder) wire() (envelope int, text []byte) {
	envelope = d.rawUint(maxPayload)
	structure := d.rawUint(maxPayload)
	return envelope, d.rawBytes(envelope + structure)
}

// fields reads the fields and sets all, which begins with wire: first the text that the
// fields are parts of, then, knowing that it is sound, the parts.
func (d *decoder) fields(wire []byte) []mime.Field {
	size, count := d.rawUint(maxPayload), d.rawUint(2*maxFields)
	first := d.pos
	var b strings.Builder
	b.Grow(len(wire) + size + len(d.in) - d.pos)
	b.Write(wire)
	size += len(wire)
	for range count {
		place, form, text := d.field()
		if form == fieldPlain {
			b.WriteString(keptNames[place])
			b.WriteString(": ")
			b.Write(text)
			b.WriteString("\r\n")
		} else {
			b.Write(text)
		}
		if d.bad || b.Len() > size {
			d.bad = true
			return nil
		}
	}
	if d.bad || b.Len() != size {
		d.bad = true
		return nil
	}
	b.Write(d.in[d.pos:])
	d.all = b.String()
	var fields []mime.Field
	if count > 0 {
		fields = make([]mime.Field, count)
	}
	d.pos = first
	at := len(wire)
	for i := range fields {
		place, form, text := d.field()
		end := at + len(text)
		switch f := &fields[i]; form {
		case fieldPlain:
			value := at + len(keptNames[place]) + 2
			end = value + len(text) + 2
			if bytes.IndexByte(text, '\n') < 0 {
				f.Name, f.Raw, f.Value = keptLower[place], d.all[at:end], trim(d.all[value:end-2])
			} else {
				*f = mime.NewField(keptLower[place], d.all[at:end])
			}
		case fieldRaw:
			*f = mime.NewField(keptLower[place], d.all[at:end])
		default:
			f.Name, f.Cut = keptLower[place], true
		}
		at = end
	}
	d.in, d.pos = nil, size
	return fields
}

// trim takes away the white space that mime.NewField does.
func trim(s string) string {
	if n := len(s); n == 0 || s[0] > ' ' && s[n-1] > ' ' {
		return s
	}
	return strings.Trim(s, " \t")
}

// field reads one field.
func (d *decoder) field() (place, form int, text []byte) {
	key := d.rawUint(len(keptNames)<<2 - 1)
	place, form = key>>2, key&3
	if form < fieldCut {
		text = d.rawBytes(d.rawUint(maxPayload))
	}
	if form > fieldCut || form == fieldRaw && len(text) == 0 {
		d.bad = true
	}
	return place, form, text
}

// skip reads fields as field does, of which most have a key and a length of one byte each.
func (d *decoder) skip(count int) {
	for ; count > 0 && !d.bad; count-- {
		if in := d.in[d.pos:]; len(in) > 2 && in[0] < 0x80 && int(in[0]) < len(keptNames)<<2 && in[0]&3 < fieldCut && in[1] > 0 && in[1] < 0x80 && int(in[1]) <= len(in)-2 {
			d.pos += 2 + int(in[1])
			continue
		}
		d.field()
	}
}

// rawUint reads from in a number up to max.
func (d *decoder) rawUint(max int) int {
	if d.bad {
		return 0
	}
	if d.pos < len(d.in) && d.in[d.pos] < 0x80 && int(d.in[d.pos]) <= max { // most are
		d.pos++
		return int(d.in[d.pos-1])
	}
	v, n := binary.Uvarint(d.in[d.pos:])
	if n <= 0 || v > uint64(max) {
		d.bad = true
		return 0
	}
	d.pos += n
	return int(v)
}

func (d *decoder) rawBytes(n int) []byte {
	if d.bad || n > len(d.in)-d.pos {
		d.bad = true
		return nil
	}
	d.pos += n
	return d.in[d.pos-n : d.pos]
}

// uint reads a number up to max.
func (d *decoder) uint(max uint64) uint64 {
	var v uint64
	for shift := 0; shift < 64 && !d.bad && d.pos < len(d.all); shift += 7 {
		c := d.all[d.pos]
		d.pos++
		if v |= uint64(c&0x7f) << shift; c < 0x80 {
			if v > max {
				break
			}
			return v
		}
	}
	d.bad = true
	return 0
}

// int reads a number between -max and max.
func (d *decoder) int(max int64) int64 {
	u := d.uint(2*uint64(max) + 1)
	v := int64(u >> 1)
	if u&1 == 1 {
		v = ^v
	}
	return v
}

func (d *decoder) string() string {
	u := d.uint(maxPayload<<2 | 3)
	n := int(u >> 2)
	switch u & 3 {
	case stringInline:
		if n <= len(d.all)-d.pos {
			d.pos += n
			return d.all[d.pos-n : d.pos]
		}
	case stringRepeated:
		// An occurrence may not reach behind where the decoder is, and so an
		// encoder's never does.
		at := int(d.uint(maxPayload))
		if at+n <= d.pos {
			return d.all[at : at+n]
		}
	case stringWord:
		if n < len(words) {
			return words[n]
		}
	}
	d.bad = true
	return ""
}

func (d *decoder) time() time.Time {
	sec, nsec, offset := d.int(1<<40), d.uint(999999999), d.int(1<<20)
	t := time.Unix(sec, int64(nsec))
	if offset == 0 {
		return t.UTC()
	}
	return t.In(time.FixedZone("", int(offset)))
}

// count reads how many items follow, each of at least size bytes.
func (d *decoder) count(size int) int {
	return int(d.uint(uint64((len(d.all) - d.pos) / size)))
}

func (d *decoder) part(before int64, depth int) *mime.Part {
	if d.parts++; d.parts > mime.MaxParts || depth > mime.MaxDepth || d.pos >= len(d.all) {
		d.bad = true
	}
	if d.bad {
		return nil
	}
	has := d.all[d.pos]
	d.pos++
	p := &d.first.root
	if d.parts > 1 {
		p = new(mime.Part)
	}
	p.Type, p.Subtype, p.Encoding, p.Params = d.string(), d.string(), d.string(), d.params()
	d.ranges(p, before)
	if has&hasID != 0 {
		p.ID = d.string()
	}
	if has&hasDescription != 0 {
		p.Description = d.string()
	}
	if has&hasLocation != 0 {
		p.Location = d.string()
	}
	if has&hasDisposition != 0 {
		p.Disposition = &imap.BodyStructureDisposition{Value: d.string(), Params: d.params()}
	}
	if has&hasLanguage != 0 {
		p.Language = d.strings()
	}
	if has&hasEnvelope != 0 {
		p.Envelope = d.envelope()
	}
	if has&hasChildren != 0 {
		d.children(p, depth)
	}
	if has&hasMessage != 0 {
		p.Message = d.part(p.Body.Start, depth+1)
	}
	return p
}

func (d *decoder) ranges(p *mime.Part, before int64) {
	p.Header.Start = before + d.int(maxOffset)
	p.Header.End = p.Header.Start + d.int(maxOffset)
	p.Body.Start = p.Header.End + d.int(maxOffset)
	p.Body.End = p.Body.Start + d.int(maxOffset)
	p.Lines = d.int(maxOffset)
	if p.Header.Start < 0 || p.Header.Len() < 0 || p.Body.Start < p.Header.End || p.Body.Len() < 0 ||
		p.Body.End > maxOffset || p.Lines < 0 || p.Type == "" || p.Subtype == "" {
		d.bad = true
	}
}

func (d *decoder) children(p *mime.Part, depth int) {
	n := d.count(8)
	if n == 0 {
		d.bad = true
		return
	}
	p.Children = make([]*mime.Part, 0, min(n, mime.MaxParts))
	before := p.Body.Start
	for range n {
		c := d.part(before, depth+1)
		if d.bad {
			return
		}
		p.Children = append(p.Children, c)
		before = c.Body.End
	}
}

func (d *decoder) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	all := make([]string, n)
	for i := range all {
		all[i] = d.string()
	}
	return all
}

func (d *decoder) params() map[string]string {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := d.string()
		m[k] = d.string()
	}
	return m
}

func (d *decoder) envelope() *imap.Envelope {
	v := &d.first.envelope
	if d.parts > 1 {
		v = new(imap.Envelope)
	}
	v.Date, v.Subject = d.time(), d.string()
	for _, list := range []*[]imap.Address{&v.From, &v.Sender, &v.ReplyTo, &v.To, &v.Cc, &v.Bcc} {
		n := d.count(3)
		if n == 0 {
			continue
		}
		*list = d.addresses(n)
		for i := range *list {
			a := &(*list)[i]
			a.Name, a.Mailbox, a.Host = d.string(), d.string(), d.string()
		}
	}
	v.InReplyTo, v.MessageID = d.strings(), d.string()
	return v
}

// addresses gives n addresses to be filled in.
func (d *decoder) addresses(n int) []imap.Address {
	if n > len(d.spare) {
		if n > 1 {
			return make([]imap.Address, n)
		}
		d.spare = make([]imap.Address, 3) // From and To, and often one more
	}
	given := d.spare[:n:n]
	d.spare = d.spare[n:]
	return given
}
