package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"waypost/internal/bench"
)

// Peer is a way to bring mail from one place to another.
type Peer struct {
	Name, Mode string
	// Start makes two empty places in a fresh folder.
	Start func(ctx context.Context, dir string) (*Sides, error)
}

// Sides are a source and a target.
type Sides struct {
	// Source and Target are the Maildirs; the target's may not be there yet.
	Source, Target string
	// Own is called when files were put into the source's Maildir; nil: nothing is to be
	// done.
	Own func() error
	// Change makes 100 changes at the source as its user does, and tells how many messages
	// that adds; nil: the files are changed. Added, Flagged and Removed say which.
	Change func(ctx context.Context) (more int, err error)
	// Pass brings the target up to date, durably where the peer knows that.
	Pass func(ctx context.Context) error
	// Busy moves the user for good, under light load, and tells how long nobody could
	// write; nil where there is nothing of the kind. It is called last, again and again.
	Busy func(ctx context.Context) (time.Duration, error)
	Stop func() error
}

// Suite measures all peers with all sizes.
type Suite struct {
	// Dir is a fresh folder; what is in it stays until the caller removes it.
	Dir   string
	Peers []Peer
	// Sizes are numbers of messages, at least 100.
	Sizes []int
	// Rounds is how often each runs; Moves how often a user is moved for the busy time.
	Rounds, Moves int
	// Progress gets a line of text now and then; nil: nobody does.
	Progress func(line string, final bool)
}

// ErrSuite: what was asked for makes no sense.
var ErrSuite = errors.New("bad measurement")

// Check says what is wrong with a Suite, before it runs: ErrSuite.
func (s *Suite) Check() error {
	if s.Rounds < 1 || s.Moves < 0 {
		return fmt.Errorf("%w: rounds %d, moves %d", ErrSuite, s.Rounds, s.Moves)
	}
	for _, n := range s.Sizes {
		if n < 100 {
			return fmt.Errorf("%w: a mailbox of %d messages, want at least 100", ErrSuite, n)
		}
	}
	return nil
}

// The operations, in the order of the table.
const (
	opFirst     = "first pass"
	opUnchanged = "second pass, nothing changed"
	opDelta     = "pass after 100 changes"
	opBusy      = "busy: freeze to seal"
)

// Row is what one operation takes one peer.
type Row struct {
	Peer      string  `json:"peer"`
	Mode      string  `json:"mode"`
	Messages  int     `json:"messages"`
	Operation string  `json:"operation"`
	Times     int     `json:"times"`
	MedianMS  float64 `json:"median_ms"`
	P99MS     float64 `json:"p99_ms"`
	// CPUMS is the CPU time of all processes but the kernel's own, in the mean; 0: not
	// measured.
	CPUMS float64 `json:"cpu_ms,omitempty"`
	// Ratio is how many times as long as Waypost this peer takes; 0: nothing to compare.
	Ratio float64 `json:"waypost_rate_ratio,omitempty"`
}

// Report is what a Suite measured.
type Report struct {
	Rounds int   `json:"rounds"`
	Rows   []Row `json:"rows"`
}

// measured is what was measured of one peer with one size, by operation.
type measured struct {
	took map[string]bench.Latencies
	cpu  map[string]time.Duration // of all times together
}

func newMeasured() measured {
	return measured{make(map[string]bench.Latencies), make(map[string]time.Duration)}
}

// Run runs everything. With an error it gives what was measured before.
func (s *Suite) Run(ctx context.Context) (*Report, error) {
	rep := &Report{Rounds: s.Rounds}
	if err := s.Check(); err != nil {
		return rep, err
	}
	step := 0
	for _, size := range s.Sizes {
		all := make([]measured, len(s.Peers))
		var failed error
		for round := range s.Rounds {
			for i, p := range s.Peers {
				if all[i].took == nil {
					all[i] = newMeasured()
				}
				step++
				dir := filepath.Join(s.Dir, fmt.Sprintf("%d-%s", step, p.Name))
				s.say(fmt.Sprintf("%s, %d messages, round %d", p.Name, size, round+1), true)
				if err := s.visit(ctx, p, dir, size, round == s.Rounds-1, all[i]); err != nil {
					failed = fmt.Errorf("%s with %d messages: %w", p.Name, size, err)
					break
				}
			}
			if failed != nil {
				break
			}
		}
		rep.add(s.Peers, size, all)
		if failed != nil {
			return rep, failed
		}
	}
	return rep, nil
}

