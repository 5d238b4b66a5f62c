package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// batchBytes is how many bytes of frames are collected at most before others wait: what a
// stream with much to say delays another one by.
const batchBytes = 2 << 14

// writing collects frames while others are being written, so that many small ones cost the
// network one record.
type writing struct {
	mu      sync.Mutex // protects what follows
	changed sync.Cond  // a batch was taken, or written
	out     []byte     // the batch that is collected
	spare   []byte     // for the next one
	batch   uint64     // the number of out
	written uint64     // of the last batch that was written, or could not be
	busy    bool       // somebody writes
	broken  bool       // nobody does any more
	failed  uint64     // of the batch that could not be written; 0: none
	unsent  uint64     // if broken: from this batch on nothing has left; 0: not known
	by      time.Time  // the deadline of writes; who writes has it
}

func (w *writing) begin() { w.changed.L, w.batch = &w.mu, 1 }

// end wakes who waits on a connection that has failed.
func (w *writing) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = true
	w.changed.Broadcast()
}

// send writes a frame. An error is the end of the connection.
func (l *link) send(t Type, stream uint32, head, body []byte) error {
	return l.put(t, stream, head, body, false)
}

// put writes a frame, or has it wait for the next one of whatever stream.
func (l *link) put(t Type, stream uint32, head, body []byte, hold bool) error {
	w := &l.w
	w.mu.Lock()
	for len(w.out) >= batchBytes && !w.broken {
		l.turn()
	}
	if w.broken {
		w.mu.Unlock()
		return errors.Join(errUnsent, l.lost())
	}
	w.out = AppendHeader(w.out, Header{t, stream, uint32(len(head) + len(body))})
	w.out = append(append(w.out, head...), body...)
	mine := w.batch
	for !hold && w.written < mine && !w.broken {
		l.turn()
	}
	// The other side may have read it, and closed the connection, before this one wakes.
	done := hold && !w.broken || w.written >= mine && (w.failed == 0 || mine < w.failed)
	left := w.batch > mine && (w.unsent == 0 || mine < w.unsent)
	w.mu.Unlock()
	switch {
	case done:
		return nil
	case !left:
		return errors.Join(errUnsent, l.lost())
	}
	return l.lost()
}

// errUnsent: nothing of the frame has left, for the connection was lost before.
var errUnsent = errors.New("not sent")

// turn writes the batch, or waits for who does. The caller holds w.mu, but not all the time.
func (l *link) turn() {
	w := &l.w
	if w.busy {
		w.changed.Wait()
		return
	}
	w.busy = true
	w.mu.Unlock()
	// Who is about to say something, too, says it in the same record.
	runtime.Gosched()
	w.mu.Lock()
	batch, n := w.out, w.batch
	w.out, w.spare = w.spare[:0], nil
	w.batch++
	w.mu.Unlock()
	var err error
	over := l.hungUp()
	if over {
		err = errHungUp
	} else {
		err = l.flush(batch)
	}
	w.mu.Lock()
	w.busy, w.written, w.spare = false, n, batch
	w.changed.Broadcast()
	if err != nil {
		if w.broken, w.failed = true, n; over {
			w.unsent = n
		}
		w.mu.Unlock()
		l.writeFailed(err)
		w.mu.Lock()
	}
}

// errHungUp: one side has closed the connection, so that nobody would read what is written.
var errHungUp = errors.New("the connection has an end that is closed")

// hungUp tells, at a proxy, whether an end of the connection is closed: the backend's is soon
// after that was killed, and before we have read so. What is not written then can be given
// to whoever goes on with a session; of what was written nobody knows whether it was read.
func (l *link) hungUp() (gone bool) {
	if l.raw == nil {
		return false
	}
	err := l.raw.Control(func(fd uintptr) {
		all := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(all[:], 0)
		gone = err == nil && n > 0 && all[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil // which is closed by us
}

// rawOf gives a proxy's connection as the system knows it; nil: it is none of the system's.
func rawOf(conn net.Conn, near bool) syscall.RawConn {
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = outer.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok || !near {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil // it is closed; writing tells
	}
	return raw
}

// writeFailed ends the connection. A proxy first reads what the backend has said before it
// died: there may be answers, and checkpoints with them.
func (l *link) writeFailed(err error) {
	if !l.near {
		l.fail(fmt.Errorf("write: %w", err))
		return
	}
	l.dying.Store(true)
	_ = l.conn.SetReadDeadline(time.Now().Add(lastWords)) // a closed one reads no more
}

// flush writes a batch; the caller is the only one that does.
func (l *link) flush(batch []byte) error {
	if at, due := atLeast(l.w.by, l.opt.Write); due {
		if err := l.conn.SetWriteDeadline(at); err != nil {
			return err
		}
		l.w.by = at
	}
	_, err := l.conn.Write(batch)
	return err
}

// atLeast tells whether a deadline leaves less than d, and the one to be set then: a quarter
// later than it must be, because setting one for each frame costs more than the frame.
func atLeast(by time.Time, d time.Duration) (at time.Time, due bool) {
	now := time.Now()
	return now.Add(d + d/4), by.Sub(now) < d
}

func (l *link) sendCount(t Type, stream uint32, count uint64, body []byte) error {
	return l.putCount(t, stream, count, body, false)
}

func (l *link) putCount(t Type, stream uint32, count uint64, body []byte, hold bool) error {
	var head [CounterBytes]byte
	binary.BigEndian.PutUint64(head[:], count)
	return l.put(t, stream, head[:], body, hold)
}

// Hold has the end of what is written next, be it the Welcome, wait for the frame behind it:
// for who writes more at once, or closes the Stream.
func (s *Stream) Hold() { s.hold.Store(true) }

// lost is the error of whoever comes after fail.
func (l *link) lost() error {
	<-l.finished // fail is on its way
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("%w: %w", ErrLost, l.err)
}
