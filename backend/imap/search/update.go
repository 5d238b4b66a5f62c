package search

import (
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// maxFixed bounds the ranges that Fix makes of a query's sets.
const maxFixed = 4096

// Update reports that the client wants to know what changes in the result (RFC 5267, Section 4.3).
func (q *Query) Update() bool { return q.ret.update }

// All are the UIDs of the messages found, in the command's order.
func (r *Result) All() []mailbox.UID {
	uids := make([]mailbox.UID, len(r.hits))
	for i, h := range r.hits {
		uids[i] = h.uid
	}
	return uids
}

// Fix makes the messages that the query names by their numbers, or as "$", be those that these are
// now (RFC 5267, Section 4.3), for the query to be run again later. ok is false, and the query of no
// more use, where that is too long a list.
func (q *Query) Fix(v View) (ok bool) {
	left := maxFixed
	q.keys.fix(v, &left)
	return left >= 0
}

func (k *key) fix(v View, left *int) {
	if k.kind == kSet && (!k.byUID || k.set.Saved) {
		spans := v.Resolve(k.set, k.byUID)
		if *left -= len(spans) + 1; *left < 0 {
			return
		}
		k.set, k.byUID = syntax.Set{}, true
		for _, s := range spans {
			// What comes later has a higher UID than all that there are.
			k.set.Ranges = append(k.set.Ranges, syntax.Range{Start: uidAt(v, s.Lo), Stop: uidAt(v, s.Hi-1)})
		}
	}
	for _, kid := range k.kids {
		kid.fix(v, left)
	}
}

func uidAt(v View, i int) uint32 {
	for _, m := range v.From(i) {
		return uint32(m.UID)
	}
	return 0
}

// Fickle reports that the result may change with the messages' flags; else it only does with the
// messages that there are. That time goes by is no change.
func (q *Query) Fickle() bool {
	return q.keys.any(func(k *key) bool {
		switch k.kind {
		case kFlag, kKeyword, kModSeq:
			return true
		}
		return false
	})
}

// Last reports that the result may change with which message is the last, for the query has UIDs
// up to "*".
func (q *Query) Last() bool {
	return q.keys.any(func(k *key) bool {
		for _, r := range k.set.Ranges {
			if r.Start == 0 || r.Stop == 0 {
				return true
			}
		}
		return false
	})
}

func (k *key) any(is func(*key) bool) bool {
	if is(k) {
		return true
	}
	for _, kid := range k.kids {
		if kid.any(is) {
			return true
		}
	}
	return false
}

// WriteKeys writes the query's keys, fixed before, as a client would: Parse of Search makes the same
// of them, whatever the charset was.
func (q *Query) WriteKeys(e *syntax.Encoder) {
	for i, k := range q.keys.kids {
		if i > 0 {
			e.SP()
		}
		k.write(e)
	}
}

// flagKeys are the names of keys of one system flag.
var flagKeys = map[mailbox.System]string{
	mailbox.Answered: "ANSWERED", mailbox.Deleted: "DELETED", mailbox.Draft: "DRAFT", mailbox.Flagged: "FLAGGED", mailbox.Seen: "SEEN",
}

func (k *key) write(e *syntax.Encoder) {
	switch k.kind {
	case kAnd:
		e.Byte('(')
		for i, kid := range k.kids {
			if i > 0 {
				e.SP()
			}
			kid.write(e)
		}
		e.Byte(')')
	case kOr:
		e.Raw("OR ")
		k.kids[0].write(e)
		e.SP()
		k.kids[1].write(e)
	case kNot:
		e.Raw("NOT ")
		k.kids[0].write(e)
	case kAll:
		e.Raw("ALL")
	case kSet:
		k.writeSet(e)
	case kFlag:
		e.Raw(flagKeys[k.flag])
	case kKeyword:
		e.Raw("KEYWORD ").Raw(k.name)
	case kRecent:
		e.Raw("RECENT")
	case kLarger, kSmaller, kModSeq, kOlder, kYounger:
		name := map[kind]string{kLarger: "LARGER ", kSmaller: "SMALLER ", kModSeq: "MODSEQ ", kOlder: "OLDER ", kYounger: "YOUNGER "}
		e.Raw(name[k.kind]).Number(uint64(k.n))
	case kArrived, kSaved, kSent:
		e.Raw(map[kind]string{kArrived: "", kSaved: "SAVED", kSent: "SENT"}[k.kind])
		k.writeDays(e)
	case kSaveDates:
		e.Raw("SAVEDATESUPPORTED")
	case kEmailID:
		e.Raw("EMAILID ").AString(k.name)
	case kThreadID:
		e.Raw("THREADID ").AString(k.name)
	case kHeader:
		e.Raw("HEADER ").AString(k.name).SP().String(k.text)
	case kBody:
		e.Raw("BODY ").String(k.text)
	case kText:
		e.Raw("TEXT ").String(k.text)
	}
}

func (k *key) writeSet(e *syntax.Encoder) {
	if len(k.set.Ranges) == 0 {
		e.Raw("NOT ALL")
		return
	}
	number := func(n uint32) {
		if n == 0 {
			e.Byte('*')
			return
		}
		e.Number(uint64(n))
	}
	e.Raw("UID ")
	for i, r := range k.set.Ranges {
		if i > 0 {
			e.Byte(',')
		}
		number(r.Start)
		if r.Stop != r.Start {
			e.Byte(':')
			number(r.Stop)
		}
	}
}

// writeDays writes what the key asks of its date, and the date.
func (k *key) writeDays(e *syntax.Encoder) {
	day := func(name string, at time.Time) { e.Raw(name).Raw(at.Format(" 2-Jan-2006")) }
	switch {
	case k.since.IsZero():
		day("BEFORE", k.before)
	case k.before.IsZero():
		day("SINCE", k.since)
	default:
		day("ON", k.since)
	}
}
