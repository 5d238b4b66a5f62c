package maildir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/uidlist"
)

// A record of the journal is a list of ops, all of one user and one operation,
// which a crash leaves done all or not at all. They say what is to be so, not
// what was written where: replay can bring it about whatever of it is on the
// disk already. Folders are named by their directory under Maildir, messages by
// their base.

type opKind byte

// The kinds of ops. The numbers are on the disk: never used again for another.
const (
	opCreate    opKind = iota + 1 // a message of a body
	opCopy                        // a second name of a message
	opMove                        // another folder for a message
	opFlags                       // other letters
	opExpunge                     // a message removed
	opNumber                      // a UID for a message that is there
	opDelivered                   // the id of a delivery
	opMemory                      // what a filter remembers
	opMakeDir                     // a folder was made (durably, before this)
	opRenameDir                   // a folder is renamed; to a hidden name: removed
	opOutbound                    // a message for the way out
	opMarks                       // all marks of a message
	opAttribute                   // an attribute of a folder
	opSaved                       // the save date of numbered messages
	opKinds
)

// op is one of them; which fields count depends on the kind.
type op struct {
	kind opKind
	// dir and base are what it is about; from* where it comes from.
	dir, base         string
	fromDir, fromBase string
	letters           string
	inNew             bool
	// entry.UID is 0 for a message that is not numbered yet.
	uid    uint32
	fields string
	body   bodyRef
	// at is the modification time of a created file, the time of a delivery, or
	// the end of a memory.
	at time.Time
	// key is a delivery id, or the key of a memory or an attribute; value that of
	// the attribute, unless it is removed.
	key, value string
	removed    bool
	out        mailbox.Outbound
	// marks are those that the message has, and no others.
	marks marks
	// count is how many UIDs from uid on were saved at at.
	count uint32
}

// bodyRef says where replay finds the bytes of a message: in the journal, or in
// a file of the incoming folder, which was synced.
type bodyRef struct {
	lsn  journal.LSN
	file string
	size int64
}

func (o *op) entry() uidlist.Entry { return uidlist.Entry{UID: o.uid, Fields: o.fields, Base: o.base} }

// recordVersion begins each record. A byte follows that says whether the step
// goes on in the user's next record.
const (
	recordVersion = 1
	stepEnds      = 0
	stepGoesOn    = 1
)

// maxPart is about how long a record becomes before the step goes on in another.
// The journal takes no records over two megabytes.
const maxPart = 256 << 10

// errRecord: a record that this version did not write.
var errRecord = errors.New("record of the journal not legible")

// encodeOps gives the records of a step.
func encodeOps(ops []op) (parts [][]byte) {
	b := append(make([]byte, 0, 256), recordVersion, stepEnds)
	for i := range ops {
		if len(b) >= maxPart {
			b[1] = stepGoesOn
			parts = append(parts, b)
			b = append(make([]byte, 0, maxPart+1024), recordVersion, stepEnds)
		}
		b = ops[i].append(b)
	}
	return append(parts, b)
}

