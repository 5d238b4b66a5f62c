package journal

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

const (
	// maxQueued is how many bytes may wait in memory before Admit waits. Records
	// already admitted may exceed it.
	maxQueued = 32 << 20
	// keepBufs is how many buffers of batches are kept for the next.
	keepBufs = 8
)

// batch is what is written at once. Its place in the buffer is given to a record
// under Journal.mu, and filled without it.
type batch struct {
	buf     []byte // the header's place first
	count   uint32
	first   LSN
	copying sync.WaitGroup
	done    chan struct{} // closed when err is final
	err     error
}

func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

// refused is the batch of records that are not written.
func refused(err error) *batch {
	b := &batch{done: make(chan struct{})}
	b.finish(err)
	return b
}

// Ticket is what Append gives for a record.
type Ticket struct {
	j       *Journal
	batch   *batch
	lsn     LSN
	user    string
	touched []string
	next    *Ticket // of the same user, as prev
	prev    *Ticket
	applied atomic.Bool
}

// LSN is the record's position. It is 0 if the record was refused: Wait says why.
func (t *Ticket) LSN() LSN { return t.lsn }

// Wait returns when the record is durable, or with an error; after one nobody
// knows whether it is, except for ErrTooLarge and ErrClosed: then it is not.
func (t *Ticket) Wait() error {
	<-t.batch.done
	return t.batch.err
}

// Durable tells whether Wait would return nil at once.
func (t *Ticket) Durable() bool {
	select {
	case <-t.batch.done:
		return t.batch.err == nil
	default:
		return false
	}
}

// Applied says that the change is in the files (not that it is durable there). Until
// then no checkpoint passes the record. It is called once for every ticket, whatever
// Wait said.
func (t *Ticket) Applied() {
	t.applied.Store(true)
	// Close sets closing before it looks: it sees the store, or we wake it.
	if t.j.closing.Load() {
		t.j.tellClose()
	}
}

func (j *Journal) tellClose() {
	j.mu.Lock()
	j.idle.Broadcast()
	j.mu.Unlock()
}

// Admit waits while the journal is nearly full or too much waits in memory, and is
// called before a record of about so many bytes is appended, and before any lock is
// taken. It reserves nothing. Its errors are those of ctx, ErrFailed, ErrClosed, and,
// if the journal cannot grow though it should, that of the disk (unix.ENOSPC): the
// operation may be tried again later.
func (j *Journal) Admit(ctx context.Context, bytes int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	ok, err := j.admits(bytes)
	if ok || err != nil {
		return err
	}
	j.waiting++
	defer func() { j.waiting-- }()
	stop := context.AfterFunc(ctx, func() {
		j.mu.Lock()
		j.room.Broadcast()
		j.mu.Unlock()
	})
	defer stop()
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("journal: wait for room: %w", err)
		}
		if ok, err := j.admits(bytes); ok || err != nil {
			return err
		}
		j.wantCheckpoint()
		j.room.Wait()
	}
}

// admits has mu held.
func (j *Journal) admits(bytes int) (bool, error) {
	switch {
	case j.err != nil:
		return false, j.err
	case j.state != started:
		return false, j.notOpen()
	case j.noSegment != nil && j.left() < int64(j.queued+bytes+j.batch):
		j.wantCheckpoint()
		return false, fmt.Errorf("journal: no room: %w", j.noSegment)
	case len(j.used) > j.o.MaxSegments-max(1, j.o.MaxSegments/8):
		return false, nil
	}
	return j.queued == 0 || j.queued+bytes <= maxQueued, nil
}

func (j *Journal) notOpen() error {
	if j.state < started {
		return fmt.Errorf("journal: append before Start: %w", ErrOrder)
	}
	return fmt.Errorf("journal: %w", ErrClosed)
}

// left is how many bytes can be written without another segment.
func (j *Journal) left() int64 {
	n := int64(len(j.ready)) * (j.o.SegmentBytes - blockSize)
	if j.active != nil {
		n += j.active.size - j.active.off
	}
	return n
}

// Append puts a record in the log: the parts of data, one after the other. Records
// become durable in the order of the calls. It never waits for the disk. data is
// copied; touched is kept: the paths of files and folders whose Sync or SyncDir
// would make this record superfluous (see Flush). An empty user makes it a body,
// data that other records refer to by its LSN.
func (j *Journal) Append(user string, epoch uint64, touched []string, data ...[]byte) *Ticket {
	n := 0
	for _, part := range data {
		n += len(part)
	}
	n = recordSize(user, n)
	t := &Ticket{j: j, user: user, touched: touched}
	if len(user) > maxUserBytes || n > j.batch-batchHead {
		t.batch = refused(fmt.Errorf("journal: a record of %d bytes: %w", n, ErrTooLarge))
		return t
	}
	j.mu.Lock()
	if j.err != nil || j.state != started {
		err := j.err
		if err == nil {
			err = j.notOpen()
		}
		j.mu.Unlock()
		t.batch = refused(err)
		return t
	}
	place := j.reserve(t, n)
	j.mu.Unlock()
	encodeRecord(place, user, epoch, data)
	t.batch.copying.Done()
	return t
}

// reserve gives a record its place and LSN. It has mu held.
func (j *Journal) reserve(t *Ticket, n int) []byte {
	var b *batch
	if len(j.queue) > 0 {
		b = j.queue[len(j.queue)-1]
	}
	if b == nil || len(b.buf)+n > j.batch {
		b = j.newBatch()
	}
	from := len(b.buf)
	b.buf = b.buf[:from+n]
	b.count++
	b.copying.Add(1)
	t.batch, t.lsn = b, j.next
	j.next++
	j.queued += n
	j.tickets.push(t)
	if t.user != "" {
		j.chain(t)
	}
	return b.buf[from : from+n : from+n]
}

func (j *Journal) newBatch() *batch {
	b := &batch{first: j.next, done: make(chan struct{})}
	if last := len(j.bufs) - 1; last >= 0 {
		b.buf = j.bufs[last]
		j.bufs = j.bufs[:last]
	} else {
		b.buf = make([]byte, 0, j.batch)
	}
	b.buf = b.buf[:batchHead]
	j.queued += batchHead
	j.queue = append(j.queue, b)
	j.work.Signal()
	return b
}
