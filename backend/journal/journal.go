package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"waypost/internal/vfs"
)

// LSN is the position of a record in the endless log: rising, never 0.
type LSN uint64

// Errors that callers may test for.
var (
	// ErrCorrupt: the journal is damaged where no crash can have damaged it.
	ErrCorrupt = errors.New("damaged")
	// ErrForeign: a file is not one of this journal's.
	ErrForeign = errors.New("not a file of this journal")
	// ErrVersion: the journal was written by another version of this program.
	ErrVersion = errors.New("another version's")
	// ErrFailed: a write or a flush failed. What the disk has is not known: the
	// backend must stop, and be started again.
	ErrFailed = errors.New("the journal has failed")
	// ErrClosed: the journal takes no more records.
	ErrClosed = errors.New("the journal is closed")
	// ErrTooLarge: a record is larger than MaxRecord.
	ErrTooLarge = errors.New("the record is too large")
	// ErrNotFound: the journal has no such record.
	ErrNotFound = errors.New("no such record")
	// ErrOrder: Replay, Start and Append were not called in this order.
	ErrOrder = errors.New("called out of order")
	// ErrUnapplied: Close, or Flush of a user, found records whose Applied was not
	// called, or Close pins never released. They will be replayed, for their epoch.
	ErrUnapplied = errors.New("records are left that nobody said were applied")
)

// Options say where a journal is and how large it may become.
type Options struct {
	FS  vfs.FS
	Dir string // its folder; made if missing
	// SegmentBytes is the size of a file of the journal; default 16 MiB. It may
	// change between two runs.
	SegmentBytes int64
	// MaxSegments is how many of them may hold records before Admit waits for a
	// checkpoint; default 64, at least 4. Records already admitted may exceed it.
	MaxSegments int
	// Interval is the time between checkpoints; default 5 s.
	Interval time.Duration
	// Sync is a folder in the file system that checkpoints make durable as a whole:
	// that of the data folder.
	Sync string
	// Salvage makes Open skip what is not legible; see Losses. The checkpoint file
	// may be missing then, too.
	Salvage bool
	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: none
}

const (
	defaultSegmentBytes = 16 << 20
	minSegmentBytes     = 4 * blockSize
	defaultMaxSegments  = 64
	minMaxSegments      = 4
	defaultInterval     = 5 * time.Second
)

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	o.SegmentBytes = max(minSegmentBytes, o.SegmentBytes/blockSize*blockSize)
	if o.MaxSegments <= 0 {
		o.MaxSegments = defaultMaxSegments
	}
	o.MaxSegments = max(minMaxSegments, o.MaxSegments)
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return o
}

// Record is one entry of the journal, as it is replayed.
type Record struct {
	LSN   LSN
	User  string // empty for a body: data that others refer to
	Epoch uint64
	Data  []byte
}

// state is how far the owner has come.
type state int

const (
	opened state = iota
	replayed
	started
	closing // appends are refused; what is queued is written
	closed
)

// Journal is a backend's write-ahead log.
type Journal struct {
	o       Options
	metrics *metrics
	read    reader // what Open found; dropped by Start
	batch   int    // bytes a batch may have, header included
	failed  chan struct{}
	closing atomic.Bool // Applied and Pin's release tell Close
	clean   bool        // the process before closed it
	// files is Options.Sync, open from Open to Close: whoever opens it later may not be
	// told of writes that were lost before. See flushFiles.
	files vfs.File

	committer, preparer, checkpointer sync.WaitGroup
	kick                              chan struct{} // asks for a checkpoint; holds one
	stop                              chan struct{} // ends preparer and checkpointer

	// ckpt is held for a whole checkpoint, mu never while waiting for the disk.
	// ckpt is taken first.
	ckpt sync.Mutex

	// mu protects all below. The conditions say what changed.
	mu   sync.Mutex
	work *sync.Cond // for the committer: a batch, a segment, the end
	need *sync.Cond // for the preparer: segments were taken, or may be again
	room *sync.Cond // for Admit
	idle *sync.Cond // for Close: something was applied or released

	state state
	err   error
	id    journalID

	// the queue: the last batch of it takes records
	queue  []*batch
	bufs   [][]byte
	queued int // bytes of all batches that are not durable yet
	next   LSN

	// what was written
	number  uint64 // of the next batch
	durable LSN
	batches fifo[batchAt] // since the place where reading would begin
	stats   Stats

	// the segments: used ones hold records, or may; the active one is the last of them
	used      []*segment
	active    *segment // nil: the committer takes the next ready one
	ready     []*segment
	spare     []*segment // to be used again, the last first
	seq       uint64     // of the next segment to be made ready
	starving  bool       // the committer waits for a segment
	noSegment error      // why the last one could not be made ready
	retry     bool       // it may be tried again
	waiting   int        // in Admit

	// what checkpoints need to know
	checkpoint LSN
	applied    LSN // all up to it are; at least checkpoint
	tickets    fifo[*Ticket]
	users      map[string]*chain
	pins       map[LSN]int
	released   []release
	after      []afterwards
	before     []func()
}

