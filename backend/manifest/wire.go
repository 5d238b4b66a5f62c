package manifest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waypost/backend/control"
)

// Query asks a source for what its tree holds where it differs from what the target
// has: the target says what it has by the sums of groups of buckets.
type Query struct {
	// Frozen: only of a tree that is frozen for this move.
	Frozen bool
	// Verify: digests that are not known are to be taken now, as far as time allows.
	Verify bool
	// Sums are of 2^n groups.
	Sums []uint64
}

// Delta answers a Query: all entries of the groups that differ.
type Delta struct {
	// Blank: some digests in the manifest are not known yet. They will be in a later
	// Delta, of Verify or Frozen.
	Blank   bool
	Summary control.ManifestSummary
	// Bits and Groups are the groups that differ, of 2^Bits.
	Bits    int
	Groups  []uint32
	Entries []Entry
}

// Query asks about everything in which a source may differ from this tree.
func (t *Tracker) Query(frozen, verify bool) Query {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Query{Frozen: frozen, Verify: verify, Sums: t.index.sums(t.index.bits())}
}

// Delta answers a query as of the last Update.
func (t *Tracker) Delta(q Query) (Delta, error) {
	bits := 0
	for 1<<bits < len(q.Sums) {
		bits++
	}
	if bits > maxBits || len(q.Sums) != 1<<bits {
		return Delta{}, fmt.Errorf("%w: %d sums", errMalformed, len(q.Sums))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d := Delta{Blank: len(t.index.blank) > 0, Summary: t.index.summary(), Bits: bits}
	for n, sum := range t.index.sums(bits) {
		if sum != q.Sums[n] {
			d.Groups = append(d.Groups, uint32(n))
		}
	}
	d.Entries = t.within(bits, d.Groups)
	return d, nil
}

// Within gives the entries of groups, ordered by path.
func (t *Tracker) Within(bits int, groups []uint32) []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.within(bits, groups)
}

func (t *Tracker) within(bits int, groups []uint32) []Entry {
	var out []Entry
	next := 0
	t.index.each(func(n int, b *bucket) {
		group := uint32(n >> (maxBits - bits))
		for next < len(groups) && groups[next] < group {
			next++
		}
		if next == len(groups) || groups[next] != group {
			return
		}
		for _, f := range b.all {
			e := f.Entry
			if f.at.Nlink > 1 {
				e.Link = f.at.Ino
			}
			out = append(out, e)
		}
	})
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return out
}

