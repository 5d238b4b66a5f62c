package simtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"waypost/backend/carry"
	"waypost/backend/handed"
	"waypost/backend/imap"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/vfs/crashfs"
	"waypost/internal/wire"
)

// host is a backend's machine, for sessions.
type host struct {
	g    *stage
	id   director.BackendID
	disk *crashfs.FS
	run  *hostProc // nil: down
}

// hostProc is one run of a backend on it: its engine, its list of hand-offs, and its
// sessions.
type hostProc struct {
	h     *host
	ctx   context.Context
	stop  context.CancelCauseFunc
	dead  atomic.Bool
	ready bool
	imap  *imap.Server
	ids   *handed.Log

	mu     sync.Mutex // protects what follows
	names  carry.Names
	living []*living
}

// living is a session where it lives.
type living struct {
	conn            *end
	session, client string
	epoch           director.Epoch
	named           carry.Session
	begun           atomic.Bool // resumed, or the client has said something
	former          []byte      // the state of the last checkpoint but one, of a rule that is off
}

func (h *host) boot() error {
	p := &hostProc{h: h, ready: true, names: carry.Names{}}
	p.ctx, p.stop = context.WithCancelCause(h.g.ctx)
	p.imap = imap.New(imap.Options{Log: slog.New(slog.DiscardHandler)})
	h.disk.Fail(func(op crashfs.Op) error {
		if p.dead.Load() {
			return crashfs.ErrDown
		}
		return nil
	})
	var err error
	if p.ids, err = handed.Open(h.disk, "/handed", time.Now); err != nil {
		return fmt.Errorf("%s: %w", h.id, err)
	}
	h.run = p
	return nil
}

// crash cuts the power: what was on its way is lost, and what was not synced perhaps.
func (h *host) crash() {
	p := h.run
	h.g.note(string(h.id), "crash")
	p.dead.Store(true)
	h.disk = h.disk.Crash(h.g.rng)
	h.run = nil
	h.g.cutAll(func(c *cable) bool { return strings.Contains(c.name, ">"+string(h.id)+".") })
	p.stop(handoff.ErrKicked)
}

// serve is a proxy's connection.
func (p *hostProc) serve(conn *end) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var hello wire.Hello
	if err := wire.Read(r, &hello); err != nil || hello.Protocol != wire.ProtocolFrames {
		return
	}
	_ = frames.Serve(p.ctx, conn, r, frames.Options{HandOff: hello.HandOff}, func(ctx context.Context, s *frames.Stream, h *wire.Hello) {
		p.answer(ctx, s, h, conn)
	}) // it tells why it ended
}

// answer is a session from its Hello to its end. What begins it is in package carry's order.
func (p *hostProc) answer(ctx context.Context, s *frames.Stream, h *wire.Hello, conn *end) {
	l := &living{conn: conn, session: h.Session, client: h.Client, epoch: director.Epoch(h.Epoch)}
	l.named = carry.Session{ID: h.Session, User: alice, Try: h.Try}
	if p.h.g.rule("late resume ends the newer session") {
		l.named.Try = 0 // as of a proxy that does not count them
	}
	ctx, l.named.End = context.WithCancelCause(ctx)
	defer l.named.End(nil)
	a := &arrival{p: p, ctx: ctx, s: s, h: h, l: l, state: s.State()}
	err := carry.Begin("imap", a.state, a)
	defer a.end()
	if err == nil {
		_ = a.running.Run() // the client's view tells whether it did right
		return
	}
	if a.running != nil {
		a.running.Abandon()
	}
	var refused *carry.Refused
	if errors.As(err, &refused) {
		_ = s.Welcome(refused.Welcome()) // or the connection is lost
	}
}

// arrival has the steps of a session's beginning: carry.Steps.
type arrival struct {
	p       *hostProc
	ctx     context.Context
	s       *frames.Stream
	h       *wire.Hello
	l       *living
	state   []byte
	box     mailbox.Box   // nil: not opened
	running *imap.Running // nil: not begun
}

// end gives back what was taken.
func (a *arrival) end() {
	a.p.leave(a.l)
	if a.box != nil {
		a.box.Close()
	}
}

// Open implements carry.Steps.
func (a *arrival) Open() error {
	g, home := a.p.h.g, director.BackendID(a.h.Home)
	if err := a.late(); err != nil {
		return err
	}
	if g.rule("resume without epoch check") && a.state != nil {
		rec, err := g.admin.Location(a.ctx, alice)
		if err != nil {
			return err
		}
		home, a.l.epoch = rec.Value.Home, rec.Value.Epoch
	} else if home != a.p.h.id {
		return mailbox.ErrStale
	}
	box, err := g.mail.Open(a.ctx, alice, home, a.l.epoch)
	if err == nil {
		a.box = box
	}
	return err
}

// late has some openings take long, of which the proxy does not hear: it loses the connection,
// and asks again for a session that is quiet.
func (a *arrival) late() error {
	g := a.p.h.g
	if a.state == nil || !handoff.Quiet(a.state) || g.calm || !g.mended.IsZero() || !g.chance(12) {
		return nil
	}
	g.saw("resume given up")
	g.harmed = true
	a.l.conn.peer.fail(syscall.ECONNRESET)
	if err := sleep(a.ctx, g.upTo(4*time.Second)); err != nil {
		return err
	}
	return g.step(a.ctx, string(a.p.h.id), fmt.Sprintf("opens late for %s, try %d", a.h.Client, a.h.Try))
}

