package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
)

// batchAt is where a batch lies.
type batchAt struct {
	batchHeader
	seg *segment
	off int64
}

func (b batchAt) position() position { return position{b.seg.seq, b.off, b.number, b.first} }

// bodyAt is where the data of a body lies: a record without a user.
type bodyAt struct {
	lsn LSN
	seg *segment
	off int64
	n   int
}

// Loss is a stretch of the journal that Salvage could not read.
type Loss struct {
	File   string // where it begins
	Offset int64
	Reason string
	// After is the last record before the stretch, Before the first behind it; 0 if
	// there is none. All between them are lost.
	After, Before LSN
}

// reader finds the batches of a journal.
type reader struct {
	segments []*segment // by sequence number, from the checkpoint's on
	durable  uint64     // the log goes at least to the batch of this number
	salvage  bool

	batches []batchAt
	bodies  []bodyAt
	losses  []Loss
	buf     []byte
}

func (r *reader) segment(seq uint64) *segment {
	i, ok := slices.BinarySearchFunc(r.segments, seq, func(s *segment, seq uint64) int {
		return int(int64(s.seq) - int64(seq))
	})
	if !ok {
		return nil
	}
	return r.segments[i]
}

// scan walks the log from a position to its end. It gives the number and LSN that
// come next there.
func (r *reader) scan(at position) (position, error) {
	for {
		ok, err := r.step(&at)
		if err != nil {
			return at, err
		}
		if ok {
			continue
		}
		later, found, err := r.later(at)
		if err != nil {
			return at, err
		}
		// Without a checkpoint file no number is expected: 0.
		if !found && (at.number > r.durable || at.number == 0) {
			return at, nil
		}
		if at.number == 0 {
			at = later
			continue
		}
		if !r.salvage {
			return at, r.damage(at, later, found)
		}
		loss := Loss{File: r.fileAt(at), Offset: at.off, Reason: "does not check out", After: max(at.first, 1) - 1}
		if !found {
			r.losses = append(r.losses, loss)
			return at, nil
		}
		loss.Before = later.first
		r.losses = append(r.losses, loss)
		at = later
	}
}

// step takes the batch at the position, or the first of the next segment if it is
// the one expected, and moves on behind it.
func (r *reader) step(at *position) (bool, error) {
	for _, p := range []position{*at, {at.seq + 1, blockSize, at.number, at.first}} {
		seg := r.segment(p.seq)
		if seg == nil {
			continue
		}
		b, payload, err := r.load(seg, p.off)
		if err != nil {
			return false, err
		}
		if payload == nil || b.number != p.number || b.first != p.first {
			continue
		}
		r.take(b, payload)
		*at = position{seg.seq, p.off + b.size(), b.number + 1, b.last() + 1}
		return true, nil
	}
	return false, nil
}

func (r *reader) take(b batchAt, payload []byte) {
	r.batches = append(r.batches, b)
	off := b.off + batchHead
	// load has seen that the records fit.
	_ = eachRecord(b.batchHeader, payload, func(rec Record) error {
		off += recordHead + int64(len(rec.User))
		if rec.User == "" {
			r.bodies = append(r.bodies, bodyAt{rec.LSN, b.seg, off, len(rec.Data)})
		}
		off += int64(len(rec.Data))
		return nil
	})
}

// load reads the batch at a place; payload is nil if what is there does not check
// out, and else valid until the next load.
func (r *reader) load(seg *segment, off int64) (batchAt, []byte, error) {
	b := batchAt{seg: seg, off: off}
	head, err := r.readAt(seg, off, blockSize)
	if err != nil {
		return b, nil, err
	}
	h, ok := decodeBatchHeader(head, seg.seq, seg.salt)
	if !ok || off+h.size() > seg.size {
		return b, nil, nil
	}
	b.batchHeader = h
	all, err := r.readAt(seg, off, int(h.size()))
	if err != nil || len(all) < batchHead+int(h.length) {
		return b, nil, err
	}
	payload := all[batchHead : batchHead+int(h.length)]
	if checksum(payload) != h.sum || eachRecord(h, payload, func(Record) error { return nil }) != nil {
		return b, nil, nil
	}
	return b, payload, nil
}

