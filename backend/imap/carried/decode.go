package carried

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// errForm: the bytes are not in the form.
var errForm = errors.New("malformed state")

// maxWaited bounds State.Waited: far above any timer.
const maxWaited = 30 * 24 * time.Hour

// Decode reads what Encode has written. Its errors are *handoff.Errors: of reason Version, or
// Capability where something is enabled that is not known here. Pending is a part of b.
func Decode(b []byte) (*State, error) {
	if len(b) == 0 || b[0] != version {
		return nil, &handoff.Error{Reason: handoff.Version, Err: errors.New("a version that is not known")}
	}
	r := reader{b: b[1:]}
	s := &State{Session: r.text(), Client: r.text(), User: r.text(), Enabled: Enabled(r.byte())}
	if r.err == nil && s.Enabled&^All != 0 {
		return nil, &handoff.Error{Reason: handoff.Capability, Err: errors.New("something unknown is enabled")}
	}
	var selected, notify, updates bool
	r.bools(&s.Deflate, &selected, &notify, &updates)
	s.Bads = int(r.upTo(math.MaxInt32))
	s.Waited = time.Duration(r.upTo(uint64(maxWaited.Milliseconds()))) * time.Millisecond
	if selected {
		s.Selected = r.selected()
	}
	s.Saved = r.ranges()
	if updates {
		s.Updates = r.updates()
	}
	if notify {
		s.Notify = r.notify()
	}
	u := &s.UnderWay
	r.bools(&u.Answered, &u.Lost)
	u.Granted = int(r.upTo(math.MaxInt32))
	u.Left = int64(r.upTo(math.MaxInt64))
	u.After = mailbox.UID(r.upTo(math.MaxUint32))
	s.Pending = r.bytes()
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, &handoff.Error{Reason: handoff.Version, Err: r.err}
	}
	return s, nil
}

// reader takes a State apart. After an error everything is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	r.b, r.err = nil, errForm
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) number() uint64 {
	n, used := binary.Uvarint(r.b)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[used:]
	return n
}

func (r *reader) upTo(most uint64) uint64 {
	n := r.number()
	if n > most {
		r.fail()
		return 0
	}
	return n
}

// count reads how many follow, each of which takes at least so many bytes: more than there is room
// for are none.
func (r *reader) count(each int) int {
	n := r.number()
	if n > uint64(len(r.b)/each) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	n := r.count(1)
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) texts() []string {
	var all []string
	for range r.count(1) {
		all = append(all, r.text())
	}
	return all
}

// bools reads a byte of writer.bools, in which no other bit is set.
func (r *reader) bools(all ...*bool) {
	b := r.byte()
	if b>>len(all) != 0 {
		r.fail()
		return
	}
	for i, is := range all {
		*is = b&(1<<i) != 0
	}
}

func (r *reader) ranges() []mailbox.UIDRange {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	all := make([]mailbox.UIDRange, n)
	last := uint64(0)
	for i := range all {
		gap, length := r.upTo(math.MaxUint32), r.upTo(math.MaxUint32)
		first := last + gap
		last = first + length
		// They rise, and those that touch would be one.
		if gap < 2 && i > 0 || gap == 0 || last > math.MaxUint32 {
			r.fail()
		}
		if r.err != nil {
			return nil
		}
		all[i] = mailbox.UIDRange{First: mailbox.UID(first), Last: mailbox.UID(last)}
	}
	return all
}

func (r *reader) selected() *Selected {
	s := &Selected{Name: r.text(), ID: r.text(), UIDValidity: uint32(r.upTo(math.MaxUint32))}
	r.bools(&s.ReadOnly, &s.Dead, &s.Untold)
	s.Told = r.ranges()
	s.UIDNext = mailbox.UID(r.upTo(math.MaxUint32))
	s.Highest, s.Synced = r.number(), r.number()
	for _, to := range []*[]mailbox.UIDRange{&s.Unsure, &s.Recent, &s.Noted, &s.Own, &s.Unfetched} {
		*to = r.ranges()
	}
	s.Keywords = r.texts()
	return s
}

func (r *reader) updates() *Updates {
	all := &Updates{Stale: r.ranges()}
	for range r.count(4) {
		u := Update{Tag: r.text()}
		r.bools(&u.ByUID)
		u.Keys, u.Hits = r.text(), r.ranges()
		all.All = append(all.All, u)
	}
	return all
}

func (r *reader) notify() *Notify {
	n := &Notify{Selected: r.byte()}
	r.bools(&n.Delayed)
	n.Fetch = r.text()
	for range r.count(3) {
		n.Groups = append(n.Groups, Group{Filter: r.byte(), Events: r.byte(), Names: r.texts()})
	}
	n.Account = r.entries()
	for range r.count(5) {
		f := Folder{Name: r.text(), Flags: r.byte(), ID: r.text()}
		if r.bools(&f.Counts); f.Counts {
			f.UIDValidity, f.UIDNext = uint32(r.upTo(math.MaxUint32)), uint32(r.upTo(math.MaxUint32))
			f.Messages = uint32(r.upTo(math.MaxUint32))
			f.Unseen = int64(r.upTo(math.MaxUint32)) - 1
			f.ModSeq = r.number()
		}
		f.Metadata = r.entries()
		if r.err != nil {
			return n
		}
		n.Folders = append(n.Folders, f)
	}
	return n
}

func (r *reader) entries() []Entry {
	n := r.number()
	if n == 0 {
		return nil
	}
	if n--; n > uint64(len(r.b)/9) {
		r.fail()
		return nil
	}
	all := make([]Entry, 0, n)
	for range n {
		e := Entry{Name: r.text()}
		if len(r.b) < 8 {
			r.fail()
			return nil
		}
		e.Hash = binary.BigEndian.Uint64(r.b)
		r.b = r.b[8:]
		all = append(all, e)
	}
	return all
}
