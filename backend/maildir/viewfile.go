package maildir

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"
	"unsafe"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/packed"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// The file of a view: a line with its version, a checksum of all that follows, what the view
// was made of (viewHead), the state, sums over the messages, and the messages, in three parts: the
// letters of flags that there are, a record of each message, and its name, behind which the fields of
// its line in the uidlist are. Records are of one size and need not be read to take a
// view over: what is asked of them then is that they are in their order and within the
// file (viewSource.check). Messages are made of them when somebody looks (mailbox.LaterMessages).
const (
	viewMagic = "waypost view 2\n"
	viewStart = len(viewMagic) + crc32.Size

	// A record, little endian: UID, the end of the name and the fields, mod-sequence, both sizes, the
	// number of its letters, and the length of the fields with recordNew.
	recordSize = 4 + 4 + 8 + 4 + 4 + 2 + 2
	recordNew  = 1 << 15
)

var viewTable = crc32.MakeTable(crc32.Castagnoli)

func writeStamp(w *packed.Writer, s stamp) {
	w.Uint(s.inode)
	w.Int(s.size)
	w.Time(s.mtime)
}

func readStamp(r *packed.Reader) stamp {
	s := stamp{inode: r.Uint(), size: r.Int(), mtime: r.Time()}
	if s.inode == 0 {
		return stamp{} // of a file that is not there
	}
	return s
}

func (f *folder) encodeView(h viewHead) ([]byte, error) {
	w := &packed.Writer{Bytes: append(make([]byte, 0, 4096+(128+recordSize)*h.messages), viewMagic...)}
	w.Bytes = append(w.Bytes, make([]byte, crc32.Size)...)
	w.Text(h.run)
	w.Time(h.saved)
	writeStamp(w, h.seen.stamps[0])
	writeStamp(w, h.seen.stamps[1])
	w.Time(h.seen.at)
	w.Time(h.seen.since)
	w.Int(int64(h.seen.took))
	w.Bool(h.seen.unconfirmed)
	w.Bool(h.seen.recent)
	w.Time(h.foreign)
	l := h.list
	w.Uint(uint64(l.Header.Validity))
	w.Uint(uint64(l.Header.Next))
	w.Text(l.Header.GUID)
	w.Texts(l.Header.Other)
	w.Int(l.Size)
	w.Uint(uint64(l.Lines))
	w.Uint(uint64(l.Stale))
	w.Uint(l.Inode)
	w.Int(l.FileSize)
	w.Int(l.Modified)
	w.Texts(l.Gone)
	writeStamp(w, h.words)
	if !f.state.Save(w) {
		return nil, errView
	}
	w.Int(int64(f.unseen))
	w.Int(int64(f.deleted))
	w.Int(f.deletedBytes)
	w.Int(f.wireBytes)
	if err := f.encodeMessages(w); err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(w.Bytes[len(viewMagic):], crc32.Checksum(w.Bytes[viewStart:], viewTable))
	return w.Bytes, nil
}

// encodeMessages appends the messages. Of those that no record can hold, which nobody has, there
// is no view.
func (f *folder) encodeMessages(w *packed.Writer) error {
	records := make([]byte, 0, recordSize*f.msgs.Len())
	names := make([]byte, 0, 96*f.msgs.Len())
	var letters []string
	numbers := map[string]int{}
	for _, m := range f.msgs.All() {
		flags, fields := refName(m.Ref).Flags, f.fields[m.UID]
		number, known := numbers[flags]
		if !known {
			number = len(letters)
			letters, numbers[flags] = append(letters, flags), number
		}
		names = append(append(names, m.Ref...), fields...)
		if number > math.MaxUint16 || len(fields) >= recordNew || len(names) > math.MaxUint32 ||
			uint64(m.Size) > math.MaxUint32 || uint64(m.WireSize) > math.MaxUint32 {
			return errView
		}
		last := uint16(len(fields))
		if refIsNew(m.Ref) {
			last |= recordNew
		}
		records = binary.LittleEndian.AppendUint32(records, uint32(m.UID))
		records = binary.LittleEndian.AppendUint32(records, uint32(len(names)))
		records = binary.LittleEndian.AppendUint64(records, m.ModSeq)
		records = binary.LittleEndian.AppendUint32(records, uint32(m.Size))
		records = binary.LittleEndian.AppendUint32(records, uint32(m.WireSize))
		records = binary.LittleEndian.AppendUint16(records, uint16(number))
		records = binary.LittleEndian.AppendUint16(records, last)
	}
	w.Texts(letters)
	w.Uint(uint64(len(records)))
	w.Bytes = append(w.Bytes, records...)
	w.Uint(uint64(len(names)))
	w.Bytes = append(w.Bytes, names...)
	return nil
}

