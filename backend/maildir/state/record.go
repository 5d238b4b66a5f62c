package state

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxValue bounds values, MaxKey keys, in bytes: a name of 1000 bytes, and what
// its user puts in front.
const (
	MaxKey   = 1024
	MaxValue = 64 << 10
)

// maxModSeq is that of RFC 7162, Section 7: 63 bits.
const maxModSeq = math.MaxInt64

// maxRanges bounds a line.
const maxRanges = 256

// ErrBadRecord: a record that cannot be.
var ErrBadRecord = errors.New("record of a folder's state not possible")

// Record is a change of the state. Records commute, and one that is applied
// again changes nothing: of changes of one thing that with the highest
// mod-sequence counts.
type Record struct {
	kind   byte
	modSeq uint64
	uids   []Range
	// seconds is the date of Save.
	seconds int64
	key     string
	value   string
	// removed: key has no value any more.
	removed bool
}

// The kinds of records, and of the other lines.
const (
	kindChange    = 'm'
	kindExpunge   = 'x'
	kindSave      = 's'
	kindAttribute = 'a'
	kindMark      = 'k'

	kindHeader  = 'v' // version, GUID, UIDVALIDITY
	kindCeiling = 'c' // mod-sequences up to it may have been given out
	kindHighest = 'h' // HIGHESTMODSEQ
	kindBase    = 'b' // the mod-sequence of messages below a UID that have none
	kindForgot  = 'f' // expunges up to it are forgotten
)

// Change gives messages a mod-sequence: they are new, or their flags changed.
func Change(modSeq uint64, uids ...uint32) Record {
	return Record{kind: kindChange, modSeq: modSeq, uids: ranges(uids)}
}

// Expunge says that messages are gone since modSeq.
func Expunge(modSeq uint64, uids ...uint32) Record {
	return Record{kind: kindExpunge, modSeq: modSeq, uids: ranges(uids)}
}

// Save is the save date of messages (RFC 8514), in whole seconds. The latest
// counts.
func Save(date time.Time, uids ...uint32) Record {
	return Record{kind: kindSave, seconds: date.Unix(), uids: ranges(uids)}
}

// SetAttribute gives an attribute of the folder a value: of an ACL, metadata, a
// special use, the meaning of a keyword.
func SetAttribute(modSeq uint64, key, value string) Record {
	return Record{kind: kindAttribute, modSeq: modSeq, key: key, value: value}
}

// RemoveAttribute takes its value away.
func RemoveAttribute(modSeq uint64, key string) Record {
	return Record{kind: kindAttribute, modSeq: modSeq, key: key, removed: true}
}

// SetMark gives messages a mark with a value: a keyword beyond those that file
// names can tell, an email id. It does not change their mod-sequences, which
// Change does.
func SetMark(modSeq uint64, key, value string, uids ...uint32) Record {
	return Record{kind: kindMark, modSeq: modSeq, key: key, value: value, uids: ranges(uids)}
}

// RemoveMark takes it away.
func RemoveMark(modSeq uint64, key string, uids ...uint32) Record {
	return Record{kind: kindMark, modSeq: modSeq, key: key, removed: true, uids: ranges(uids)}
}

func (r Record) check() error {
	keyed := r.kind == kindAttribute || r.kind == kindMark
	switch {
	case r.kind != kindSave && (r.modSeq == 0 || r.modSeq >= maxModSeq),
		r.kind != kindAttribute && len(r.uids) > 0 && r.uids[0].First == 0,
		keyed && (r.key == "" || len(r.key) > MaxKey || len(r.value) > MaxValue):
		return fmt.Errorf("%c, mod-sequence %d, key %.40q: %w", r.kind, r.modSeq, r.key, ErrBadRecord)
	}
	return nil
}

// appendLines writes r as lines of the file.
func (r Record) appendLines(b []byte) []byte {
	if r.kind == kindAttribute {
		return appendLine(b, r.body(nil))
	}
	for rest := r.uids; len(rest) > 0; {
		n := min(len(rest), maxRanges)
		b = appendLine(b, r.body(rest[:n]))
		rest = rest[n:]
	}
	return b
}

