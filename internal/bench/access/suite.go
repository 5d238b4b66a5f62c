package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"waypost/internal/bench"
	"waypost/internal/durable"
)

// Suite measures all peers with all sizes by turns.
type Suite struct {
	// Dir is a fresh folder; what is in it stays until the caller removes it.
	Dir string
	// Peers are started with Setup.Access. Of peers with the same name the first does all;
	// the others write, which is what their modes differ in. Those with Rows do these, and neither
	// Access.Memory nor Access.Restart is called.
	Peers []bench.Peer
	// Sizes are numbers of messages, of at least 2 × Batch, and Batch + Singles.
	Sizes []int
	// Batch is how many messages STORE, APPEND, COPY, MOVE, EXPUNGE and RETR are about;
	// Singles how many single APPENDs and STOREs are measured.
	Batch, Singles int
	// Sessions are opened to measure what an idle one needs; 0: none.
	Sessions int
	// Rounds is how often each peer runs with each size: A B A B.
	Rounds int
	// Duration is about how long what can be repeated is.
	Duration time.Duration
	// Pause is how long a server must have been at rest after it was started, and is left alone, several
	// times as long, before its memory is looked at and to find out what it uses at rest; 0 is a second.
	Pause time.Duration
	// Forget makes the system forget what it has read from disks, and tells whether it
	// could. Nil: it is not tried.
	Forget func() (bool, error)
	// Profile, where not empty, begins the names of files with CPU profiles of every operation of
	// peers that give them. What can be repeated is for that, outside the measurement; what is done
	// once takes as long as its profile, some seconds.
	Profile string
	// Only, where not empty, are the rows that are measured (RowNames); of the rest is done what these
	// cannot be without.
	Only []string
	// Progress gets a line of text now and then; nil: nobody does.
	Progress func(line string, final bool)
}

// ErrSuite: what was asked for makes no sense.
var ErrSuite = errors.New("bad measurement")

// Check says what is wrong with a Suite, before it runs: ErrSuite.
func (s *Suite) Check() error {
	if s.Batch < 1 || s.Singles < 1 || s.Rounds < 1 || s.Sessions < 0 {
		return fmt.Errorf("%w: batch %d, singles %d, rounds %d, sessions %d", ErrSuite, s.Batch, s.Singles, s.Rounds, s.Sessions)
	}
	if err := s.checkOnly(); err != nil {
		return err
	}
	for _, n := range s.Sizes {
		if least := max(2*s.Batch, s.Batch+s.Singles); n < least {
			return fmt.Errorf("%w: a mailbox of %d messages, want at least %d", ErrSuite, n, least)
		}
	}
	return nil
}

// room fails where everything might fill the disk.
func (s *Suite) room() error {
	var need int64
	for _, n := range s.Sizes {
		need += int64(n+4*s.Batch*s.Rounds*len(s.Peers)) * bytesEach
	}
	free, err := bench.FreeBytes(s.Dir)
	if err == nil && free < need {
		err = fmt.Errorf("%s has %d MiB free, and this may need %d MiB: choose another folder, or fewer messages", s.Dir, free>>20, need>>20)
	}
	return err
}

func (s *Suite) pause() time.Duration { return cmp.Or(s.Pause, time.Second) }

func (s *Suite) say(line string, final bool) {
	if s.Progress != nil {
		s.Progress(line, final)
	}
}

// Run runs everything. With an error it gives what was measured before.
func (s *Suite) Run(ctx context.Context) (*Report, error) {
	rep := &Report{Rounds: s.Rounds}
	if err := errors.Join(s.Check(), s.room()); err != nil {
		return rep, err
	}
	step := 0
	for _, size := range s.Sizes {
		s.say(fmt.Sprintf("making %d messages", size), false)
		source := filepath.Join(s.Dir, "mail-"+strconv.Itoa(size))
		if err := makeMaildir(ctx, source, size); err != nil {
			return rep, err
		}
		sums := make([]visit, len(s.Peers))
		for range s.Rounds {
			seen := make(map[string]bool)
			for i, p := range s.Peers {
				step++
				v := visit{suite: s, peer: p, size: size, source: source, writesOnly: seen[p.Name] && len(p.Rows) == 0}
				seen[p.Name] = true
				if !v.wantsAnything() {
					continue
				}
				err := v.run(ctx, filepath.Join(s.Dir, strconv.Itoa(step)+"-"+p.Name))
				sums[i].add(&v)
				if err != nil {
					rep.add(sums)
					return rep, fmt.Errorf("%s %s with %d messages: %w", p.Name, p.Mode, size, err)
				}
			}
		}
		rep.add(sums)
	}
	return rep, nil
}