// readView gives what is behind the head of a legible view of this run.
func (f *folder) readView() (h viewHead, r *packed.Reader, err error) {
	data, err := vfs.ReadFile(f.a.fs, f.path(viewName))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errView
		}
		return h, nil, err
	}
	if len(data) < viewStart || string(data[:len(viewMagic)]) != viewMagic ||
		crc32.Checksum(data[viewStart:], viewTable) != binary.LittleEndian.Uint32(data[len(viewMagic):]) {
		return h, nil, errView
	}
	// The bytes are nobody else's, and stay as they are for as long as a message points into them.
	r = &packed.Reader{Rest: unsafe.String(unsafe.SliceData(data), len(data))[viewStart:]}
	h.run = r.Text()
	h.saved = r.Time()
	h.seen.stamps[0], h.seen.stamps[1] = readStamp(r), readStamp(r)
	h.seen.at, h.seen.since, h.seen.took = r.Time(), r.Time(), time.Duration(r.Int())
	h.seen.unconfirmed, h.seen.recent = r.Bool(), r.Bool()
	h.foreign = r.Time()
	l := &h.list
	l.Header.Validity, l.Header.Next = uint32(r.Uint()), uint32(r.Uint())
	l.Header.GUID, l.Header.Other = r.Text(), r.Texts()
	l.Size, l.Lines, l.Stale = r.Int(), int(r.Uint()), int(r.Uint())
	l.Inode, l.FileSize, l.Modified = r.Uint(), r.Int(), r.Int()
	l.Gone = r.Texts()
	h.words = readStamp(r)
	if r.Failed || h.run != f.a.o.Views {
		return h, nil, errView
	}
	return h, r, nil
}

// takeView takes the messages over. fresh are the files of new, if those are not the
// same as before; recent as for loadView.
func (f *folder) takeView(r *packed.Reader, fresh map[string]found, recent map[string]bool) error {
	unseen, deleted, deletedBytes, wireBytes := int(r.Int()), int(r.Int()), r.Int(), r.Int()
	letters := r.Texts()
	src := &viewSource{records: r.Text(), names: r.Text()}
	special, ok := src.check(len(letters))
	if r.Failed || len(r.Rest) > 0 || !ok {
		return errView
	}
	for _, l := range letters {
		src.flags = append(src.flags, f.flags(l))
	}
	for uid, m := range f.marks {
		if len(m.words) > 0 {
			if src.words == nil {
				src.words = map[mailbox.UID][]string{}
			}
			src.words[uid] = m.words
		}
	}
	if err := f.takeNew(src, special, fresh, recent); err != nil {
		return err
	}
	f.unseen, f.deleted, f.deletedBytes, f.wireBytes = unseen, deleted, deletedBytes, wireBytes
	f.msgs = mailbox.LaterMessages(src)
	for _, x := range fresh {
		f.fresh = append(f.fresh, f.newMessage(x, uidlist.Entry{}))
	}
	slices.SortFunc(f.fresh, func(a, b unnumbered) int { return strings.Compare(a.ref, b.ref) })
	return nil
}

// takeNew takes over which messages are recent, and the fields of those that have any; and compares
// those of a view with fresh. special are the indices of those that are new or have fields.
func (f *folder) takeNew(src *viewSource, special []int, fresh map[string]found, recent map[string]bool) error {
	take := func(i int) error {
		uid := src.UID(i)
		ref, fields := src.name(i)
		if fields != "" {
			f.fields[uid] = fields
		}
		base := refBase(ref)
		if fresh != nil {
			x, is := fresh[base]
			if refIsNew(ref) != is || is && refOf(true, x.file) != ref {
				return errView // taken to cur, or removed, or there twice
			}
			delete(fresh, base)
		}
		if refIsNew(ref) || recent[base] {
			f.recent = append(f.recent, uid)
		}
		return nil
	}
	if sought := newSieve(fresh, recent); sought.bits != nil {
		for i := range src.Len() {
			if ref, _ := src.name(i); sought.may(ref) && !src.record(i).special() {
				special = append(special, i)
			}
		}
		slices.Sort(special)
	}
	for _, i := range special {
		if err := take(i); err != nil {
			return err
		}
	}
	if len(fresh) > viewFresh {
		return errView
	}
	return nil
}