// Linked finds a message with these contents and this date, under any name.
func (t *Tracker) Linked(ctx context.Context, wanted []Entry) (map[control.TreePath]control.TreePath, error) {
	type contents struct {
		size, mtime int64
		digest      Digest
	}
	want := make(map[contents][]control.TreePath)
	for _, e := range wanted {
		if e.Digest.Known() {
			c := contents{e.Size, e.MTime, e.Digest}
			want[c] = append(want[c], e.Path)
		}
	}
	out := make(map[control.TreePath]control.TreePath)
	if len(want) == 0 {
		return out, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.index.each(func(_ int, b *bucket) {
		for _, f := range b.all {
			for _, path := range want[contents{f.Size, f.MTime, f.Digest}] {
				if path != f.Path && IsMessage(string(f.Path)) {
					out[path] = f.Path
				}
			}
		}
	})
	return out, ctx.Err()
}

// The wire's form: numbers are varints, texts and lists begin with their length.
const wireVersion = 2

var errMalformed = errors.New("malformed")

const (
	flagFrozen = 1 << iota
	flagVerify
	flagBlank
)

// Append writes a query.
func (q Query) Append(b []byte) []byte {
	var flags byte
	if q.Frozen {
		flags |= flagFrozen
	}
	if q.Verify {
		flags |= flagVerify
	}
	b = append(b, wireVersion, flags)
	b = binary.AppendUvarint(b, uint64(len(q.Sums)))
	for _, s := range q.Sums {
		b = binary.BigEndian.AppendUint64(b, s)
	}
	return b
}

// ParseQuery reads what Append wrote.
func ParseQuery(b []byte) (Query, error) {
	r := reader{b: b}
	version, flags := r.byte(), r.byte()
	n := r.length(8)
	q := Query{Frozen: flags&flagFrozen != 0, Verify: flags&flagVerify != 0, Sums: make([]uint64, n)}
	for i := range q.Sums {
		q.Sums[i] = binary.BigEndian.Uint64(r.bytes(8))
	}
	return q, r.end("query", version)
}

// Append writes a delta.
func (d Delta) Append(b []byte) []byte {
	var flags byte
	if d.Blank {
		flags |= flagBlank
	}
	b = append(b, wireVersion, flags)
	b = appendText(b, d.Summary.Digest)
	for _, n := range []int64{d.Summary.Messages, d.Summary.Bytes, d.Summary.Files, int64(d.Bits), int64(len(d.Groups))} {
		b = binary.AppendVarint(b, n)
	}
	for _, g := range d.Groups {
		b = binary.BigEndian.AppendUint32(b, g)
	}
	b = binary.AppendVarint(b, int64(len(d.Entries)))
	for _, e := range d.Entries {
		b = appendEntry(b, e)
	}
	return b
}

// ParseDelta reads what Append wrote.
func ParseDelta(b []byte) (Delta, error) {
	r := reader{b: b}
	version, flags := r.byte(), r.byte()
	d := Delta{Blank: flags&flagBlank != 0}
	d.Summary.Digest = r.text()
	d.Summary.Messages, d.Summary.Bytes, d.Summary.Files = r.number(), r.number(), r.number()
	bits := r.number()
	if bits < 0 || bits > maxBits {
		r.bad = true
	}
	d.Bits = int(bits)
	d.Groups = make([]uint32, r.list(4))
	for i := range d.Groups {
		d.Groups[i] = binary.BigEndian.Uint32(r.bytes(4))
	}
	n := r.list(minEntry)
	for i := 0; i < n && !r.bad; i++ {
		d.Entries = append(d.Entries, r.entry())
	}
	return d, r.end("manifest", version)
}

// minEntry is the least that an entry takes.
const minEntry = 1 + 1 + 1 + 1 + 1

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendEntry(b []byte, e Entry) []byte {
	b = appendText(b, string(e.Path))
	b = binary.AppendVarint(b, e.Size)
	b = binary.AppendVarint(b, e.MTime)
	b = binary.AppendUvarint(b, e.Link)
	if !e.Digest.Known() {
		return append(b, 0)
	}
	return append(append(b, 1), e.Digest[:]...)
}

// reader takes bytes apart. After an error it gives zeros.
type reader struct {
	b   []byte
	bad bool
}

var zeros [32]byte

// bytes gives n bytes, at most as many as zeros has where there are none.
func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return zeros[:min(n, len(zeros))]
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte { return r.bytes(1)[0] }

func (r *reader) number() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) unsigned() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

// length reads how many things of at least size bytes follow.
func (r *reader) length(size int) int {
	n := r.unsigned()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

// list is length where it was written signed.
func (r *reader) list(size int) int {
	n := r.number()
	if n < 0 || n > int64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) text() string {
	n := r.length(1)
	if r.bad {
		return ""
	}
	return string(r.bytes(n))
}

func (r *reader) entry() Entry {
	e := Entry{Path: control.TreePath(r.text()), Size: r.number(), MTime: r.number(), Link: r.unsigned()}
	if r.byte() != 0 {
		e.Digest = Digest(r.bytes(32))
	}
	if e.Size < 0 {
		r.bad = true
	}
	return e
}

func (r *reader) end(what string, version byte) error {
	switch {
	case version != wireVersion:
		return fmt.Errorf("%w %s: version %d", errMalformed, what, version)
	case r.bad || len(r.b) > 0:
		return fmt.Errorf("%w %s", errMalformed, what)
	}
	return nil
}
