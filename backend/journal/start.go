package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// lsnGap is added to LSNs at each start: more records than a crash can have lost
// from memory, so that none of theirs is given again.
const lsnGap = 1 << 24

// closeWait is how long Close waits for records to be applied.
const closeWait = 10 * time.Second

// Start makes durable what was replayed and applied to the files, leaves an empty
// journal, and takes appends from then on. ErrOrder if there is anything that Replay
// has not visited to the end; after another error the journal is to be closed and
// opened again.
func (j *Journal) Start() error {
	j.mu.Lock()
	state := j.state
	j.mu.Unlock()
	if state != replayed {
		return fmt.Errorf("journal: start: %w", ErrOrder)
	}
	if err := j.flushFiles(); err != nil {
		return err
	}
	if err := j.begin(); err != nil {
		return j.fail(fmt.Errorf("start: %w", err))
	}
	j.mu.Lock()
	j.state = started
	j.mu.Unlock()
	j.committer.Add(1)
	go j.commitLoop()
	j.preparer.Add(1)
	go j.prepareLoop()
	j.checkpointer.Add(1)
	go j.checkpointLoop()
	return nil
}

// begin says durably that the log goes on in segments that do not exist yet; all
// that do are spare from then on.
func (j *Journal) begin() error {
	// Open may have made the folder, or a process that died before it was durable.
	if err := j.o.FS.SyncDir(filepath.Dir(j.o.Dir)); err != nil {
		return err
	}
	if err := j.restart().write(j.o.FS, j.o.Dir); err != nil {
		return err
	}
	if err := closeSegments(j.read.segments); err != nil {
		return err
	}
	j.read = reader{losses: j.read.losses}
	spare, err := j.tidy()
	j.mu.Lock()
	j.spare = spare
	j.mu.Unlock()
	return err
}

// restart sets where the log goes on.
func (j *Journal) restart() master {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.id == (journalID{}) {
		j.id = newID()
	}
	j.number = max(j.number, 1)
	j.next += lsnGap
	j.checkpoint, j.durable, j.applied = j.next-1, j.next-1, j.next-1
	return master{id: j.id, checkpoint: j.checkpoint, from: j.from(j.checkpoint), last: j.number - 1}
}

// tidy gives the segments that can be used again, and removes the rest and what was
// left unfinished.
func (j *Journal) tidy() (spare []*segment, err error) {
	found, err := list(j.o.FS, j.o.Dir)
	if err != nil {
		return nil, err
	}
	remove := found.temps
	for _, path := range found.segments {
		s, err := openSegment(j.o.FS, path)
		if err == nil && s.id == j.id && s.size == j.o.SegmentBytes && len(spare) < j.o.MaxSegments && whole(s) {
			spare = append(spare, s)
			continue
		}
		if err == nil {
			err = s.file.Close()
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrVersion) {
			return spare, err
		}
		remove = append(remove, path)
	}
	for _, path := range remove {
		if err := j.o.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return spare, err
		}
	}
	return spare, nil
}

// whole tells whether a segment has the size it should, so that no flush of a batch
// has to make it longer.
func whole(s *segment) bool {
	info, err := s.file.Stat()
	return err == nil && info.Size() == s.size
}

// Close takes no more records, writes those that wait, waits for all to be applied
// and all pins to be released, and leaves an empty journal that says so durably.
// ErrUnapplied if that does not come true within ten seconds: the rest will be
// replayed. If the journal has failed, or was never started, Close only lets go.
func (j *Journal) Close() error {
	j.mu.Lock()
	was := j.state
	if was == closing || was == closed {
		j.mu.Unlock()
		return fmt.Errorf("journal: close: %w", ErrClosed)
	}
	j.state = closing
	j.closing.Store(true)
	j.wakeAll()
	j.mu.Unlock()
	if was != started {
		j.end()
		return errors.Join(j.Err(), j.letGo(j.read.segments, j.spare))
	}
	j.committer.Wait()
	j.prepareCheckpoint()
	j.awaitApplied()
	close(j.stop)
	j.checkpointer.Wait()
	err := j.lastCheckpoint()
	j.end()
	return errors.Join(err, j.letGo(j.used, j.ready, j.spare))
}

// end lets the preparer go.
func (j *Journal) end() {
	j.mu.Lock()
	j.state = closed
	j.wakeAll()
	j.mu.Unlock()
	j.preparer.Wait()
}

// awaitApplied waits until nothing keeps a checkpoint from passing all records.
func (j *Journal) awaitApplied() {
	late := false
	timer := time.AfterFunc(closeWait, func() {
		j.mu.Lock()
		late = true
		j.idle.Broadcast()
		j.mu.Unlock()
	})
	defer timer.Stop()
	j.mu.Lock()
	defer j.mu.Unlock()
	for !late && j.err == nil {
		for j.advance() {
		}
		if j.applied == j.next-1 {
			return
		}
		j.idle.Wait()
	}
}

// lastCheckpoint leaves the journal empty, or says what is left.
func (j *Journal) lastCheckpoint() error {
	if err := j.Err(); err != nil {
		return err
	}
	j.ckpt.Lock()
	defer j.ckpt.Unlock()
	target := j.target()
	j.mu.Lock()
	left := int(j.next - 1 - target)
	j.mu.Unlock()
	err := j.flushFiles()
	if err == nil {
		err = j.pass(target, left == 0)
	}
	if err == nil && left > 0 {
		err = fmt.Errorf("journal: close: %w: %d of them", ErrUnapplied, left)
	}
	return err
}
