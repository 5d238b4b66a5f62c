package journal

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readyAhead is how many segments are made ready before they are needed.
	readyAhead = 2
	// prepareRetry is the time until a segment is tried again after an error.
	prepareRetry = time.Second
)

// prepareLoop makes segments ready ahead of need: spare ones if there are any, else
// new ones. If the disk is full it says so to Admit and tries again: after a while,
// and after each checkpoint, which may have left a spare one.
func (j *Journal) prepareLoop() {
	defer j.preparer.Done()
	for j.awaitNeed() {
		err := j.prepare()
		if err == nil {
			continue
		}
		j.metrics.prepareErrors.Inc()
		// Want of space passes. Anything else, such as EIO or EROFS, does not, and
		// nobody should wait for it.
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !harmless(err) {
			_ = j.fail(err)
			return
		}
		j.o.Log.Error("journal cannot make a segment ready; no mail is taken once there is no room left", "dir", j.o.Dir, "error", err)
		j.awaitRetry(err)
	}
}

// awaitNeed answers false at the end.
func (j *Journal) awaitNeed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil && j.state != closed {
		if j.wantsSegment() {
			return true
		}
		j.need.Wait()
	}
	return false
}

// wantsSegment has mu held. A committer that starves gets a segment above the
// limit: what waits in memory may be what a checkpoint would have to wait for.
func (j *Journal) wantsSegment() bool {
	if j.starving && len(j.ready) == 0 {
		return true
	}
	total := len(j.used) + len(j.ready) + len(j.spare)
	return len(j.ready) < readyAhead && (len(j.spare) > 0 || total < j.o.MaxSegments)
}

func (j *Journal) prepare() error {
	j.mu.Lock()
	h := segmentHeader{id: j.id, seq: j.seq, salt: newSalt(), size: j.o.SegmentBytes}
	var s *segment
	if n := len(j.spare); n > 0 {
		s = j.spare[n-1]
		j.spare = j.spare[:n-1]
	}
	j.mu.Unlock()
	reused := s != nil
	var err error
	if reused {
		err = s.recycle(j.o.FS, j.o.Dir, h)
	} else {
		s, err = createSegment(j.o.FS, j.o.Dir, h)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.noSegment = err
	if err != nil {
		if reused {
			// It comes next again: another that got its name now would take it away.
			j.spare = append(j.spare, s)
		}
		j.wakeAdmit()
		j.work.Signal()
		return fmt.Errorf("make segment %d ready: %w", h.seq, err)
	}
	j.seq++
	j.ready = append(j.ready, s)
	j.work.Signal()
	j.wakeAdmit()
	return nil
}

// awaitRetry waits until there is a reason to try again.
func (j *Journal) awaitRetry(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.retry = false // before the timer is set: nothing else may ever say that it is time
	timer := time.AfterFunc(prepareRetry, func() {
		j.mu.Lock()
		j.retry = true
		j.need.Signal()
		j.mu.Unlock()
	})
	defer timer.Stop()
	for j.err == nil && j.state != closed && !j.retry {
		j.need.Wait()
	}
}
