package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Load is a stream of messages to one target.
type Load struct {
	Target Target
	// Connections are kept open; each sends its next message when the last one
	// was answered.
	Connections int
	// Size of a message in bytes, with CRLF.
	Size int
	// Recipients of each message; 0 is 1.
	Recipients int
	// Warm is how many messages go before the measurement. If WarmUp is set, as many as
	// WarmUpMessages says or as WarmUp has room for follow them, also before it.
	Warm           int
	WarmUp         time.Duration
	WarmUpMessages int
	// Messages and Duration end the measurement, whichever comes first; one of
	// them must be given.
	Messages int
	Duration time.Duration
	// BDAT sends the message in one chunk beside its envelope.
	BDAT bool
	// Timeout of one message; 0 is a minute.
	Timeout time.Duration
	// Begin is called between warming up and the first measured message.
	Begin func() error
	// Progress, if not nil, is called about once a second.
	Progress func(Progress)
}

// Progress is where a Load is.
type Progress struct {
	Warming  bool
	Messages int64
	Errors   int64
	Elapsed  time.Duration
}

// Result is what a Load measured.
type Result struct {
	// Acknowledged counts the messages that got a 250, one for each recipient,
	// those of the warming up too: so many must be on the disk.
	Acknowledged int64
	// Measured counts those of the measurement.
	Measured int64
	// Errors counts messages that did not get all their 250; Samples are some of
	// their reasons.
	Errors  int64
	Samples []string
	// Elapsed is the wall time of the measurement.
	Elapsed time.Duration
	// GeneratorCPU is our own process's.
	GeneratorCPU time.Duration
	// Latencies from a message's first byte to its last answer.
	Latencies Latencies
}

const (
	maxSamples = 5
	// maxErrors ends a load that brings nothing but errors.
	maxErrors = 100
)

// ErrTooMany: so many messages failed that the rest is not worth sending.
var ErrTooMany = errors.New("too many errors")

// run is a Load at work.
type run struct {
	*Load
	letters *letters
	rcpts   [][]byte
	ids     []byte
	conns   []*worker

	next  atomic.Uint64 // the next message's number
	acked atomic.Int64
	ends  uint64 // the number of the first message that is not sent
	until time.Time
	dead  atomic.Bool // a connection was given up

	mu      sync.Mutex
	errors  int64
	samples []string
}

// worker is one connection's goroutine.
type worker struct {
	*run
	c         *conn
	to        [][]byte
	latencies []time.Duration
}

func (l *Load) check() error {
	switch {
	case l.Connections < 1:
		return fmt.Errorf("%d connections: want at least one", l.Connections)
	case l.Messages <= 0 && l.Duration <= 0:
		return errors.New("a load needs an end: a number of messages or a duration")
	case len(l.Target.To) == 0:
		return errors.New("a load needs recipients")
	case l.Recipients > len(l.Target.To):
		return fmt.Errorf("%d recipients a message: there are only %d users", l.Recipients, len(l.Target.To))
	}
	return nil
}

// Run connects, warms up, and measures. It returns when every message that was
// begun has been answered. An error is a load that says nothing: no connection,
// ctx ended, or ErrTooMany; single refusals are in the Result.
func (l *Load) Run(ctx context.Context) (Result, error) {
	if err := l.check(); err != nil {
		return Result{}, err
	}
	letters, err := newLetters(l.Size)
	if err != nil {
		return Result{}, err
	}
	r := &run{Load: l, letters: letters}
	if l.Target.DeliveryIDs {
		r.ids = fmt.Appendf(nil, "bench-%016x-", rand.Uint64())
	}
	for _, to := range l.Target.To {
		r.rcpts = append(r.rcpts, to.command())
	}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return Result{}, err
	}
	// Whoever waits for an answer when ctx ends waits no longer.
	stop := context.AfterFunc(ctx, r.cut)
	defer stop()
	return r.measure(ctx)
}

func (r *run) measure(ctx context.Context) (Result, error) {
	warm, err := r.phase(ctx, r.Warm, 0, true)
	if err == nil && r.WarmUp > 0 {
		warm, err = r.phase(ctx, r.WarmUpMessages, r.WarmUp, true)
	}
	if err != nil {
		return r.result(warm), err
	}
	if r.Begin != nil {
		if err := r.Begin(); err != nil {
			return Result{}, err
		}
	}
	cpu, err := SelfCPU()
	if err != nil {
		return Result{}, err
	}
	begin := time.Now()
	n, err := r.phase(ctx, r.Messages, r.Duration, false)
	res := r.result(n)
	res.Elapsed = time.Since(begin)
	if used, cpuErr := SelfCPU(); cpuErr == nil {
		res.GeneratorCPU = used - cpu
	} else {
		err = errors.Join(err, cpuErr)
	}
	return res, err
}

