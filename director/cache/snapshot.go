package cache

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"maps"
	"os"
	"slices"

	"waypost/internal/durable"
)

// A snapshot is the line snapshotMagic, then entries, then the end:
//
//	entry: tag (1 byte), uvarint length and key, uvarint revision, uvarint length and value
//	end:   tag 0, uvarint number of entries, CRC-64 (ECMA) of all before it
//
// The first entry is the era, tagged 'e'; the others' tags are those of kinds.
// Keys have no prefix, values are as in the store.
const (
	snapshotMagic = "waypost directory snapshot 1\n"
	tagEra        = 'e'
	// maxSnapshotField is more than the store takes as a key or value.
	maxSnapshotField = 4 << 20
)

var errSnapshot = errors.New("not a whole snapshot of this version")

// writeSnapshot replaces the file by what is in st. It may run beside changes:
// each entry is one that was current at some time, and the store is read anew
// before anything relies on it.
func writeSnapshot(path string, st *state) error {
	return durable.WriteFunc(path, 0o600, func(file io.Writer) error {
		sum := crc64.New(crc64.MakeTable(crc64.ECMA))
		w := &snapshotWriter{w: bufio.NewWriterSize(io.MultiWriter(file, sum), 256<<10)}
		w.bytes([]byte(snapshotMagic))
		w.entry(tagEra, "", 0, []byte(st.era))
		w.state(st)
		w.bytes([]byte{0})
		w.uvarint(w.entries)
		if err := errors.Join(w.err, w.w.Flush()); err != nil {
			return err
		}
		return binary.Write(file, binary.BigEndian, sum.Sum64())
	})
}

// snapshotWriter keeps the first error.
type snapshotWriter struct {
	w       *bufio.Writer
	entries uint64
	err     error
}

func (w *snapshotWriter) bytes(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *snapshotWriter) uvarint(n uint64) { w.bytes(binary.AppendUvarint(nil, n)) }

func (w *snapshotWriter) entry(tag byte, key string, rev int64, value []byte) {
	b := make([]byte, 0, 64+len(key))
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(rev))
	b = binary.AppendUvarint(b, uint64(len(value)))
	w.bytes(b)
	w.bytes(value)
	w.entries++
}

func (w *snapshotWriter) state(st *state) {
	for i := range st.shards {
		for _, p := range st.shards[i].copy() {
			if p.entry.epoch != 0 {
				w.entry('l', string(p.user), 0, st.record(p.entry).Encode())
			}
			if a := p.entry.acct; a != nil {
				w.entry('a', string(p.user), a.rev, []byte(a.raw))
			}
		}
	}
	st.mu.RLock() // not while the disk is written
	addresses, domains, backends := maps.Clone(st.addresses), maps.Clone(st.domains), maps.Clone(st.backends)
	st.mu.RUnlock()
	writeRows(w, 'd', addresses)
	writeRows(w, 'm', domains)
	writeRows(w, 'b', backends)
}

func writeRows[K ~string, T any](w *snapshotWriter, tag byte, rows map[K]row[T]) {
	for k, r := range rows {
		b, err := json.Marshal(r.value)
		w.err = errors.Join(w.err, err)
		w.entry(tag, string(k), r.rev, b)
	}
}

// readSnapshot reads a file into a new state. Nothing of a damaged file is used.
func readSnapshot(path string, sh *shared) (*state, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := decodeSnapshot(f, sh)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return st, nil
}

func decodeSnapshot(file io.Reader, sh *shared) (*state, error) {
	r := &snapshotReader{r: bufio.NewReaderSize(file, 256<<10), sum: crc64.New(crc64.MakeTable(crc64.ECMA))}
	if string(r.bytes(uint64(len(snapshotMagic)))) != snapshotMagic {
		return nil, errSnapshot
	}
	var st *state
	for n := uint64(0); ; n++ {
		tag, _ := r.ReadByte()
		if tag == 0 {
			if r.end(n); r.err != nil {
				return nil, r.err
			}
			break
		}
		key := r.bytes(r.uvarint())
		rev := int64(r.uvarint())
		value := r.bytes(r.uvarint())
		if r.err != nil {
			return nil, r.err
		}
		switch {
		case n == 0 && tag == tagEra && len(value) > 0:
			st = newState(string(value), sh)
		case st == nil:
			return nil, errSnapshot
		default:
			if err := putTagged(st, tag, string(key), value, rev); err != nil {
				return nil, fmt.Errorf("%q: %w", key, err)
			}
		}
	}
	if st == nil {
		return nil, errSnapshot
	}
	return st, nil
}

func putTagged(st *state, tag byte, key string, value []byte, rev int64) error {
	for i := range kinds {
		if kinds[i].tag == tag {
			return kinds[i].put(st, key, value, rev)
		}
	}
	return errSnapshot
}

// snapshotReader sums what it reads and keeps the first error; after one it
// gives zeros.
type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash64
	one [1]byte
	err error
}

// ReadByte implements io.ByteReader for binary.ReadUvarint.
func (r *snapshotReader) ReadByte() (byte, error) {
	if r.err != nil {
		return 0, r.err
	}
	b, err := r.r.ReadByte()
	if err != nil {
		r.fail(err)
		return 0, err
	}
	r.one[0] = b
	r.sum.Write(r.one[:])
	return b, nil
}

func (r *snapshotReader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %w", errSnapshot, err)
	}
}

func (r *snapshotReader) uvarint() uint64 {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		r.fail(err)
		return 0
	}
	return n
}

// bytes reads n bytes, without believing n before they are there.
func (r *snapshotReader) bytes(n uint64) []byte {
	if n > maxSnapshotField {
		r.fail(fmt.Errorf("field of %d bytes", n))
	}
	if r.err != nil {
		return nil
	}
	var b []byte
	for have := uint64(0); have < n; have = uint64(len(b)) {
		step := min(n-have, 64<<10)
		b = slices.Grow(b, int(step))[:have+step]
		if _, err := io.ReadFull(r.r, b[have:]); err != nil {
			r.fail(err)
			return nil
		}
	}
	r.sum.Write(b)
	return b
}

// end reads what follows the last of n entries.
func (r *snapshotReader) end(n uint64) {
	if got := r.uvarint(); r.err == nil && got != n {
		r.fail(fmt.Errorf("%d entries of %d", n, got))
	}
	want := r.sum.Sum64()
	var sum [8]byte
	if _, err := io.ReadFull(r.r, sum[:]); err != nil {
		r.fail(err)
	} else if binary.BigEndian.Uint64(sum[:]) != want {
		r.fail(errors.New("wrong checksum"))
	}
}
