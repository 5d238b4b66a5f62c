package maildir

import (
	"fmt"

	"waypost/backend/journal"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/uidlist"
	"waypost/director"
)

// Replay brings what the journal says about, after a crash, in the trees. What
// lies on the disk then is no moment of the past: each change since the last
// checkpoint may be there or not, each for itself. So the records are not done
// again one after the other; they are folded into what must be so in the end, and
// that is brought about. What a later record removed, moved or renamed is so
// never made again.
//
// Fill it with Add, in the order of the journal; then Apply.
type Replay struct {
	users map[director.User]*userFold
}

// Users lists those the records are about.
func (r *Replay) Users() []director.User {
	var list []director.User
	for u := range r.users {
		list = append(list, u)
	}
	return list
}

// Add takes the next record of a user. Records that may not be replayed (R2:
// those of another epoch than the fence's) are the caller's to leave out.
func (r *Replay) Add(u director.User, rec journal.Record) error {
	ops, more, err := decodeOps(rec.Data)
	if err != nil {
		return fmt.Errorf("journal record %d of %s: %w", rec.LSN, u, err)
	}
	if r.users == nil {
		r.users = map[director.User]*userFold{}
	}
	f := r.users[u]
	if f == nil {
		f = &userFold{folders: map[string]*dirFold{}}
		r.users[u] = f
	}
	f.step = append(f.step, ops...)
	if more {
		return nil // a step that ends nowhere was never durable, and is not done
	}
	f.lastFolder = folderOps(f.step, f.lastFolder)
	for _, o := range f.step {
		f.add(o)
	}
	f.step = nil
	return nil
}

// folderOps gives the folder ops of a record, or those before where it has none.
func folderOps(ops, before []op) []op {
	var found []op
	for _, o := range ops {
		switch o.kind {
		case opMakeDir, opRenameDir:
			found = append(found, o)
		}
	}
	if found == nil {
		return before
	}
	return found
}

// userFold is what the records of one user come to.
type userFold struct {
	// step are the ops of a step whose last record is still to come.
	step    []op
	folders map[string]*dirFold // by directory as it is in the end
	// lastFolder are the folder ops of the last record that has any. Each is
	// durable in the files before the next is journaled, so that only these can
	// be undone.
	lastFolder []op
	delivered  []deliveries.Entry
	memories   []deliveries.Entry
	outbound   []op
}

// dirFold is one folder.
type dirFold struct {
	rel  string
	msgs map[string]*msgFold // by base
	// order are the bases in the order in which they came.
	order []string
	uids  []uidlist.Entry
	next  uint32
	// saves are the opSaved, attributes the last opAttribute of each key.
	saves      []op
	attributes map[string]op
}

// namedIn is a name that a file had, or has.
type namedIn struct {
	dir  *dirFold
	base string
}

// fileFold is what the names of a message, and of its copies, have in common.
type fileFold struct {
	// body is where the bytes are, if the journal has them. Otherwise it is a file
	// that was durable before the first record: on the disk under at least one of
	// names, which are all that it ever had.
	body  *op
	names []namedIn
}

// msgFold is a message, in one place.
type msgFold struct {
	present bool
	// letters are its flags' if known says so; else they are as they are.
	letters string
	known   bool
	inNew   bool
	file    *fileFold
	// marks are the message's; nil: as they are.
	marks *marks
}

func (f *userFold) dir(rel string) *dirFold {
	d := f.folders[rel]
	if d == nil {
		d = &dirFold{rel: rel, msgs: map[string]*msgFold{}, attributes: map[string]op{}}
		f.folders[rel] = d
	}
	return d
}

// get gives the message of a base, which if no record has named it before is a
// file that was there already.
func (d *dirFold) get(base string) *msgFold {
	m := d.msgs[base]
	if m == nil {
		m = &msgFold{present: true, file: &fileFold{}}
		d.put(base, m)
	}
	return m
}

func (d *dirFold) put(base string, m *msgFold) {
	if d.msgs[base] == nil {
		d.order = append(d.order, base)
	}
	d.msgs[base] = m
	if m.file != nil {
		m.file.names = append(m.file.names, namedIn{d, base})
	}
}

func (d *dirFold) number(o op) {
	if o.uid == 0 {
		return
	}
	d.uids = append(d.uids, o.entry())
	d.next = max(d.next, o.uid+1)
}

func (f *userFold) add(o op) {
	switch o.kind {
	case opCreate:
		d := f.dir(o.dir)
		made := o
		d.put(o.base, &msgFold{present: true, letters: o.letters, known: true, inNew: o.inNew, file: &fileFold{body: &made}})
		d.number(o)
	case opCopy, opMove:
		source, d := f.dir(o.fromDir).get(o.fromBase), f.dir(o.dir)
		if source.file == nil {
			source.file = &fileFold{}
		}
		d.put(o.base, &msgFold{present: true, letters: o.letters, known: true, file: source.file})
		d.number(o)
		if o.kind == opMove {
			f.dir(o.fromDir).msgs[o.fromBase] = &msgFold{}
		}
	case opFlags:
		m := f.dir(o.dir).get(o.base)
		m.letters, m.known, m.inNew = o.letters, true, false
	case opExpunge:
		f.dir(o.dir).get(o.base).present = false
	case opNumber:
		f.dir(o.dir).number(o)
	case opMarks:
		f.dir(o.dir).get(o.base).marks = &o.marks
	case opAttribute:
		f.dir(o.dir).attributes[o.key] = o
	case opSaved:
		d := f.dir(o.dir)
		d.saves = append(d.saves, o)
	case opDelivered:
		f.delivered = append(f.delivered, deliveries.Entry{At: o.at, Key: o.key})
	case opMemory:
		f.memories = append(f.memories, deliveries.Entry{At: o.at, Key: o.key})
	case opOutbound:
		f.outbound = append(f.outbound, o)
	case opMakeDir:
		// Whatever was said of a folder of that name was of another one.
		delete(f.folders, o.dir)
	case opRenameDir:
		d := f.folders[o.fromDir]
		delete(f.folders, o.fromDir)
		delete(f.folders, o.dir)
		if d != nil {
			d.rel = o.dir
			f.folders[o.dir] = d
		}
	}
}