// sieve lets most names through that are not among some bases, without a look at more of them than
// their first bytes: seconds and microseconds.
type sieve struct {
	bits []uint64
	all  bool
}

const (
	sieveBytes = 16
	sieveBits  = 1 << 16
)

func newSieve(fresh map[string]found, recent map[string]bool) (s sieve) {
	if len(fresh)+len(recent) == 0 {
		return s
	}
	s.bits = make([]uint64, sieveBits/64)
	add := func(base string) {
		if s.all = s.all || len(base) < sieveBytes; !s.all {
			h := s.hash(base)
			s.bits[h/64] |= 1 << (h % 64)
		}
	}
	for base := range fresh {
		add(base)
	}
	for base := range recent {
		add(base)
	}
	return s
}

func (s *sieve) hash(base string) uint64 {
	h := packed.Uint64(base)*0x9e3779b97f4a7c15 ^ packed.Uint64(base[8:])
	return h * 0xd6e8feb86659fd93 >> 48
}

// may reports that the file of a ref may have one of the bases.
func (s *sieve) may(ref string) bool {
	if s.all || len(ref) < len("cur/")+sieveBytes {
		return true
	}
	h := s.hash(ref[len("cur/"):])
	return s.bits[h/64]>>(h%64)&1 == 1
}

// viewSource are the messages of a view.
type viewSource struct {
	records, names string
	// flags are those of each number of letters, words the keywords of messages beyond these.
	flags []mailbox.Flags
	words map[mailbox.UID][]string
}

// viewRecord is a message's record.
type viewRecord string

func (s *viewSource) Len() int { return len(s.records) / recordSize }

func (s *viewSource) record(i int) viewRecord {
	return viewRecord(s.records[i*recordSize : (i+1)*recordSize])
}

func (s *viewSource) UID(i int) mailbox.UID { return s.record(i).uid() }

func (r viewRecord) uid() mailbox.UID { return mailbox.UID(packed.Uint32(string(r))) }
func (r viewRecord) end() int         { return int(packed.Uint32(string(r[4:]))) }
func (r viewRecord) modSeq() uint64   { return packed.Uint64(string(r[8:])) }
func (r viewRecord) size() int64      { return int64(packed.Uint32(string(r[16:]))) }
func (r viewRecord) wire() int64      { return int64(packed.Uint32(string(r[20:]))) }
func (r viewRecord) letters() int     { return int(packed.Uint16(string(r[24:]))) }
func (r viewRecord) fields() int      { return int(packed.Uint16(string(r[26:]))) &^ recordNew }

// special: it is in new, or has fields.
func (r viewRecord) special() bool { return packed.Uint16(string(r[26:])) != 0 }

// check reports that each message is within the names, and has a UID above that before it. letters is how
// many there are. special are the indices of those that are new or have fields.
func (s *viewSource) check(letters int) (special []int, ok bool) {
	if len(s.records)%recordSize != 0 {
		return nil, false
	}
	last, start := mailbox.UID(0), 0
	for i := range s.Len() {
		r := s.record(i)
		uid, end, is := r.uid(), r.end(), r.special()
		if is {
			special = append(special, i)
			start += r.fields()
		}
		if uid <= last || end > len(s.names) || end < start+len("cur/x") || r.letters() >= letters {
			return nil, false
		}
		last, start = uid, end
	}
	return special, start == len(s.names)
}

// name is the place of message i's file, and the fields of its line.
func (s *viewSource) name(i int) (ref, fields string) {
	r, start := s.record(i), 0
	if i > 0 {
		start = s.record(i - 1).end()
	}
	end := r.end()
	return s.names[start : end-r.fields()], s.names[end-r.fields() : end]
}

// Messages is mailbox.Source's.
func (s *viewSource) Messages(from, to int) []mailbox.Message {
	all := make([]mailbox.Message, 0, to-from)
	for i := from; i < to; i++ {
		r := s.record(i)
		ref, fields := s.name(i)
		uid := r.uid()
		all = append(all, mailbox.Message{
			UID: uid, Flags: withWords(s.flags[r.letters()], s.words[uid]), Size: r.size(), WireSize: r.wire(),
			ModSeq: r.modSeq(), GUID: guidOf(refBase(ref), fields), Ref: ref,
		})
	}
	return all
}