func (r *Report) add(sums []visit) {
	for _, v := range sums {
		for _, m := range v.measured {
			r.Rows = append(r.Rows, v.row(m))
		}
		r.Idle = append(r.Idle, v.idle...)
	}
	r.compare()
}

// visit is one peer's turn with one mailbox.
type visit struct {
	suite  *Suite
	peer   bench.Peer
	size   int
	source string
	// writesOnly: what its mode does not change was measured with another.
	writesOnly bool

	srv   *bench.Server
	imap  *imapClient
	count int     // messages in INBOX now
	rest  float64 // CPU a second while nothing happens

	measured []measured
	idle     []IdleRow
}

// add puts another round's figures to those that are there.
func (v *visit) add(o *visit) {
	if v.suite == nil {
		*v = *o
		return
	}
	for _, m := range o.measured {
		v.note(m)
	}
	v.idle = append(v.idle, o.idle...)
}

func (v *visit) run(ctx context.Context, dir string) (err error) {
	v.count = v.size
	v.say("starting", false)
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if took, err := bench.Creation(dir); err != nil {
		return err
	} else if took > bench.Dear {
		v.say(fmt.Sprintf("creating a file here takes %.2f ms by itself: many were deleted on this disk a short time ago. Wait five minutes, or choose another disk", bench.Millis(took)), true)
	}
	if v.srv, err = v.peer.Start(ctx, dir, bench.Setup{Users: 1, IMAP: true, Access: true}); err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w; it logged: %s", err, v.srv.Log())
		}
		if stopErr := v.srv.Stop(); err == nil {
			err = stopErr
		}
	}()
	if v.srv.Access == nil {
		return fmt.Errorf("%w: this server cannot be measured so", ErrSuite)
	}
	if err := linkMaildir(ctx, v.source, v.srv.Access.Maildir); err != nil {
		return err
	}
	if err := v.srv.Access.Own(v.srv.Access.Maildir); err != nil {
		return err
	}
	if err := bench.FlushAll(dir); err != nil {
		return err
	}
	return v.operations(ctx)
}

func (v *visit) say(text string, final bool) {
	v.suite.say(fmt.Sprintf("%s %s, %d messages: %s", v.peer.Name, v.peer.Mode, v.size, text), final)
}

// operations are all that are measured, in an order in which each finds what it needs.
func (v *visit) operations(ctx context.Context) error {
	wants := v.wantsAny
	writes := wants(Warm, writeKeys()...)
	for _, step := range []struct {
		do          func(context.Context) error
		reads, want bool
	}{
		{v.readFirst, true, wants(NoIndex, readKeys()...) || wants(Warm, readKeys()...) || wants(Cold, readKeys()...)},
		{v.readWarm, true, wants(Warm, readKeys()...)},
		{v.logins, true, wants(Warm, keyLogin, keyAlone)},
		{v.readCold, true, wants(Cold, readKeys()...)},
		{v.warmUp, false, writes || wants(Warm, keyIdle, keyResync)},
		{v.sessions, true, wants(Warm, keyIdle)},
		{v.write, false, writes},
		{v.resync, true, wants(Warm, keyResync)},
	} {
		if !step.want || step.reads && v.writesOnly {
			continue
		}
		if err := v.connected(ctx, step.do); err != nil {
			return err
		}
	}
	return nil
}

// connected runs a step with a connection that is logged in.
func (v *visit) connected(ctx context.Context, step func(context.Context) error) error {
	if err := v.login(ctx); err != nil {
		return err
	}
	// A step may log in anew, and leaves its last connection to us.
	defer func() { v.imap.close() }()
	if err := step(ctx); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	return nil
}

func (v *visit) login(ctx context.Context) error {
	c, err := loginIMAP(ctx, v.srv.IMAP, v.srv.User, v.srv.Password)
	if err == nil {
		v.imap = c
	}
	return err
}

// selected selects INBOX.
func (v *visit) selected() error {
	_, err := v.imap.selectInbox(v.count)
	return err
}