// readAt reads what there is of n bytes. A file that is too short holds nothing
// behind its end; in a salvage so does one that cannot be read.
func (r *reader) readAt(seg *segment, off int64, n int) ([]byte, error) {
	r.buf = slices.Grow(r.buf[:0], n)[:n]
	got, err := seg.file.ReadAt(r.buf, off)
	if err != nil && !errors.Is(err, io.EOF) && !r.salvage {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return r.buf[:got], nil
}

// later looks behind a position where the log seems to end for a batch with a
// higher number than the one expected there. Its header is proof enough that the
// expected one was acknowledged; to go on there, in a salvage, all of it must be
// legible.
func (r *reader) later(at position) (position, bool, error) {
	for _, seg := range r.segments {
		if seg.seq < at.seq {
			continue
		}
		off := int64(blockSize)
		if seg.seq == at.seq {
			off = at.off
		}
		p, found, err := r.laterIn(seg, off, at)
		if found || err != nil {
			return p, found, err
		}
	}
	return position{}, false, nil
}

// chunk is how much laterIn reads at once.
const chunk = 256 * blockSize

func (r *reader) laterIn(seg *segment, off int64, at position) (position, bool, error) {
	for ; off < seg.size; off += chunk {
		b, err := r.readAt(seg, off, int(min(chunk, seg.size-off)))
		if err != nil {
			return position{}, false, err
		}
		// load below uses the buffer, too.
		for i, block := range candidates(b) {
			h, ok := decodeBatchHeader(block, seg.seq, seg.salt)
			if !ok || h.number <= at.number || h.first <= at.first {
				continue
			}
			p := position{seg.seq, off + i, h.number, h.first}
			if !r.salvage {
				return p, true, nil
			}
			if _, payload, _ := r.load(seg, p.off); payload != nil {
				return p, true, nil
			}
		}
	}
	return position{}, false, nil
}

// candidates copies the blocks that begin as a batch does.
func candidates(b []byte) func(yield func(int64, []byte) bool) {
	type block struct {
		off  int64
		head []byte
	}
	var found []block
	magic := binary.LittleEndian.AppendUint32(nil, batchMagic)
	for i := 0; i+batchHead <= len(b); i += blockSize {
		if bytes.HasPrefix(b[i:], magic) {
			found = append(found, block{int64(i), bytes.Clone(b[i : i+batchHead])})
		}
	}
	return func(yield func(int64, []byte) bool) {
		for _, f := range found {
			if !yield(f.off, f.head) {
				return
			}
		}
	}
}

func (r *reader) fileAt(at position) string {
	if seg := r.segment(at.seq); seg != nil {
		return seg.path
	}
	return fmt.Sprintf("segment %d", at.seq)
}

func (r *reader) damage(at, later position, found bool) error {
	why := fmt.Errorf("%w: batch %d does not check out, though batch %d was durable", ErrCorrupt, at.number, r.durable)
	if found {
		why = fmt.Errorf("%w: batch %d does not check out, but batch %d follows in %s, offset %d",
			ErrCorrupt, at.number, later.number, r.fileAt(later), later.off)
	}
	return damaged(r.fileAt(at), at.off, why)
}

// settle makes durable what is there to be read, and shows nothing else. The process
// that wrote it may have been killed before it did, or after the disk had failed: a
// power cut during the replay would then leave files of which no record tells any
// more, and whose contents are not what it says.
func (r *reader) settle() error {
	for _, s := range r.segments {
		if err := errors.Join(s.file.Datasync(), s.file.DropCache()); err != nil {
			return fmt.Errorf("journal: flush %s: %w", s.path, err)
		}
	}
	return nil
}

// Replay visits all records that no checkpoint has passed, in the order of their
// LSNs. If there is anything to be read, the files are made durable as they are first: what can be
// seen of them after vfs.DropCache is then what a crash would leave. An error of visit
// ends it and is returned, wrapped; Replay may then be called again, from the beginning.
func (j *Journal) Replay(visit func(Record) error) error {
	j.mu.Lock()
	ok := j.state == opened || j.state == replayed
	j.mu.Unlock()
	if !ok {
		return fmt.Errorf("journal: replay: %w", ErrOrder)
	}
	if len(j.read.batches) > 0 {
		if err := j.flushFiles(); err != nil {
			return err
		}
	}
	r := reader{salvage: j.o.Salvage}
	for _, b := range j.read.batches {
		if b.last() <= j.checkpoint {
			continue
		}
		_, payload, err := r.load(b.seg, b.off)
		if err == nil && payload == nil {
			err = damaged(b.seg.path, b.off, fmt.Errorf("%w: it has changed since it was read first", ErrCorrupt))
		}
		if err != nil {
			return err
		}
		err = eachRecord(b.batchHeader, payload, func(rec Record) error {
			if rec.LSN <= j.checkpoint {
				return nil
			}
			return visit(rec)
		})
		if err != nil {
			return fmt.Errorf("journal: replay: %w", err)
		}
	}
	j.mu.Lock()
	j.state = replayed
	j.mu.Unlock()
	return nil
}

// Read gives the data of a record once more, until Start: of one that Replay visits,
// before or after its visit, or of one that was pinned when a record that Replay
// visits was appended. ErrNotFound if there is none of this LSN. Cheap for
// records without a user. Safe for concurrent use, also from visit.
func (j *Journal) Read(lsn LSN) ([]byte, error) {
	j.mu.Lock()
	ok := j.state == opened || j.state == replayed
	j.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("journal: read record %d: %w", lsn, ErrOrder)
	}
	bodies := j.read.bodies
	if i := sort.Search(len(bodies), func(i int) bool { return bodies[i].lsn >= lsn }); i < len(bodies) && bodies[i].lsn == lsn {
		data := make([]byte, bodies[i].n)
		if _, err := bodies[i].seg.file.ReadAt(data, bodies[i].off); err != nil {
			return nil, fmt.Errorf("journal: read record %d: %w", lsn, err)
		}
		return data, nil
	}
	return j.readRecord(lsn)
}

func (j *Journal) readRecord(lsn LSN) ([]byte, error) {
	batches := j.read.batches
	i := sort.Search(len(batches), func(i int) bool { return batches[i].last() >= lsn })
	if i == len(batches) || batches[i].first > lsn {
		return nil, fmt.Errorf("journal: read record %d: %w", lsn, ErrNotFound)
	}
	_, payload, err := (&reader{}).load(batches[i].seg, batches[i].off)
	if err != nil || payload == nil {
		return nil, fmt.Errorf("journal: read record %d: %w", lsn, errors.Join(ErrCorrupt, err))
	}
	var data []byte
	err = eachRecord(batches[i].batchHeader, payload, func(rec Record) error {
		if rec.LSN == lsn {
			data = rec.Data
		}
		return nil
	})
	return data, err
}

// Losses is what a salvage left out; empty if everything was legible.
func (j *Journal) Losses() []Loss { return slices.Clone(j.read.losses) }
