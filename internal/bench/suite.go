package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"waypost/internal/durable"
)

// Case is one configuration in which all peers run.
type Case struct {
	Size        int  `json:"size_bytes"`
	Connections int  `json:"connections"`
	Sieve       bool `json:"sieve"`
	Quota       bool `json:"quota"`
}

// Filters says what the server does beside storing.
func (c Case) Filters() string {
	switch {
	case c.Sieve && c.Quota:
		return "sieve+quota"
	case c.Sieve:
		return "sieve"
	case c.Quota:
		return "quota"
	}
	return "plain"
}

// Setup is what a server is to be started for.
type Setup struct {
	// Users is how many to make.
	Users int
	// Sieve gives each of them Script; Quota a quota that is never reached.
	Sieve, Quota bool
	// IMAP is wanted, too.
	IMAP bool
	// Access is wanted: the server is to be at its best for sessions of IMAP and POP3.
	Access bool
}

// Server is a running server that a Suite measures.
type Server struct {
	Target Target
	// PID is the root of the processes whose CPU counts.
	PID int
	// Mail is the folder with all Maildirs.
	Mail string
	// Settle is how long the server may put work off: its CPU counts until then.
	Settle time.Duration
	// IMAP is host:port where User logs in with Password, in plaintext, for
	// Growth.
	IMAP, User, Password string
	// Fill, where not nil, puts n messages into User's INBOX before the first
	// login, quicker than deliveries would.
	Fill func(n int) error
	// Log is the end of what the server logged.
	Log func() string
	// Begin, where not nil, is called when the measurement begins.
	Begin func()
	// Access is there where Setup wanted it.
	Access *Access
	// Stop ends it in order, and waits.
	Stop func() error
}

// Access is how package access measures a server's sessions. All of it is of the first
// user, whose mailbox is Maildir.
type Access struct {
	// POP3 is host:port, as Server.IMAP.
	POP3 string
	// Maildir is where INBOX is to be before the first login. Own gives what was put
	// below it to whom the server runs as.
	Maildir string
	Own     func(dir string) error
	// CPU is that of all processes between the client and the disk.
	CPU func() (time.Duration, error)
	// Memory is what those processes hold now, after what they can give back at once.
	Memory func(context.Context) ([]Memory, error)
	// Restart ends the processes, calls between, and starts them again.
	Restart func(ctx context.Context, between func() error) error
	// Profile takes CPU profiles for a time, into files that begin with file; what it
	// returns waits for them. Nil where there are none to take.
	Profile func(file string, d time.Duration) (wait func() error)
	// HeapProfile writes what memory is in use for, into files that begin with file. Nil as Profile.
	HeapProfile func(ctx context.Context, file string) error
}

// Memory is what a part of a server holds, in bytes.
type Memory struct {
	// Part is the process, or "" for all.
	Part string
	// Resident is the part of the machine's memory that is its own: shared pages count
	// for a share (proc(5), Pss). Live is what of it its language's runtime has in use, and
	// Stacks what of that are stacks; 0 where that is not told.
	Resident, Live, Stacks int64
}

// Peer is what is measured. Without Start it is the limit of the disk.
type Peer struct {
	// Name and Mode tell rows apart: "dovecot" and "fsync=always".
	Name, Mode string
	// Start runs the server on a fresh folder.
	Start func(ctx context.Context, dir string, s Setup) (*Server, error)
	// Rows, where not empty, are all that package access can measure it in, as Suite.Only there
	// names them.
	Rows []string
}

// LimitPeer is the limit of the disk.
func LimitPeer() Peer { return Peer{Name: "limit", Mode: "one log"} }

