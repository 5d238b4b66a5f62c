package journal

import (
	"fmt"
	"time"
)

// commitLoop is the only one that writes batches. While it waits for the disk the
// next batch gathers.
func (j *Journal) commitLoop() {
	defer j.committer.Done()
	for b := j.take(); b != nil; b = j.take() {
		if err := j.commit(b); err != nil {
			b.finish(j.fail(err))
			return
		}
	}
}

// take gives the oldest batch, to which nothing is added from then on; nil at the end.
func (j *Journal) take() *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		switch {
		case j.err != nil:
			return nil
		case len(j.queue) > 0:
			b := j.queue[0]
			j.queue[0] = nil
			j.queue = j.queue[1:]
			return b
		case j.state != started:
			return nil
		}
		j.work.Wait()
	}
}

func (j *Journal) commit(b *batch) error {
	b.copying.Wait()
	n := len(b.buf)
	full := b.buf[:blocks(n)]
	// The buffer may hold another user's mail.
	clear(full[n:])
	seg, err := j.segmentFor(int64(len(full)))
	if err != nil {
		return err
	}
	h := batchHeader{
		seq: seg.seq, salt: seg.salt, number: j.number, first: b.first,
		count: b.count, length: uint32(n - batchHead), sum: checksum(b.buf[batchHead:]),
	}
	h.encode(b.buf)
	began := time.Now()
	if _, err := seg.file.WriteAt(full, seg.off); err != nil {
		return fmt.Errorf("write %s: %w", seg.path, err)
	}
	if err := seg.file.Datasync(); err != nil {
		return fmt.Errorf("flush %s: %w", seg.path, err)
	}
	j.committed(b, batchAt{h, seg, seg.off})
	close(b.done)
	j.count(h, time.Since(began))
	return nil
}

// segmentFor gives the active segment if a batch of n bytes fits, else the next one,
// for which it waits.
func (j *Journal) segmentFor(n int64) (*segment, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active != nil && j.active.off+n <= j.active.size {
		return j.active, nil
	}
	j.active = nil
	for len(j.ready) == 0 {
		if j.err != nil {
			return nil, j.err
		}
		if j.state != started && j.noSegment != nil {
			return nil, j.noSegment
		}
		j.starving = true
		j.need.Signal()
		if len(j.used) > 0 {
			j.wantCheckpoint()
		}
		j.work.Wait()
	}
	j.starving = false
	j.active = j.ready[0]
	j.ready = append(j.ready[:0], j.ready[1:]...)
	j.used = append(j.used, j.active)
	j.need.Signal()
	if 3*len(j.used) > 2*j.o.MaxSegments {
		j.wantCheckpoint()
	}
	return j.active, nil
}

// committed notes that a batch is durable.
func (j *Journal) committed(b *batch, at batchAt) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before := j.queued
	j.number++
	j.durable = at.last()
	at.seg.off += at.size()
	j.batches.push(at)
	j.queued -= len(b.buf)
	j.stats.Batches++
	j.stats.Records += uint64(at.count)
	j.stats.Written += uint64(at.size())
	if len(j.bufs) < keepBufs {
		j.bufs = append(j.bufs, b.buf[:0])
	}
	b.buf = nil
	// Half of it at once: those who wait come in one flock, not one by one.
	if before > maxQueued/2 && j.queued <= maxQueued/2 || j.queued == 0 {
		j.wakeAdmit()
	}
}

// wakeAdmit has mu held.
func (j *Journal) wakeAdmit() {
	if j.waiting > 0 {
		j.room.Broadcast()
	}
}

func (j *Journal) count(h batchHeader, took time.Duration) {
	j.metrics.bytes.Add(float64(h.size()))
	j.metrics.records.Add(float64(h.count))
	j.metrics.batches.Inc()
	j.metrics.batchRecords.Observe(float64(h.count))
	j.metrics.commit.Observe(took.Seconds())
	j.mu.Lock()
	size := j.usedBytes()
	j.mu.Unlock()
	j.metrics.size.Set(float64(size))
}
