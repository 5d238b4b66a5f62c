package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// release is a pin that was given back: its record must be legible for as long as a
// record up to until may be replayed.
type release struct{ lsn, until LSN }

// afterwards is what AfterCheckpoint was given.
type afterwards struct {
	lsn LSN
	do  func()
}

// impatience is the time between checkpoints while somebody waits for room.
const impatience = 50 * time.Millisecond

// stride is how many tickets are looked at before mu is given to others.
const stride = 2048

// Pin keeps checkpoints from passing a body that later records may refer to. It is
// called before the Applied of the body's ticket. release is called once no further
// record will refer to it; Read then still finds the body for every record that is
// replayed and was appended before the release.
func (j *Journal) Pin(lsn LSN) (release func()) {
	j.mu.Lock()
	j.pins[lsn]++
	j.mu.Unlock()
	var once sync.Once
	return func() { once.Do(func() { j.unpin(lsn) }) }
}

func (j *Journal) unpin(lsn LSN) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pins[lsn]--; j.pins[lsn] == 0 {
		delete(j.pins, lsn)
		j.released = append(j.released, release{lsn, j.next - 1})
	}
	j.idle.Broadcast()
}

// AfterCheckpoint runs do once a checkpoint has passed lsn, on the goroutine that
// made it, or at once if one has. do must not call Checkpoint or Close. It is
// forgotten if the journal is closed before.
func (j *Journal) AfterCheckpoint(lsn LSN, do func()) {
	j.mu.Lock()
	passed := lsn <= j.checkpoint
	if !passed {
		j.after = append(j.after, afterwards{lsn, do})
	}
	j.mu.Unlock()
	if passed {
		do()
	}
}

// BeforeCheckpoint runs do once: when the next checkpoint begins, or Close, before it
// is known which records that passes. So who writes into the files by the batch can
// put off Applied until then. do runs on the goroutine that makes the checkpoint. It
// must not wait for a lock that is held by somebody who waits for the journal, nor
// call Checkpoint or Close; it may call BeforeCheckpoint, for the one after.
func (j *Journal) BeforeCheckpoint(do func()) {
	j.mu.Lock()
	j.before = append(j.before, do)
	j.mu.Unlock()
}

// prepareCheckpoint runs what BeforeCheckpoint was given.
func (j *Journal) prepareCheckpoint() {
	j.mu.Lock()
	run := j.before
	j.before = nil
	j.mu.Unlock()
	for _, do := range run {
		do()
	}
}

// checkpointLoop makes a checkpoint every Interval, and when one is asked for. While
// somebody waits for room it tries more often: what it could not pass before may be
// applied by now.
func (j *Journal) checkpointLoop() {
	defer j.checkpointer.Done()
	timer := time.NewTimer(j.o.Interval)
	defer timer.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.failed:
			return
		case <-timer.C:
		case <-j.kick:
		}
		// The error is logged and counted there; the next one may succeed.
		_ = j.Checkpoint()
		timer.Reset(j.pause())
	}
}

func (j *Journal) pause() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting > 0 || j.starving {
		return min(j.o.Interval, impatience)
	}
	return j.o.Interval
}

// wantCheckpoint asks for a checkpoint and does not wait for it.
func (j *Journal) wantCheckpoint() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// Checkpoint makes the files durable and passes every record that was applied when
// it began, up to the first that was not, or is pinned. It is nil also if there
// was nothing to pass. After an error the checkpoint is where it was; if the
// flush itself failed so has the journal.
func (j *Journal) Checkpoint() error {
	j.ckpt.Lock()
	defer j.ckpt.Unlock()
	j.mu.Lock()
	ok, err := j.state == started || j.state == closing, j.err
	if !ok && err == nil {
		err = j.notOpen()
	}
	j.mu.Unlock()
	if err != nil {
		return err
	}
	j.prepareCheckpoint()
	target := j.target()
	if !j.moves(target) {
		return nil
	}
	began := time.Now()
	err = j.flushFiles()
	if err == nil {
		err = j.pass(target, false)
	}
	if err != nil {
		j.metrics.checkpointErrors.Inc()
		j.o.Log.Error("journal checkpoint failed", "dir", j.o.Dir, "error", err)
		return err
	}
	j.metrics.checkpoint.Observe(time.Since(began).Seconds())
	return nil
}

// target is the highest record that a checkpoint beginning now may pass. It must be
// known before the files are flushed: what is applied later may miss the flush.
func (j *Journal) target() LSN {
	for {
		j.mu.Lock()
		more := j.advance()
		applied := j.applied
		j.mu.Unlock()
		if !more {
			return applied
		}
	}
}