func (s *Suite) say(line string, final bool) {
	if s.Progress != nil {
		s.Progress(line, final)
	}
}

func (s *Suite) visit(ctx context.Context, p Peer, dir string, size int, busy bool, m measured) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	x, err := p.Start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Stop()) }()
	if err := errors.Join(Fill(x.Source, size), x.own()); err != nil {
		return err
	}
	pass := func(op string, want int) error {
		// Servers are this process or its children.
		before, err := bench.TreeCPU(os.Getpid())
		if err != nil {
			return err
		}
		began := time.Now()
		if err := x.Pass(ctx); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		m.took[op] = append(m.took[op], time.Since(began))
		after, err := bench.TreeCPU(os.Getpid())
		if err != nil {
			return err
		}
		m.cpu[op] += after - before
		if n, err := count(x.Target); err != nil || n != want {
			return fmt.Errorf("%s: the target has %d messages, not %d (%w)", op, n, want, err)
		}
		return nil
	}
	if err := pass(opFirst, size); err != nil {
		return err
	}
	if err := pass(opUnchanged, size); err != nil {
		return err
	}
	more, err := x.change(ctx, size)
	if err == nil {
		err = pass(opDelta, size+more)
	}
	for i := 0; err == nil && busy && x.Busy != nil && i < s.Moves; i++ {
		s.say(fmt.Sprintf("%s, %d messages, move %d", p.Name, size, i+1), false)
		var d time.Duration
		d, err = x.Busy(ctx)
		m.took[opBusy] = append(m.took[opBusy], d)
	}
	return err
}

func (x *Sides) own() error {
	if x.Own == nil {
		return nil
	}
	return x.Own()
}

func (x *Sides) change(ctx context.Context, size int) (int, error) {
	if x.Change != nil {
		return x.Change(ctx)
	}
	more, err := change(x.Source, size)
	return more, errors.Join(err, x.own())
}

func (r *Report) add(peers []Peer, size int, all []measured) {
	for _, op := range []string{opFirst, opUnchanged, opDelta, opBusy} {
		var ours float64
		for i, p := range peers {
			if p.Name == bench.Ours && len(all[i].took[op]) > 0 {
				ours = bench.Millis(all[i].took[op].Quantile(0.5))
			}
		}
		for i, p := range peers {
			l := all[i].took[op]
			if len(l) == 0 {
				continue
			}
			row := Row{Peer: p.Name, Mode: p.Mode, Messages: size, Operation: op, Times: len(l), MedianMS: bench.Millis(l.Quantile(0.5)), P99MS: bench.Millis(l.Quantile(0.99)),
				CPUMS: bench.Millis(all[i].cpu[op]) / float64(len(l))}
			if p.Name != bench.Ours {
				row.Ratio = bench.Ratio(row.MedianMS, ours)
			}
			r.Rows = append(r.Rows, row)
		}
	}
}

var heads = []string{"messages", "operation", "peer", "mode", "times", "median ms", "p99 ms", "CPU ms", "rate ×"}

// Cells are a line of the table.
func (r Row) Cells() []string {
	ratio, cpu := "–", "–"
	if r.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", r.Ratio)
	}
	if r.CPUMS > 0 {
		cpu = fmt.Sprintf("%.0f", r.CPUMS)
	}
	return []string{fmt.Sprint(r.Messages), r.Operation, r.Peer, r.Mode, fmt.Sprint(r.Times), fmt.Sprintf("%.1f", r.MedianMS), fmt.Sprintf("%.1f", r.P99MS), cpu, ratio}
}

// Table prints the rows for a terminal, Markdown for a document.
func (r *Report) Table(w io.Writer) error { return bench.Table(w, heads, bench.Cells(r.Rows)) }

// Markdown prints the rows as a table in Markdown.
func (r *Report) Markdown(w io.Writer) error { return bench.Markdown(w, heads, bench.Cells(r.Rows)) }
