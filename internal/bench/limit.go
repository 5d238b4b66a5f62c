package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limit is the least that a store can do that keeps each message as a file and
// flushes before it answers: it appends the message to one log, which is flushed
// for many messages at once, and creates the file, which is not flushed. There
// is no protocol, no index, no user: what is faster than this is not durable.
type Limit struct {
	// Dir is a fresh folder; Users are the folders in which files appear by turns.
	Dir   string
	Users int
	// Writers work at once, each on one message.
	Writers int
	Size    int
	// Messages and Duration as in Load.
	Messages int
	Duration time.Duration
}

// logBytes is the log's size: it is written over once before the measurement, so
// that no flush has to record where its blocks are, and begins again at its end.
const logBytes = 256 << 20

// flushLog shares one fdatasync among all that wait for one.
type flushLog struct {
	fd int

	mu      sync.Mutex
	at      int64 // where the next record goes
	pending *batch
	busy    bool
	wg      sync.WaitGroup // flush
}

// batch is what the next flush makes durable.
type batch struct {
	done chan struct{}
	err  error
}

func openLog(path string) (*flushLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zero := make([]byte, 1<<20)
	for range logBytes / len(zero) {
		if _, err := f.Write(zero); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return &flushLog{fd: fd}, nil
}

func (l *flushLog) close() error {
	l.wg.Wait()
	return unix.Close(l.fd)
}

// append writes a record and returns when it is durable. One flush
// serves all whose records are written when it begins.
func (l *flushLog) append(record []byte) error {
	l.mu.Lock()
	if l.at+int64(len(record)) > logBytes {
		l.at = 0
	}
	at := l.at
	l.at += int64(len(record))
	l.mu.Unlock()
	if _, err := unix.Pwrite(l.fd, record, at); err != nil {
		return fmt.Errorf("append to log: %w", err)
	}
	l.mu.Lock()
	if l.pending == nil {
		l.pending = &batch{done: make(chan struct{})}
	}
	mine := l.pending
	leads := !l.busy
	l.busy = true
	l.mu.Unlock()
	if leads {
		l.wg.Go(l.flush)
	}
	<-mine.done
	return mine.err
}

// flush flushes until nobody waits.
func (l *flushLog) flush() {
	for {
		l.mu.Lock()
		b := l.pending
		l.pending = nil
		l.busy = b != nil
		l.mu.Unlock()
		if b == nil {
			return
		}
		b.err = unix.Fdatasync(l.fd)
		close(b.done)
	}
}

// Run measures. The process's whole CPU is the store's, and there is no
// generator: Result.GeneratorCPU holds it.
func (l *Limit) Run(ctx context.Context) (Result, error) {
	letters, err := newLetters(l.Size)
	if err != nil {
		return Result{}, err
	}
	log, err := openLog(filepath.Join(l.Dir, "log"))
	if err != nil {
		return Result{}, err
	}
	defer log.close()
	folders := make([]string, max(1, l.Users))
	for i := range folders {
		folders[i] = filepath.Join(l.Dir, "mail", "u"+strconv.Itoa(i), "new")
		if err := os.MkdirAll(folders[i], 0o700); err != nil {
			return Result{}, err
		}
	}
	if err := FlushAll(l.Dir); err != nil {
		return Result{}, err
	}
	return l.measure(ctx, log, letters, folders)
}

func (l *Limit) measure(ctx context.Context, log *flushLog, letters *letters, folders []string) (Result, error) {
	var next, done atomic.Uint64
	var wg sync.WaitGroup
	errs := make([]error, l.Writers)
	lats := make([]Latencies, l.Writers)
	cpu, err := SelfCPU()
	if err != nil {
		return Result{}, err
	}
	begin := time.Now()
	for i := range l.Writers {
		wg.Go(func() {
			buf := make([]byte, 0, l.Size)
			for errs[i] == nil && ctx.Err() == nil {
				n, t := next.Add(1)-1, time.Now()
				if l.Messages > 0 && n >= uint64(l.Messages) || l.Duration > 0 && t.Sub(begin) > l.Duration {
					return
				}
				buf = letters.append(buf[:0], n, n)
				if errs[i] = create(folders[n%uint64(len(folders))], n, buf); errs[i] != nil {
					return
				}
				if errs[i] = log.append(buf); errs[i] == nil {
					done.Add(1)
					lats[i] = append(lats[i], time.Since(t))
				}
			}
		})
	}
	wg.Wait()
	n := int64(done.Load())
	res := Result{Acknowledged: n, Measured: n, Elapsed: time.Since(begin)}
	used, err := SelfCPU()
	res.GeneratorCPU = used - cpu
	for _, x := range lats {
		res.Latencies = append(res.Latencies, x...)
	}
	return res, errors.Join(ctx.Err(), firstOf(errs), err)
}

// create makes the message's file appear whole: O_TMPFILE and linkat.
func create(folder string, n uint64, message []byte) error {
	fd, err := unix.Open(folder, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create in %s: %w", folder, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, message); err != nil {
		return fmt.Errorf("write in %s: %w", folder, err)
	}
	name := filepath.Join(folder, "1."+strconv.FormatUint(n, 10)+".bench")
	if err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("link in %s: %w", folder, err)
	}
	return nil
}