func (r *run) result(measured int64) Result {
	res := Result{Acknowledged: r.acked.Load(), Measured: measured, Errors: r.errors, Samples: r.samples}
	for _, w := range r.conns {
		res.Latencies = append(res.Latencies, w.latencies...)
	}
	return res
}

func (r *run) connect(ctx context.Context) error {
	for i := range r.Connections {
		c, err := r.open(ctx)
		if err != nil {
			return fmt.Errorf("connection %d of %d: %w", i+1, r.Connections, err)
		}
		w := &worker{run: r, c: c, to: make([][]byte, max(1, r.Recipients))}
		r.conns = append(r.conns, w)
	}
	return nil
}

func (r *run) open(ctx context.Context) (*conn, error) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	dial, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nc, err := r.Target.dial(dial)
	if err != nil {
		return nil, err
	}
	c := &conn{nc: nc, r: bufio.NewReaderSize(nc, 4096), timeout: timeout, smtp: r.Target.SMTP, bdat: r.BDAT,
		mail: []byte("MAIL FROM:<" + r.Target.From + ">"), ids: r.ids}
	if err := c.greet(); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (r *run) close() {
	var wg sync.WaitGroup
	for _, w := range r.conns {
		if w.c != nil {
			wg.Go(w.c.close)
		}
	}
	wg.Wait()
}

// cut makes every connection fail at once.
func (r *run) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.conns {
		if w.c != nil {
			w.c.nc.Close()
		}
	}
}

// phase sends messages on all connections until there are enough of them or d
// is over, and gives how many were acknowledged.
func (r *run) phase(ctx context.Context, messages int, d time.Duration, warming bool) (int64, error) {
	if messages == 0 && d == 0 {
		return 0, nil
	}
	begin, before := time.Now(), r.acked.Load()
	r.ends, r.until = math.MaxUint64, begin.Add(d)
	if messages > 0 {
		r.ends = r.next.Load() + uint64(messages)
	}
	if d <= 0 {
		r.until = begin.AddDate(1, 0, 0)
	}
	over := make(chan struct{})
	var wg, ticker sync.WaitGroup
	if r.Progress != nil {
		ticker.Go(func() { r.tick(over, begin, before, warming) })
	}
	errs := make([]error, len(r.conns))
	for i, w := range r.conns {
		wg.Go(func() {
			if errs[i] = w.work(ctx, warming); errs[i] != nil {
				r.dead.Store(true)
			}
		})
	}
	wg.Wait()
	close(over)
	ticker.Wait()
	// The messages that were claimed beyond the end were not sent.
	r.next.Store(min(r.next.Load(), r.ends))
	return r.acked.Load() - before, errors.Join(ctx.Err(), firstOf(errs))
}

// firstOf: one connection's trouble is mostly that of all.
func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) tick(over <-chan struct{}, begin time.Time, before int64, warming bool) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-over:
			return
		case <-t.C:
		}
		r.mu.Lock()
		n := r.errors
		r.mu.Unlock()
		r.Progress(Progress{Warming: warming, Messages: r.acked.Load() - before, Errors: n, Elapsed: time.Since(begin)})
	}
}

// work sends messages until the phase is over.
func (w *worker) work(ctx context.Context, warming bool) error {
	for {
		n := w.next.Add(1) - 1
		begin := time.Now()
		if n >= w.ends || begin.After(w.until) || w.dead.Load() || ctx.Err() != nil {
			return nil
		}
		err := w.c.deliver(w.letters, n, w.address(n), w.to)
		if err == nil {
			w.acked.Add(int64(len(w.to)))
			if !warming {
				w.latencies = append(w.latencies, time.Since(begin))
			}
			continue
		}
		if err := w.failed(ctx, err); err != nil {
			return err
		}
	}
}

// address chooses the recipients of message n, by turns, and its variant, so that
// each user gets all of them by turns.
func (w *worker) address(n uint64) (variant uint64) {
	users, at := uint64(len(w.rcpts)), n*uint64(len(w.to))
	for i := range w.to {
		w.to[i] = w.rcpts[(at+uint64(i))%users]
	}
	return at%users + at/users
}

// failed counts an error and connects anew.
func (w *worker) failed(ctx context.Context, why error) error {
	w.c.nc.Close()
	if ctx.Err() != nil {
		return nil
	}
	w.mu.Lock()
	w.errors++
	n := w.errors
	if len(w.samples) < maxSamples {
		w.samples = append(w.samples, why.Error())
	}
	w.mu.Unlock()
	if n >= maxErrors {
		return fmt.Errorf("%w: %w", ErrTooMany, why)
	}
	c, err := w.open(ctx)
	if err != nil {
		return fmt.Errorf("%w; connect anew: %w", why, err)
	}
	w.mu.Lock()
	w.c = c
	w.mu.Unlock()
	if ctx.Err() != nil {
		c.nc.Close() // cut may have come before
	}
	return nil
}
