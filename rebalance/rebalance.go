// Package rebalance is the mover: it executes the moves that stand in the
// directory's journal.
//
// Any number of movers run. Each unfinished move has one owner, by a claim
// under the owner's lease; when the owner dies, another claims it and goes on
// from journal and record. Ownership is economy: safety rests on the fences,
// the exact epochs and the guarded transactions (R3, R5, R6, R8). Before the
// flip any failure rolls back; after it, everything rolls forward.
//
// The package talks to the director's contract and to backend/control only,
// and keeps nothing on disk.
package rebalance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// Backend is what a mover asks of a backend; control.Client is the real one.
type Backend interface {
	Look(ctx context.Context, req control.LookRequest) (control.FenceReply, error)
	Stage(ctx context.Context, req control.MoveRequest) (control.FenceReply, error)
	Pull(ctx context.Context, req control.PullRequest, progress func(control.PullProgress)) (control.PullProgress, error)
	Freeze(ctx context.Context, req control.MoveRequest) (control.ManifestSummary, error)
	Seal(ctx context.Context, req control.SealRequest) (control.ManifestSummary, error)
}

// Deps is what a mover is given. Identity, Directory, Log and Metrics are required.
type Deps struct {
	// Identity nil makes no listener: a simulation calls Work alone, and gives Dial.
	Identity  *cluster.Identity
	Directory *director.Directory
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	// Dial finds a backend; nil: by its record in the directory.
	Dial func(ctx context.Context, id director.BackendID) (b Backend, node string, err error)
	// At is called, where it is not nil, before each step that changes
	// something elsewhere: fault tests die there.
	At func(u director.User, point string)
	// Jitter spreads pauses; nil: at random over the upper half.
	Jitter func(time.Duration) time.Duration
}

// Server is a mover. New, then Serve once.
type Server struct {
	cfg     Config
	id      *cluster.Identity
	dir     *director.Directory
	log     *slog.Logger
	metrics *metrics
	dial    func(ctx context.Context, id director.BackendID) (Backend, string, error)
	at      func(director.User, string)
	jitter  func(time.Duration) time.Duration
	mux     *cluster.Mux // nil: Work alone is called
	planner *planner

	mu      sync.Mutex
	running map[director.User]bool
	// again is when a move that could not go on is tried next.
	again   map[director.User]retry
	clients map[string]*client
	// limits, underWay and loads are as last seen.
	limits   director.Limits
	underWay underWay
	loads    map[director.BackendID]asked
	// wake asks for another look at the journals.
	wake chan struct{}
}

// New opens the node listener. Nothing is moved before Serve.
func New(cfg Config, d Deps) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, id: d.Identity, dir: d.Directory, log: d.Log, dial: d.Dial, at: d.At,
		running: make(map[director.User]bool), again: make(map[director.User]retry), clients: make(map[string]*client),
		loads: make(map[director.BackendID]asked), wake: make(chan struct{}, 1)}
	if s.dial == nil {
		s.dial = s.dialRecord
	}
	if s.at == nil {
		s.at = func(director.User, string) {}
	}
	if s.jitter = d.Jitter; s.jitter == nil {
		s.jitter = jitter
	}
	if s.metrics, err = newMetrics(d.Metrics, s); err != nil {
		return nil, err
	}
	if d.Identity == nil {
		return s, nil
	}
	if s.planner, err = newPlanner(s, d.Metrics); err != nil {
		return nil, err
	}
	if s.mux, err = d.Identity.Listen(cfg.Listen, d.Log); err != nil {
		return nil, fmt.Errorf("rebalance %s: %w", cfg.ID, err)
	}
	// No control calls yet beside being seen alive: all orders come by the journal.
	s.mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleDirector, cluster.RoleAdmin}, http.NotFoundHandler())
	return s, nil
}

// Addr is where the node listener listens.
func (s *Server) Addr() string { return s.mux.Addr().String() }

// Serve executes moves until ctx ends; a move under way is then left to
// another mover, or to this one's next start.
func (s *Server) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	serveCtx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		if err := s.mux.Serve(serveCtx); err != nil && !errors.Is(err, cluster.ErrMuxClosed) {
			s.log.Error("node listener", "error", err)
		}
	})
	defer s.mux.Close()
	wg.Go(func() { s.planner.run(serveCtx) })
	s.log.Info("mover serves", "address", s.Addr())
	return s.Work(ctx)
}

// Work is Serve without the listener.
func (s *Server) Work(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.own(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("waiting for the directory", "error", err)
			pause(ctx, s.jitter(time.Second))
		}
	}
	return nil
}

// rescan finds moves whose watch event was lost (R11), and those put off.
const rescan = 2 * time.Second