func (r Record) body(uids []Range) []byte {
	b := append(make([]byte, 0, 64), r.kind, ' ')
	if r.kind == kindSave {
		b = strconv.AppendInt(b, r.seconds, 10)
	} else {
		b = strconv.AppendUint(b, r.modSeq, 10)
	}
	if r.key != "" {
		b = append(append(b, ' '), url.PathEscape(r.key)...)
	}
	if r.kind != kindAttribute {
		b = appendSet(append(b, ' '), uids)
	}
	if r.key != "" && !r.removed {
		b = append(append(b, " ="...), url.PathEscape(r.value)...)
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendLine writes a line: the checksum of body, and body.
func appendLine(b, body []byte) []byte {
	b = fmt.Appendf(b, "%08x ", crc32.Checksum(body, castagnoli))
	return append(append(b, body...), '\n')
}

func appendNumbers(b []byte, kind byte, numbers ...uint64) []byte {
	body := []byte{kind}
	for _, n := range numbers {
		body = strconv.AppendUint(append(body, ' '), n, 10)
	}
	return appendLine(b, body)
}

// line is one that was read: a record, or numbers of another kind.
type line struct {
	Record
	numbers []uint64
	text    string // the GUID of a header
}

// parseLine reads a line without its end. It is not ok if the checksum is wrong,
// or it is of no known form.
func parseLine(text string) (l line, ok bool) {
	sum, body, _ := strings.Cut(text, " ")
	want, err := strconv.ParseUint(sum, 16, 32)
	if err != nil || len(sum) != 8 || uint32(want) != crc32.Checksum([]byte(body), castagnoli) {
		return l, false
	}
	f := strings.Split(body, " ")
	if len(f[0]) != 1 {
		return l, false
	}
	l.kind = f[0][0]
	switch l.kind {
	case kindChange, kindExpunge, kindSave, kindAttribute, kindMark:
		ok = l.Record.parse(f[1:])
	case kindHeader:
		if ok = len(f) == 4; ok {
			l.text = f[2]
			l.numbers, ok = parseNumbers([]string{f[1], f[3]})
		}
	case kindCeiling, kindHighest, kindForgot:
		l.numbers, ok = parseNumbers(f[1:])
		ok = ok && len(l.numbers) == 1
	case kindBase:
		l.numbers, ok = parseNumbers(f[1:])
		ok = ok && len(l.numbers) == 2
	}
	return l, ok
}

func parseNumbers(fields []string) (numbers []uint64, ok bool) {
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 63)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, true
}

func (r *Record) parse(f []string) (ok bool) {
	if len(f) == 0 {
		return false
	}
	var err error
	if r.kind == kindSave {
		r.seconds, err = strconv.ParseInt(f[0], 10, 64)
	} else {
		r.modSeq, err = strconv.ParseUint(f[0], 10, 63)
	}
	f, ok = f[1:], err == nil
	if ok && (r.kind == kindAttribute || r.kind == kindMark) {
		f, ok = r.parseKey(f)
	}
	if ok && r.kind != kindAttribute {
		if ok = len(f) == 1; ok {
			r.uids, ok = parseSet(f[0])
		}
		f = nil
	}
	return ok && len(f) == 0 && r.check() == nil
}

// parseKey takes the key from the front and the value, if there is one, from
// the end.
func (r *Record) parseKey(f []string) (rest []string, ok bool) {
	if len(f) == 0 {
		return nil, false
	}
	key, err := url.PathUnescape(f[0])
	r.key, f = key, f[1:]
	r.removed = true
	if n := len(f); n > 0 && err == nil {
		if text, found := strings.CutPrefix(f[n-1], "="); found {
			r.removed, f = false, f[:n-1]
			r.value, err = url.PathUnescape(text)
		}
	}
	return f, err == nil
}