// Stats is what a journal says of itself.
type Stats struct {
	LastLSN    LSN   // given to a record
	Durable    LSN   // all up to it are on the disk
	Checkpoint LSN   // all up to it are in the files, durably
	Queued     int   // bytes waiting in memory
	Bytes      int64 // of the segments that hold records
	Segments   int   // of these
	Ready      int   // segments made ready
	Spare      int   // segments to be used again
	Batches    uint64
	Records    uint64
	Written    uint64 // bytes
}

// Open reads what is there and takes no appends yet. It changes nothing but makes
// the folder if it is missing; Options.Sync must be there. What does not check out at
// the end of the log was never acknowledged and is cut off; damage anywhere else is
// ErrCorrupt, unless Options.Salvage is set. Other errors are ErrForeign, ErrVersion,
// and the disk's.
func Open(o Options) (*Journal, error) {
	o = o.withDefaults()
	j := &Journal{
		o:       o,
		metrics: newMetrics(o.Metrics),
		batch:   int(min(maxBatch, o.SegmentBytes-blockSize)),
		failed:  make(chan struct{}),
		kick:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		users:   map[string]*chain{},
		pins:    map[LSN]int{},
	}
	j.work, j.need, j.room, j.idle = sync.NewCond(&j.mu), sync.NewCond(&j.mu), sync.NewCond(&j.mu), sync.NewCond(&j.mu)
	if err := vfs.MkdirAll(o.FS, o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	files, err := o.FS.OpenFile(o.Sync, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: file system of the files: %w", err)
	}
	j.files = files
	if err := j.open(); err != nil {
		return nil, errors.Join(err, j.letGo(j.read.segments))
	}
	return j, nil
}

func (j *Journal) open() error {
	found, err := list(j.o.FS, j.o.Dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.read.salvage = j.o.Salvage
	m, err := j.openMaster(found)
	if err != nil {
		return err
	}
	if err := j.openSegments(found, m); err != nil {
		return err
	}
	if m.from.seq == 0 && len(j.read.segments) > 0 {
		m.from.seq = j.read.segments[0].seq
	}
	j.id, j.checkpoint, j.read.durable = m.id, m.checkpoint, m.last
	if err := j.read.settle(); err != nil {
		return err
	}
	end := m.from
	if len(j.read.segments) > 0 || m.from.number > 0 && m.last >= m.from.number {
		if end, err = j.read.scan(m.from); err != nil {
			return err
		}
	}
	j.seq = max(found.highest, m.from.seq) + 1
	j.number, j.next = max(end.number, m.last+1), max(end.first, m.checkpoint+1)
	j.durable, j.applied = j.next-1, m.checkpoint
	if len(j.read.batches) == 0 && len(j.read.losses) == 0 {
		j.state = replayed
	}
	return nil
}

// Clean tells whether the journal is new, or was closed by the last process that
// had it. If not, that process was killed, or the machine stopped: changes may be
// in the files that never came to a record.
func (j *Journal) Clean() bool { return j.clean }

// openMaster reads the checkpoint file. A salvage that finds none it can use
// begins at the oldest segment: to replay what a checkpoint had passed does no
// harm as long as all that followed is replayed, too.
func (j *Journal) openMaster(found listing) (master, error) {
	oldest := master{from: position{off: blockSize}}
	m, err := readMaster(j.o.FS, j.o.Dir)
	switch {
	case err == nil && m != nil:
		j.clean = m.clean
		return *m, nil
	case err == nil && len(found.segments) == 0:
		j.clean = true
		return oldest, nil
	case err == nil:
		err = damaged(oldest.path(j.o.Dir), 0, fmt.Errorf("%w: there are segments, but no checkpoint file", ErrCorrupt))
	}
	if !j.o.Salvage || errors.Is(err, ErrVersion) {
		return oldest, err
	}
	j.read.losses = append(j.read.losses, Loss{File: oldest.path(j.o.Dir), Reason: err.Error()})
	return oldest, nil
}

// openSegments opens all segments from the checkpoint's on.
func (j *Journal) openSegments(found listing, m master) error {
	var seqs []uint64
	for seq := range found.segments {
		if seq >= m.from.seq {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	expected := m.from.seq
	for _, seq := range seqs {
		err := j.openOne(found.segments[seq], seq, &m)
		if err == nil && expected != 0 && seq != expected {
			missing := filepath.Base(segmentPath(j.o.Dir, expected))
			err = fmt.Errorf("%w: the segment before it, %s, is missing", ErrCorrupt, missing)
		}
		if err != nil && (!j.o.Salvage || errors.Is(err, ErrVersion)) {
			return damaged(found.segments[seq], 0, err)
		}
		if err != nil {
			j.read.losses = append(j.read.losses, Loss{File: found.segments[seq], Reason: err.Error()})
		}
		expected = seq + 1
	}
	return nil
}

func (j *Journal) openOne(path string, seq uint64, m *master) error {
	s, err := openSegment(j.o.FS, path)
	if err != nil {
		return err
	}
	if m.id == (journalID{}) {
		m.id = s.id
	}
	if s.id != m.id {
		return errors.Join(fmt.Errorf("%w: it belongs to journal %x, not %x", ErrForeign, s.id, m.id), s.file.Close())
	}
	if s.seq != seq {
		return errors.Join(fmt.Errorf("%w: it is number %d by its name, %d by its header", ErrCorrupt, seq, s.seq), s.file.Close())
	}
	j.read.segments = append(j.read.segments, s)
	return nil
}

// letGo closes all that the journal has open, once no checkpoint is under way.
func (j *Journal) letGo(lists ...[]*segment) error {
	j.ckpt.Lock()
	defer j.ckpt.Unlock()
	return errors.Join(closeSegments(lists...), j.files.Close())
}

func closeSegments(lists ...[]*segment) error {
	var err error
	for _, l := range lists {
		for _, s := range l {
			err = errors.Join(err, s.file.Close())
		}
	}
	return err
}

// Err is nil, or why the journal has failed (ErrFailed).
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Failed is closed when the journal fails. From then on every Wait and Admit fails.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Stats tells how the journal fares.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.LastLSN, s.Durable, s.Checkpoint, s.Queued = j.next-1, j.durable, j.checkpoint, j.queued
	s.Segments, s.Ready, s.Spare = len(j.used), len(j.ready), len(j.spare)
	s.Bytes = j.usedBytes()
	return s
}

func (j *Journal) usedBytes() int64 {
	var n int64
	for _, s := range j.used {
		n += s.off
	}
	return n
}

// Fail ends the journal as a flush that failed does (ErrFailed), and so the backend, whose next
// start replays. It is for who has journaled what cannot be brought into the files by this
// process any more.
func (j *Journal) Fail(why error) { _ = j.fail(why) }

// fail ends the journal: what was written is not known.
func (j *Journal) fail(why error) error {
	j.mu.Lock()
	first := j.err == nil
	if first {
		j.err = fmt.Errorf("%w: %w", ErrFailed, why)
		close(j.failed)
	}
	err := j.err
	lost := j.queue
	j.queue = nil
	j.wakeAll()
	j.mu.Unlock()
	for _, b := range lost {
		b.finish(err)
	}
	if first {
		j.metrics.failed.Set(1)
		j.o.Log.Error("journal failed: the backend must be started again", "dir", j.o.Dir, "error", why)
	}
	return err
}

// wakeAll has mu held.
func (j *Journal) wakeAll() {
	for _, c := range []*sync.Cond{j.work, j.need, j.room, j.idle} {
		c.Broadcast()
	}
}
