package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"waypost/internal/vfs"
)

// segment is an open file of the journal. off and what it says of the present
// belong to the committer, under Journal.mu.
type segment struct {
	segmentHeader
	file vfs.File
	path string
	off  int64 // where the next batch goes
}

func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", seq, segmentSuffix))
}

// segmentSeq is the sequence number that a file's name tells.
func segmentSeq(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil && seq > 0
}

// listing is what a journal's folder holds.
type listing struct {
	segments map[uint64]string
	temps    []string
	highest  uint64
}

func list(fsys vfs.FS, dir string) (listing, error) {
	l := listing{segments: map[uint64]string{}}
	err := fsys.ReadDir(dir, func(e fs.DirEntry) error {
		path := filepath.Join(dir, e.Name())
		if seq, ok := segmentSeq(e.Name()); ok {
			l.segments[seq] = path
			l.highest = max(l.highest, seq)
		}
		if strings.HasPrefix(e.Name(), vfs.TempPrefix) {
			l.temps = append(l.temps, path)
		}
		return nil
	})
	return l, err
}

// openSegment opens a segment and reads its header; the error says what is wrong
// with it, without naming it.
func openSegment(fsys vfs.FS, path string) (*segment, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	head := make([]byte, blockSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	h, err := decodeSegmentHeader(head[:n])
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &segment{segmentHeader: h, file: f, path: path, off: blockSize}, nil
}

func newSalt() uint64 {
	var b [8]byte
	// Read never fails: crypto/rand ends the program instead.
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func newID() journalID {
	var id journalID
	_, _ = rand.Read(id[:])
	return id
}

// zeroStep is how much of a new segment is written between two flushes: little, so
// that a batch under way never waits for a whole segment.
const zeroStep = 2 << 20

// createSegment makes a segment that is written over once and durable, name
// included. An unfinished one is left as a temporary file, which the next overwrites.
func createSegment(fsys vfs.FS, dir string, h segmentHeader) (*segment, error) {
	tmp := filepath.Join(dir, vfs.TempPrefix+"segment")
	f, err := fsys.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{segmentHeader: h, file: f, path: tmp, off: blockSize}
	err = writeOver(f, h.size)
	if err == nil {
		err = s.giveName(fsys, dir)
	}
	if err != nil {
		// What it took may be what others lack.
		return nil, errors.Join(err, f.Close(), fsys.Remove(s.path))
	}
	return s, nil
}

func writeOver(f vfs.File, size int64) error {
	zeros := make([]byte, min(zeroStep, size))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
		if err := f.Datasync(); err != nil {
			return err
		}
	}
	return nil
}

// recycle makes a passed segment into one that h describes. If the process dies in
// between, its name is still that of a passed one, whatever its header says.
func (s *segment) recycle(fsys vfs.FS, dir string, h segmentHeader) error {
	s.segmentHeader, s.off = h, blockSize
	return s.giveName(fsys, dir)
}

// giveName writes the header and, when it is durable, renames the file.
func (s *segment) giveName(fsys vfs.FS, dir string) error {
	if _, err := s.file.WriteAt(s.encode(), 0); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	to := segmentPath(dir, s.seq)
	if err := fsys.Rename(s.path, to); err != nil {
		return err
	}
	s.path = to
	return fsys.SyncDir(dir)
}
