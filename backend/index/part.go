package index

import (
	"bytes"
	"strings"
	"unsafe"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// decodeFields reads of a payload only the fields of a set. It allocates nothing, but for a
// value that is folded: the strings are the payload's own bytes, which do not change as long as
// the index's lock is held.
func decodeFields(in []byte, set Names, each func(*mime.Field)) error {
	d := decoder{in: in}
	d.wire()
	_, count := d.rawUint(maxPayload), d.rawUint(2*maxFields)
	var f mime.Field
	for range count {
		place, form, text := d.field()
		if d.bad {
			return errPayload
		}
		if !inSet(set, place) {
			continue
		}
		f = mime.Field{Name: keptLower[place], Cut: form == fieldCut}
		switch raw := unsafe.String(unsafe.SliceData(text), len(text)); form {
		case fieldPlain:
			// Raw is not at hand without a copy.
			f.Value = unfolded(raw, text)
		case fieldRaw:
			f = mime.NewField(keptLower[place], raw)
		}
		f.Raw = ""
		each(&f)
	}
	return nil
}

func unfolded(s string, b []byte) string {
	if bytes.IndexByte(b, '\n') >= 0 {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", ""), "\n", "")
	}
	return trim(s)
}

// decodeSummary reads of a payload only what stands between the fields and the parts; the
// preview, into room, unless that is nil.
func decodeSummary(in []byte, room *Room) (s mailbox.Summary, err error) {
	d := decoder{in: in}
	d.wire()
	_, count := d.rawUint(maxPayload), d.rawUint(2*maxFields)
	d.skip(count)
	if d.bad {
		return s, errPayload
	}
	// As long as it is not kept, rest may be the payload's own bytes.
	rest := in[d.pos:]
	d = decoder{all: unsafe.String(unsafe.SliceData(rest), len(rest))}
	s.Arrived = d.time()
	s.Attachment = d.uint(1) == 1
	if room != nil && !d.bad {
		if d.pos < len(d.all) && d.all[d.pos]&3 == stringRepeated {
			// It repeats what stands in the header, mostly.
			m, err := decodeMeta(in)
			if err != nil {
				return s, err
			}
			return m.Summary(), nil
		}
		text := d.string()
		s.Preview = room.put(unsafe.Slice(unsafe.StringData(text), len(text)))
	}
	if d.bad {
		return mailbox.Summary{}, errPayload
	}
	return s, nil
}