// advance looks how far records are applied, and answers true if it has not come to
// the end. It has mu held.
func (j *Journal) advance() bool {
	low := j.lowestPin()
	for range stride {
		next := j.applied + 1
		if next > j.durable || next >= low || !j.ticket(next).applied.Load() {
			return false
		}
		j.applied = next
	}
	return true
}

// ticket gives that of a record past the checkpoint. It has mu held.
func (j *Journal) ticket(lsn LSN) *Ticket { return j.tickets.at(int(lsn - j.tickets.at(0).lsn)) }

// lowestPin has mu held.
func (j *Journal) lowestPin() LSN {
	low := ^LSN(0)
	for lsn := range j.pins {
		low = min(low, lsn)
	}
	return low
}

// moves tells whether a checkpoint at target would give anything back.
func (j *Journal) moves(target LSN) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return target > j.checkpoint || j.starving && len(j.used) > 0 && j.from(target).seq > j.used[0].seq
}

// flushFiles makes the files durable. It hears of every write that was lost since Open,
// also if somebody else has been told before: the sync of a file, a move, a neighbour on
// the file system. Any error fails the journal, whatever it says: it may be about earlier
// writes, and the next flush would succeed without them.
func (j *Journal) flushFiles() error {
	if err := j.files.SyncAll(); err != nil {
		return j.fail(fmt.Errorf("flush of the files in %s: %w", j.o.Sync, err))
	}
	return nil
}

// pass moves the checkpoint to target; ckpt is held and the files are durable.
func (j *Journal) pass(target LSN, clean bool) error {
	j.mu.Lock()
	m := master{id: j.id, clean: clean, checkpoint: target, from: j.from(target), last: j.number - 1}
	j.mu.Unlock()
	if err := m.write(j.o.FS, j.o.Dir); err != nil {
		if errors.Is(err, unix.EIO) {
			return j.fail(err)
		}
		return fmt.Errorf("journal: %w", err)
	}
	j.dropTickets(target)
	for _, do := range j.passed(target, m.from) {
		do()
	}
	return nil
}

// from is where reading would begin if the checkpoint were at target: at the first
// batch that may be replayed, or has a body that a replayed record may refer to. It
// has mu held.
func (j *Journal) from(target LSN) position {
	first := target + 1
	for _, r := range j.released {
		if r.until > target {
			first = min(first, r.lsn)
		}
	}
	for i := range j.batches.len() {
		if b := j.batches.at(i); b.last() >= first {
			return b.position()
		}
	}
	p := position{number: j.number, first: j.durable + 1}
	switch {
	case j.active != nil:
		p.seq, p.off = j.active.seq, j.active.off
	case len(j.used) > 0:
		p.seq, p.off = j.used[len(j.used)-1].seq+1, blockSize
	case len(j.ready) > 0:
		p.seq, p.off = j.ready[0].seq, blockSize
	default:
		p.seq, p.off = j.seq, blockSize
	}
	return p
}

// dropTickets forgets the records up to target.
func (j *Journal) dropTickets(target LSN) {
	for more := true; more; {
		j.mu.Lock()
		for range stride {
			more = j.tickets.len() > 0 && j.tickets.at(0).lsn <= target
			if !more {
				break
			}
			j.unchain(j.tickets.pop())
		}
		j.mu.Unlock()
	}
}

// passed moves the checkpoint in memory, and gives what is to be run.
func (j *Journal) passed(target LSN, from position) (run []func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.checkpoint = target
	for len(j.used) > 0 && j.used[0].seq < from.seq {
		// The last spare one is to be the next: it may have the next number already.
		j.spare = slices.Insert(j.spare, 0, j.used[0])
		j.used = append(j.used[:0], j.used[1:]...)
	}
	for j.batches.len() > 0 && j.batches.at(0).number < from.number {
		j.batches.pop()
	}
	j.released = keep(j.released, func(r release) bool { return r.until > target })
	j.after = keep(j.after, func(a afterwards) bool {
		if a.lsn <= target {
			run = append(run, a.do)
		}
		return a.lsn > target
	})
	j.retry = true
	j.need.Signal()
	j.wakeAdmit()
	j.metrics.size.Set(float64(j.usedBytes()))
	return run
}

func keep[T any](all []T, stays func(T) bool) []T {
	var kept []T
	for _, v := range all {
		if stays(v) {
			kept = append(kept, v)
		}
	}
	return kept
}
