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

	mu     sync.Mutex // protects living
	living []*living
}

// living is a session where it lives.
type living struct {
	conn            *end
	session, client string
	epoch           director.Epoch
	cancel          context.CancelCauseFunc
	begun           atomic.Bool // resumed, or the client has said something
	former          []byte      // the state of the last checkpoint but one, of a rule that is off
}

func (h *host) boot() error {
	p := &hostProc{h: h, ready: true}
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

// answer is what backend.Server does of a session, in its order: the mailbox at (home,
// epoch), the end of what is left of it here, the proof of the state, the id, once, if it is
// not a quiet one, and only then the Welcome.
func (p *hostProc) answer(ctx context.Context, s *frames.Stream, h *wire.Hello, conn *end) {
	l := &living{conn: conn, session: h.Session, client: h.Client, epoch: director.Epoch(h.Epoch)}
	ctx, l.cancel = context.WithCancelCause(ctx)
	defer l.cancel(nil)
	running, box, err := p.begin(ctx, s, h, l)
	if box != nil {
		defer box.Close()
	}
	if err != nil {
		w := wire.Welcome{Status: wire.StatusRefused, Text: err.Error()}
		switch reason, never := handoff.ReasonOf(err); {
		case never:
			w = wire.Welcome{Status: wire.StatusUnresumable, Text: string(reason)}
		case errors.Is(err, mailbox.ErrStale):
			w.Status = wire.StatusStale
		case errors.Is(err, mailbox.ErrFrozen):
			w.Status = wire.StatusBusy
		}
		_ = s.Welcome(w) // or the connection is lost
		return
	}
	defer p.leave(l)
	_ = running.Run() // the client's view tells whether it did right
}

func (p *hostProc) begin(ctx context.Context, s *frames.Stream, h *wire.Hello, l *living) (*imap.Running, mailbox.Box, error) {
	g, state := p.h.g, s.State()
	home := director.BackendID(h.Home)
	var id handoff.ID
	if state != nil {
		var err error
		if id, _, _, err = handoff.OpenBase(state, "imap"); err != nil {
			return nil, nil, err
		}
	}
	if g.rule("resume without epoch check") && state != nil {
		rec, err := g.admin.Location(ctx, alice)
		if err != nil {
			return nil, nil, err
		}
		home, l.epoch = rec.Value.Home, rec.Value.Epoch
	} else if home != p.h.id {
		return nil, nil, mailbox.ErrStale
	}
	box, err := g.mail.Open(ctx, alice, home, l.epoch)
	if err != nil {
		return nil, nil, err
	}
	if !g.rule("former session left") {
		p.endFormer(l)
	}
	running, err := p.imap.Begin(ctx, &leg{s, g, l}, imap.Session{Box: box, Store: g.mail, Client: h.Client, ID: h.Session, State: state})
	if err != nil {
		return nil, box, err
	}
	if state != nil {
		if err := p.accept(id, h, state); err != nil {
			running.Abandon()
			return nil, box, err
		}
		if !g.calm && g.mended.IsZero() && g.chance(12) {
			g.saw("link cut in a resume")
			g.harmed = true
			l.conn.peer.fail(syscall.ECONNRESET)
		}
	} else {
		s.Hold() // the greeting follows
	}
	if err := s.Welcome(wire.Welcome{Status: wire.StatusOK}); err != nil {
		running.Abandon()
		return nil, box, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if state != nil {
		l.begun.Store(true)
	}
	p.living = append(p.living, l)
	return running, box, nil
}

// accept takes an id once, unless it is quiet: then there is nothing that could be done twice.
func (p *hostProc) accept(id handoff.ID, h *wire.Hello, state []byte) error {
	g := p.h.g
	if id.Quiet() {
		g.saw("quiet hand-off")
		return nil
	}
	first, err := p.ids.Accept(id)
	if err == nil && !first && !g.rule("accept a session twice") {
		err = &handoff.Error{Reason: handoff.Twice}
	}
	if err == nil {
		g.accepted(p.h.id, id, h, state)
	}
	return err
}

func (p *hostProc) endFormer(l *living) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.living {
		if x.session == l.session {
			x.cancel(handoff.ErrKicked)
		}
	}
}

func (p *hostProc) leave(l *living) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
