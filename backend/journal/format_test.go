package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

func TestSegmentHeader(t *testing.T) {
	h := segmentHeader{id: newID(), seq: 7, salt: newSalt(), size: 5 * blockSize}
	resum := func(b []byte) { binary.LittleEndian.PutUint32(b[64:], checksum(b[:64])) }
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"as written", func(b []byte) []byte { return b }, nil},
		{"empty", func([]byte) []byte { return nil }, ErrForeign},
		{"short", func(b []byte) []byte { return b[:segmentHead-1] }, ErrForeign},
		{"zeros", func([]byte) []byte { return make([]byte, blockSize) }, ErrForeign},
		{"another's magic", func(b []byte) []byte { b[0]++; return b }, ErrForeign},
		{"another version", func(b []byte) []byte { b[16]++; return b }, ErrVersion},
		{"a bit of the id", func(b []byte) []byte { b[24] ^= 1; return b }, ErrCorrupt},
		{"a bit of the sum", func(b []byte) []byte { b[64] ^= 1; return b }, ErrCorrupt},
		{"no room for a batch", func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b[56:], blockSize)
			resum(b)
			return b
		}, ErrCorrupt},
		{"negative size", func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b[56:], 1<<63)
			resum(b)
			return b
		}, ErrCorrupt},
	} {
		got, err := decodeSegmentHeader(c.change(h.encode()))
		if !errors.Is(err, c.want) || err == nil && got != h {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func TestMaster(t *testing.T) {
	m := master{id: newID(), clean: true, checkpoint: 41, from: position{3, 2 * blockSize, 9, 40}, last: 12}
	odd := m
	odd.from.off++
	none := m
	none.from.number = 0
	text := string(m.encode())
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"as written", text, nil},
		{"empty", "", ErrForeign},
		{"another's", "SQLite format 3", ErrForeign},
		{"another version", strings.Replace(text, "journal 1", "journal 2", 1), ErrVersion},
		{"a digit", strings.Replace(text, "checkpoint 41", "checkpoint 42", 1), ErrCorrupt},
		{"same value, other text", strings.Replace(text, "checkpoint 41", "checkpoint 041", 1), ErrCorrupt},
		{"cut", text[:len(text)-3], ErrCorrupt},
		{"more", text + "more\n", ErrCorrupt},
		{"place between blocks", string(odd.encode()), ErrCorrupt},
		{"no batch number", string(none.encode()), ErrCorrupt},
	} {
		got, err := decodeMaster([]byte(c.text))
		if !errors.Is(err, c.want) || err == nil && got != m {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func TestBatchHeader(t *testing.T) {
	h := batchHeader{seq: 1, salt: 2, number: 3, first: 4, count: 5, length: 6, sum: 7}
	b := make([]byte, batchHead)
	h.encode(b)
	if got, ok := decodeBatchHeader(b, 1, 2); !ok || got != h {
		t.Fatal(got, ok)
	}
	for bit := range batchHead * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if _, ok := decodeBatchHeader(b, 1, 2); ok {
			t.Errorf("bit %d does not matter", bit)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	if _, ok := decodeBatchHeader(b, 2, 2); ok {
		t.Error("taken for another segment's")
	}
	if _, ok := decodeBatchHeader(b, 1, 3); ok {
		t.Error("taken though the salt is another")
	}
	for _, bad := range []batchHeader{{seq: 1, salt: 2, number: 3, first: 4}, {seq: 1, salt: 2, first: 4, count: 1}, {seq: 1, salt: 2, number: 3, count: 1}, {seq: 1, salt: 2, number: 3, first: 4, count: 1, length: maxBatch}} {
		bad.encode(b)
		if _, ok := decodeBatchHeader(b, 1, 2); ok {
			t.Error("taken: ", bad)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	for name, want := range map[string]uint64{
		filepath.Base(segmentPath("/", 12)): 12, "00000000000000000000.wal": 0, "1.wal": 0, "0000000000000000000x.wal": 0,
		"99999999999999999999.wal": 0, "00000000000000000012": 0, "+0000000000000000012.wal": 0,
	} {
		if got, ok := segmentSeq(name); got != want && ok || ok != (want > 0) {
			t.Error(name, got, ok)
		}
	}
}

// logged is a journal of one segment with a batch for each of some records, cut off
// by a power cut.
func logged(t testing.TB, n int) (*crashfs.FS, []string) {
	t.Helper()
	fsys := newFS(t, 1)
	o := options(fsys)
	o.SegmentBytes = 64 * blockSize
	j := mustStart(t, o)
	var want []string
	for i := range n {
		data := payload(i, i*2000)
		mustAppend(t, j, "ann", data)
		want = append(want, string(data))
	}
	until(t, "segments are ready", func() bool { return j.Stats().Ready == readyAhead })
	return crash(fsys, j, 1), want
}

// firstSegment is the one with records in it.
func firstSegment(t testing.TB, fsys vfs.FS) string {
	t.Helper()
	m, err := readMaster(fsys, journalDir)
	if err != nil {
		t.Fatal(err)
	}
	return segmentPath(journalDir, m.from.seq)
}

// FuzzDamage changes some bytes of a log. What is replayed must be records that were
// written, in their order, and without Salvage from the first on.
func FuzzDamage(f *testing.F) {
	f.Add(uint32(blockSize+70), []byte("x"))
	f.Add(uint32(blockSize), []byte{0})
	f.Add(uint32(3*blockSize+100), bytes.Repeat([]byte{7}, 9000))
	f.Add(uint32(0), []byte("waypost-journax\n"))
	f.Add(uint32(6*blockSize), make([]byte, blockSize))
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		fsys, want := logged(t, 6)
		path := firstSegment(t, fsys)
		edit(t, fsys, path, func(b []byte) []byte {
			copy(b[int(at)%len(b):], change)
			return b
		})
		if j, err := Open(options(fsys)); err == nil {
			got := datas(replayAll(t, j))
			if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
				t.Fatal("replayed what was not written")
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrVersion) {
			t.Fatal(err)
		}
		o := options(fsys)
		o.Salvage = true
		j, err := Open(o)
		if err != nil {
			if errors.Is(err, ErrVersion) {
				return
			}
			t.Fatal(err)
		}
		next := 0
		for _, got := range datas(replayAll(t, j)) {
			i := slices.Index(want[next:], got)
			if i < 0 {
				t.Fatal("salvaged what was not written, or out of order")
			}
			next += i + 1
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReader reads any bytes as the contents of a segment. Every batch it accepts is
// checked again, another way.
func FuzzReader(f *testing.F) {
	seed := func(number uint64, first LSN, count uint32, records []byte) []byte {
		b := append(make([]byte, batchHead), records...)
		h := batchHeader{seq: 1, salt: 5, number: number, first: first, count: count, length: uint32(len(records)), sum: checksum(records)}
		h.encode(b)
		return append(b, make([]byte, blocks(len(b))-len(b))...)
	}
	record := make([]byte, recordSize("ann", 4))
	encodeRecord(record, "ann", 1, [][]byte{[]byte("data")})
	f.Add([]byte{})
	f.Add(seed(1, 1, 1, record))
	f.Add(append(seed(1, 1, 1, record), seed(2, 2, 1, record)...))
	f.Add(append(seed(1, 1, 2, record), seed(2, 2, 1, record)...))
	f.Add(append(seed(1, 1, 1, record[:10]), seed(2, 3, 1, record)...))
	f.Add(seed(1, 1, 1, bytes.Repeat([]byte{255}, 30)))
	f.Fuzz(func(t *testing.T, content []byte) {
		fsys := crashfs.New(1)
		size := int64(blocks(len(content)) + 2*blockSize)
		h := segmentHeader{id: newID(), seq: 1, salt: 5, size: size}
		file, err := fsys.OpenFile("/s", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(append(h.encode(), content...), 0); err != nil {
			t.Fatal(err)
		}
		for _, salvage := range []bool{false, true} {
			r := reader{salvage: salvage, segments: []*segment{{segmentHeader: h, file: file, path: "/s"}}}
			_, err := r.scan(position{1, blockSize, 1, 1})
			if err != nil && (salvage || !errors.Is(err, ErrCorrupt)) {
				t.Fatal(err)
			}
			for _, b := range r.batches {
				head := content[b.off-blockSize:]
				payload := head[batchHead : batchHead+int(b.length)]
				if checksum(payload) != binary.LittleEndian.Uint32(head[44:]) || checksum(head[:60]) != binary.LittleEndian.Uint32(head[60:]) {
					t.Fatal("accepted a batch with a wrong checksum")
				}
			}
		}
	})
}