// Register implements carry.Steps.
func (a *arrival) Register() (mine, former *carry.Session, err error) {
	p, mine := a.p, &a.l.named
	p.mu.Lock()
	defer p.mu.Unlock()
	former = p.names.Add(mine)
	if former != nil && former.Try > mine.Try {
		p.h.g.counted.saw("resume after a later try")
	}
	if p.h.g.rule("former session left") {
		former = nil
	}
	return mine, former, nil
}

// Speak implements carry.Steps.
func (a *arrival) Speak() error {
	g := a.p.h.g
	running, err := a.p.imap.Begin(a.ctx, &leg{a.s, g, a.l}, imap.Session{Box: a.box, Store: g.mail, Client: a.h.Client, ID: a.h.Session, State: a.state})
	if err == nil {
		a.running = running
	}
	return err
}

// Accept implements carry.Steps.
func (a *arrival) Accept(id handoff.ID) (first bool, err error) {
	g := a.p.h.g
	first, err = a.p.ids.Accept(id)
	first = first || g.rule("accept a session twice")
	if err == nil && first {
		g.accepted(a.p.h.id, id, a.h, a.state)
	}
	return first, err
}

// Welcome implements carry.Steps.
func (a *arrival) Welcome() error {
	g, p := a.p.h.g, a.p
	if a.state == nil {
		a.s.Hold() // the greeting follows
	} else {
		if handoff.Quiet(a.state) {
			g.saw("quiet hand-off")
		}
		if !g.calm && g.mended.IsZero() && g.chance(12) {
			g.saw("link cut in a resume")
			g.harmed = true
			a.l.conn.peer.fail(syscall.ECONNRESET)
		}
	}
	if err := a.s.Welcome(wire.Welcome{Status: wire.StatusOK}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.state != nil {
		a.l.begun.Store(true)
	}
	p.living = append(p.living, a.l)
	return nil
}

func (p *hostProc) leave(l *living) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names.Remove(&l.named)
	p.living = slices.DeleteFunc(p.living, func(x *living) bool { return x == l })
}

// leg is a session's stream. One rule that is off has it tell older states than it says.
type leg struct {
	*frames.Stream
	g *stage
	l *living
}

func (l *leg) Read(p []byte) (int, error) {
	n, err := l.Stream.Read(p)
	if n > 0 {
		l.l.begun.Store(true)
	}
	return n, err
}

func (l *leg) Checkpoint(consumed, sent uint64, state []byte) error {
	l.g.counted.saw("checkpoint")
	return l.Stream.Checkpoint(consumed, sent, l.older(state))
}

func (l *leg) Point(consumed, sent uint64, state, tip []byte) error {
	l.g.counted.saw("checkpoint")
	switch {
	case !l.g.rule("an older checkpoint"):
	case state != nil:
		state = l.older(state)
	default:
		tip = nil // it stands as it was
	}
	return l.Stream.Point(consumed, sent, state, tip)
}

// older is the state before this one, where a rule is off.
func (l *leg) older(state []byte) []byte {
	if !l.g.rule("an older checkpoint") {
		return state
	}
	older := l.l.former
	l.l.former = state
	if older != nil {
		return older
	}
	return state
}

// accepted is told of a hand-off that was.
func (g *stage) accepted(at director.BackendID, id handoff.ID, h *wire.Hello, state []byte) {
	g.replays.mu.Lock()
	defer g.replays.mu.Unlock()
	if g.replays.ids[id] {
		g.replays.twice = append(g.replays.twice, fmt.Sprintf("a hand-off of %s was accepted twice, now by %s", h.Client, at))
	}
	if g.replays.ids == nil {
		g.replays.ids = map[handoff.ID]bool{}
	}
	g.replays.ids[id] = true
	g.replays.all = append(g.replays.all, replay{at, *h, state})
}

// replay is a RESUME that a host has done.
type replay struct {
	at    director.BackendID
	hello wire.Hello
	state []byte
}

// again asks a host once more for a resume that it has done, and whose proxy does not know
// that: it must not have the session go on twice. Who asks has a connection of its own.
func (g *stage) again(ctx context.Context) {
	g.replays.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(g.replays.all), func(r replay) bool { return !g.replays.lost[r.hello.Session] })
	g.replays.mu.Unlock()
	rec, err := g.admin.Location(ctx, alice)
	if err != nil || len(all) == 0 {
		return
	}
	r := all[g.rng.IntN(len(all))]
	h := g.hosts[rec.Value.Home].run
	if r.at != rec.Value.Home || h == nil {
		return
	}
	g.saw("a hand-off is sent twice")
	r.hello.Home, r.hello.Epoch = string(rec.Value.Home), uint64(rec.Value.Epoch)
	near, far := g.net.connect("again", string(h.h.id), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 3), Port: 1000})
	g.running.Go(func() { h.serve(far) })
	g.running.Go(func() {
		c, err := frames.Dial(ctx, near, frames.Options{HandOff: true})
		if err != nil {
			return
		}
		defer c.Close()
		s, _, err := c.Resume(ctx, r.hello, r.state)
		if err == nil && s != nil {
			_ = sleep(ctx, 3*time.Second) // it lives there as long as that
			_ = s.Close()
		}
	})
}