func (o *op) append(b []byte) []byte {
	b = append(b, byte(o.kind))
	text := func(list ...string) {
		for _, s := range list {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	number := func(n uint64) { b = binary.AppendUvarint(b, n) }
	body := func() {
		number(uint64(o.body.lsn))
		text(o.body.file)
		number(uint64(o.body.size))
	}
	switch o.kind {
	case opCreate:
		text(o.dir, o.base, o.letters, o.fields)
		number(uint64(o.uid))
		flag := uint64(0)
		if o.inNew {
			flag = 1
		}
		number(flag)
		b = binary.AppendVarint(b, o.at.UnixNano())
		body()
	case opCopy, opMove:
		text(o.fromDir, o.fromBase, o.dir, o.base, o.letters, o.fields)
		number(uint64(o.uid))
	case opFlags:
		text(o.dir, o.base, o.letters)
	case opExpunge:
		text(o.dir, o.base)
	case opNumber:
		text(o.dir, o.base, o.fields)
		number(uint64(o.uid))
	case opDelivered, opMemory:
		text(o.key)
		b = binary.AppendVarint(b, o.at.Unix())
	case opMarks:
		text(o.dir, o.base, o.marks.email)
		number(uint64(len(o.marks.words)))
		text(o.marks.words...)
	case opAttribute:
		text(o.dir, o.key, o.value)
		flag := uint64(0)
		if o.removed {
			flag = 1
		}
		number(flag)
	case opSaved:
		text(o.dir)
		number(uint64(o.uid))
		number(uint64(o.count))
		b = binary.AppendVarint(b, o.at.Unix())
	case opMakeDir:
		text(o.dir)
	case opRenameDir:
		text(o.fromDir, o.dir)
	case opOutbound:
		text(o.out.ID, o.out.Kind, o.out.From)
		number(uint64(len(o.out.To)))
		text(o.out.To...)
		flag := uint64(0)
		if o.out.UTF8 {
			flag = 1
		}
		number(flag)
		b = binary.AppendVarint(b, o.at.UnixNano())
		body()
	}
	return b
}

// decodeOps reads one of the records of encodeOps; more says that another one of
// the same step follows.
func decodeOps(data []byte) (ops []op, more bool, err error) {
	d := decoder{b: data}
	if v := d.byte(); d.bad || v != recordVersion {
		return nil, false, fmt.Errorf("version %d: %w", v, errRecord)
	}
	goesOn := d.byte()
	for len(d.b) > 0 && !d.bad {
		ops = append(ops, d.op())
	}
	if d.bad || goesOn > stepGoesOn {
		return nil, false, errRecord
	}
	return ops, goesOn == stepGoesOn, nil
}

// decoder reads the parts of a record; bad is set, and everything is zero, from
// the first one on that is not there.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) signed() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) body() bodyRef {
	return bodyRef{lsn: journal.LSN(d.number()), file: d.text(), size: int64(d.number())}
}

func (d *decoder) op() op {
	o := op{kind: opKind(d.byte())}
	switch o.kind {
	case opCreate:
		o.dir, o.base, o.letters, o.fields = d.text(), d.text(), d.text(), d.text()
		o.uid, o.inNew = uint32(d.number()), d.number() == 1
		o.at = time.Unix(0, d.signed())
		o.body = d.body()
	case opCopy, opMove:
		o.fromDir, o.fromBase, o.dir, o.base = d.text(), d.text(), d.text(), d.text()
		o.letters, o.fields, o.uid = d.text(), d.text(), uint32(d.number())
	case opFlags:
		o.dir, o.base, o.letters = d.text(), d.text(), d.text()
	case opExpunge:
		o.dir, o.base = d.text(), d.text()
	case opNumber:
		o.dir, o.base, o.fields, o.uid = d.text(), d.text(), d.text(), uint32(d.number())
	case opDelivered, opMemory:
		o.key, o.at = d.text(), time.Unix(d.signed(), 0)
	case opMarks:
		o.dir, o.base, o.marks.email = d.text(), d.text(), d.text()
		for n := d.number(); n > 0 && !d.bad; n-- {
			o.marks.words = append(o.marks.words, d.text())
		}
	case opAttribute:
		o.dir, o.key, o.value = d.text(), d.text(), d.text()
		o.removed = d.number() == 1
	case opSaved:
		o.dir, o.uid, o.count = d.text(), uint32(d.number()), uint32(d.number())
		o.at = time.Unix(d.signed(), 0)
	case opMakeDir:
		o.dir = d.text()
	case opRenameDir:
		o.fromDir, o.dir = d.text(), d.text()
	case opOutbound:
		o.out = mailbox.Outbound{ID: d.text(), Kind: d.text(), From: d.text()}
		for n := d.number(); n > 0 && !d.bad; n-- {
			o.out.To = append(o.out.To, d.text())
		}
		o.out.UTF8 = d.number() == 1
		o.at = time.Unix(0, d.signed())
		o.body = d.body()
	default:
		d.bad = true
	}
	return o
}