// Suite runs all peers by turns in every case.
type Suite struct {
	// Dir is a fresh folder; what is in it stays until the caller removes it.
	Dir   string
	Cases []Case
	Peers []Peer
	// Rounds is how often each peer runs in each case: A B A B.
	Rounds int
	Users  int
	// Duration bounds a run; Bytes bounds what it may write: a run of large
	// messages ends by them.
	Duration time.Duration
	Bytes    int64
	// WarmUp is how long, or for how many bytes at most (WarmUpBytes), the load is put on
	// before it is measured. A server that writes into files it made before, or puts work
	// off, is then as it always is, but for its first seconds.
	WarmUp      time.Duration
	WarmUpBytes int64
	// Forget has the system forget what runs before have written, so that none pays for the
	// memory that they fill; nil, or that it answers false: they do.
	Forget func() (bool, error)
	BDAT   bool
	// Progress gets a line of text now and then; nil: nobody does. A line that
	// is not final is to be overwritten by the next.
	Progress func(line string, final bool)
}

func (s *Suite) messages(size int) int { return max(100, int(s.Bytes/int64(size))) }

func (s *Suite) warmUpMessages(size int) int {
	if s.WarmUp == 0 {
		return 0
	}
	return max(100, int(s.WarmUpBytes/int64(size)))
}

// need is the room that one run may take, in bytes: every message in whole
// blocks, and a journal or log.
func (s *Suite) need(c Case) int64 {
	const block = 4096
	n := s.messages(c.Size) + s.warmUpMessages(c.Size)
	return int64(n+s.Users*len(variants))*int64(c.Size+block) + logBytes
}

// room fails where a run might fill the disk.
func (s *Suite) room(c Case) error {
	free, err := FreeBytes(s.Dir)
	if err != nil {
		return err
	}
	if need := s.need(c); free < need {
		return fmt.Errorf("%s has %d MiB free, and this may need %d MiB: choose another folder, or fewer rounds", s.Dir, free>>20, need>>20)
	}
	return nil
}

// Run runs everything. With an error it gives the rows that were complete.
func (s *Suite) Run(ctx context.Context) (*Report, error) {
	rep := &Report{Rounds: s.Rounds}
	step, steps := 0, len(s.Cases)*len(s.Peers)*s.Rounds
	for _, c := range s.Cases {
		rows := make([]Row, len(s.Peers))
		sums := make([]measured, len(s.Peers))
		for round := range s.Rounds {
			for i, p := range s.Peers {
				step++
				what := fmt.Sprintf("[%d/%d] %s %s, %s, %d bytes, %d connections", step, steps, p.Name, p.Mode, c.Filters(), c.Size, c.Connections)
				m, err := s.one(ctx, p, c, filepath.Join(s.Dir, strconv.Itoa(step)+"-"+p.Name), what)
				if err != nil {
					return rep, fmt.Errorf("%s: %w", what, err)
				}
				s.say(fmt.Sprintf("%s: %.0f messages/s, %.3f ms CPU each", what, m.rate(), perMessage(m.server, m.Measured)), true)
				sums[i].add(m, round)
				rows[i] = sums[i].row(p, c)
			}
		}
		rep.Rows = append(rep.Rows, rows...)
	}
	rep.compare()
	return rep, nil
}

func (s *Suite) say(line string, final bool) {
	if s.Progress != nil {
		s.Progress(line, final)
	}
}

// measured is what one run found, or several summed up.
type measured struct {
	Result
	server         time.Duration
	onDisk         int64
	slowest, quick float64 // messages/s of single rounds
}

func (m *measured) rate() float64 { return Ratio(float64(m.Measured), m.Elapsed.Seconds()) }

func (m *measured) add(o measured, round int) {
	r := o.rate()
	if round == 0 {
		*m = o
		m.slowest, m.quick = r, r
		return
	}
	m.slowest, m.quick = min(m.slowest, r), max(m.quick, r)
	m.Acknowledged += o.Acknowledged
	m.Measured += o.Measured
	m.Errors += o.Errors
	m.Samples = append(m.Samples, o.Samples...)
	m.Elapsed += o.Elapsed
	m.GeneratorCPU += o.GeneratorCPU
	m.Latencies = append(m.Latencies, o.Latencies...)
	m.server += o.server
	m.onDisk += o.onDisk
}