// own holds one lease and executes what can be claimed under it, until the
// lease or ctx ends.
func (s *Server) own(ctx context.Context) error {
	lease, err := s.dir.Store().Grant(ctx, s.cfg.LeaseTTL)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		// A clean stop gives the claims back at once.
		end, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer done()
		if err := lease.Revoke(end); err != nil {
			s.log.Warn("lease not given back; it will expire", "error", err)
		}
	}()
	wg.Go(func() { s.watchJournals(ctx) })
	known, err := s.readLimits(ctx)
	if err != nil {
		return err
	}
	wg.Go(func() { s.watchLimits(ctx, known) })
	slots := make(chan struct{}, s.cfg.Concurrency)
	for {
		moves, err := s.toDo(ctx, lease.ID())
		if err != nil {
			return err
		}
		for _, m := range moves {
			if len(slots) == cap(slots) {
				break // who ends wakes the loop
			}
			if !s.begin(m.User) {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				ran := s.claimAndRun(ctx, m.User, lease)
				s.end(m.User)
				<-slots
				if ran {
					s.poke()
				}
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lease.Done():
			return errors.New("the lease was lost")
		case <-s.wake:
		case <-time.After(s.jitter(rescan)):
		}
	}
}

// retry spaces the tries of a move that cannot go on: its target is away.
type retry struct {
	at   time.Time
	wait time.Duration
}

// begin takes a move that is due and that nobody here is at.
func (s *Server) begin(u director.User) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[u] || time.Now().Before(s.again[u].at) {
		return false
	}
	s.running[u] = true
	return true
}

// later puts a move off, for longer each time; ended forgets that.
func (s *Server) later(u director.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.again[u]
	r.wait = min(max(2*r.wait, time.Second), 30*time.Second)
	r.at = time.Now().Add(s.jitter(r.wait))
	s.again[u] = r
}

func (s *Server) ended(u director.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.again, u)
}

func (s *Server) isRunning(u director.User) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[u]
}

func (s *Server) end(u director.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, u)
}

func (s *Server) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

// toDo gives the moves that somebody should be at and nobody is, those that have
// begun first, and says of the others why they wait.
func (s *Server) toDo(ctx context.Context, lease director.LeaseID) ([]director.Move, error) {
	moves, err := s.unfinished(ctx)
	if err != nil {
		return nil, err
	}
	owned := make(map[director.User]bool)
	_, err = s.dir.Store().List(ctx, director.PrefixMoveOwner, func(e director.Entry) error {
		// One's own, that could not be given back, is gone on with.
		owned[director.User(strings.TrimPrefix(e.Key, director.PrefixMoveOwner))] = string(e.Value) != director.Owner(s.cfg.ID, lease)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.underWay = countMoves(moves)
	limits := s.limits
	s.mu.Unlock()
	run, wait := admit(moves, limits, time.Now())
	s.noteHeld(ctx, wait)
	return slices.DeleteFunc(run, func(m director.Move) bool { return owned[m.User] }), nil
}

// unfinished lists the journals that need somebody.
func (s *Server) unfinished(ctx context.Context) ([]director.Move, error) {
	var out []director.Move
	_, err := s.dir.Store().List(ctx, director.PrefixMove, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		if err != nil {
			s.log.Error("unreadable journal", "key", e.Key, "error", err)
			return nil
		}
		if !m.Phase.Finished() {
			out = append(out, m)
		}
		return nil
	})
	return out, err
}

// watchJournals wakes the loop when a journal is written or an owner is lost.
func (s *Server) watchJournals(ctx context.Context) {
	for ctx.Err() == nil {
		rev, err := s.dir.Store().List(ctx, director.PrefixMoveOwner, func(director.Entry) error { return nil })
		if err != nil {
			pause(ctx, s.jitter(time.Second))
			continue
		}
		// "move" is the common prefix of journals and owners.
		for batch := range s.dir.Store().Watch(ctx, strings.TrimSuffix(director.PrefixMove, "/"), rev+1) {
			for _, c := range batch.Changes {
				lost := c.Deleted && strings.HasPrefix(c.Key, director.PrefixMoveOwner)
				u, journal := strings.CutPrefix(c.Key, director.PrefixMove)
				// What this mover writes itself need not wake it.
				if lost || journal && !c.Deleted && !s.isRunning(director.User(u)) {
					s.poke()
				}
			}
		}
	}
}

func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// claimAndRun executes a move, if nobody else is at it. It tells whether it did.
func (s *Server) claimAndRun(ctx context.Context, u director.User, lease director.Lease) bool {
	got, err := s.dir.Claim(ctx, u, s.cfg.ID, lease.ID())
	if err != nil || !got {
		if err != nil && ctx.Err() == nil {
			s.log.Warn("claim", "user", u, "error", err)
		}
		return false
	}
	switch err := s.run(ctx, u); {
	case err == nil, errors.Is(err, errNotYet):
		s.ended(u)
	case ctx.Err() == nil:
		s.log.Error("move is tried again later", "user", u, "error", err)
		s.later(u)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.dir.Release(end, u, s.cfg.ID, lease.ID()); err != nil {
		s.log.Warn("claim not given back", "user", u, "error", err)
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// jitter spreads d over its upper half, so that movers do not march in step.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