// ErrCount: the disk does not hold what was acknowledged.
var ErrCount = errors.New("the messages on the disk are not those acknowledged")

func (m *measured) check() error {
	// A message that failed may be there or not.
	if m.onDisk < m.Acknowledged || m.onDisk > m.Acknowledged+m.Errors {
		return fmt.Errorf("%w: %d on the disk, %d acknowledged, %d failed", ErrCount, m.onDisk, m.Acknowledged, m.Errors)
	}
	return nil
}

// one runs one peer in one case, in the fresh folder dir.
func (s *Suite) one(ctx context.Context, p Peer, c Case, dir, what string) (m measured, err error) {
	if err := s.room(c); err != nil {
		return m, err
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	s.say(what+": starting", false)
	if took, err := Creation(dir); err != nil {
		return m, err
	} else if took > Dear {
		s.say(fmt.Sprintf("%s: creating a file here takes %.2f ms by itself: many were deleted on this disk a short time ago. Wait five minutes, or choose another disk", what, Millis(took)), true)
	}
	if err := FlushAll(dir); err != nil {
		return m, err
	}
	if s.Forget != nil {
		if _, err := s.Forget(); err != nil {
			return m, fmt.Errorf("have the system forget what it read: %w", err)
		}
	}
	if p.Start == nil {
		return s.limit(ctx, c, dir)
	}
	srv, err := p.Start(ctx, dir, Setup{Users: s.Users, Sieve: c.Sieve, Quota: c.Quota})
	if err != nil {
		return m, err
	}
	if m, err = s.load(ctx, srv, c, what); err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w; it logged: %s", err, srv.Log())
	}
	if stopErr := srv.Stop(); err == nil && stopErr != nil {
		err = fmt.Errorf("stop: %w", stopErr)
	}
	if err != nil {
		return m, err
	}
	if m.onDisk, err = CountMessages(srv.Mail); err != nil {
		return m, err
	}
	return m, m.check()
}

func (s *Suite) limit(ctx context.Context, c Case, dir string) (m measured, err error) {
	l := Limit{Dir: dir, Users: s.Users, Writers: c.Connections, Size: c.Size, Messages: s.messages(c.Size), Duration: s.Duration}
	if m.Result, err = l.Run(ctx); err != nil {
		return m, err
	}
	m.server, m.GeneratorCPU = m.GeneratorCPU, 0
	if m.onDisk, err = CountMessages(filepath.Join(dir, "mail")); err != nil {
		return m, err
	}
	return m, m.check()
}

// load measures a server that runs.
func (s *Suite) load(ctx context.Context, srv *Server, c Case, what string) (m measured, err error) {
	var cpu time.Duration
	l := Load{
		Target: srv.Target, Connections: c.Connections, Size: c.Size, BDAT: s.BDAT,
		// Each user gets every variant once: that makes folders, and compiles the
		// script.
		Warm: s.Users * len(variants), WarmUp: s.WarmUp, WarmUpMessages: s.warmUpMessages(c.Size),
		Messages: s.messages(c.Size), Duration: s.Duration,
		Begin: func() error {
			if err := FlushAll(srv.Mail); err != nil {
				return err
			}
			if srv.Begin != nil {
				srv.Begin()
			}
			cpu, err = TreeCPU(srv.PID)
			return err
		},
		Progress: func(p Progress) {
			verb := "measuring"
			if p.Warming {
				verb = "warming up"
			}
			s.say(fmt.Sprintf("%s: %s, %d messages, %d errors, %.0f s", what, verb, p.Messages, p.Errors, p.Elapsed.Seconds()), false)
		},
	}
	if m.Result, err = l.Run(ctx); err != nil {
		return m, err
	}
	if err := Settle(ctx, srv.Settle); err != nil {
		return m, err
	}
	after, err := TreeCPU(srv.PID)
	m.server = after - cpu
	return m, err
}

// Settle lets the server do what it put off.
func Settle(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
