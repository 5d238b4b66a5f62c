package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/director/cache"
)

const (
	// watchPoll is how often a watched journal is read although nothing was
	// heard: a lost watch event must strand nobody (R11).
	watchPoll = 2 * time.Second
	// maxFinished bounds the list of finished moves; each moved user has one.
	maxFinished = 10_000
)

func (s *Server) postMove(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.CreateMove](c)
	if err != nil {
		return nil, err
	}
	c.object = fmt.Sprintf("%s to %s", req.User, req.To)
	u, err := director.ParseUser(req.User)
	if err != nil {
		return nil, err
	}
	if err := director.ValidBackendID(req.To); err != nil {
		return nil, err
	}
	b, err := s.dir.Backend(ctx, req.To)
	if err != nil {
		return nil, err
	}
	if b.Value.State != director.BackendActive {
		return nil, fmt.Errorf("move %s: backend %s is %s and gets no users: %w", u, req.To, b.Value.State, director.ErrIllegal)
	}
	return s.planGroup(ctx, u, req.To)
}

func (s *Server) listMoves(ctx context.Context, c *call) (any, error) {
	all := c.r.URL.Query().Get("all") != ""
	moves, err := s.readMoves(ctx, everyMove)
	if err != nil {
		return nil, err
	}
	if all {
		ended, err := readMoves(ctx, s.dir, director.PrefixReceipt, everyMove)
		if err != nil {
			return nil, err
		}
		moves = append(moves, ended...)
	}
	list := make([]admin.Move, 0, len(moves))
	for _, m := range moves {
		list = append(list, admin.MoveOf(m))
	}
	slices.SortFunc(list, func(a, b admin.Move) int { return a.Created.Compare(b.Created) })
	if len(list) > maxFinished && all {
		list = list[len(list)-maxFinished:]
	}
	return list, nil
}

func everyMove(director.Move) bool { return true }

// readMoves reads the journals under way that match from the store.
func (s *Server) readMoves(ctx context.Context, match func(director.Move) bool) ([]director.Move, error) {
	return readMoves(ctx, s.dir, director.PrefixMove, match)
}

// readMoves reads journals (PrefixMove) or receipts (PrefixReceipt).
func readMoves(ctx context.Context, dir *director.Directory, prefix string, match func(director.Move) bool) ([]director.Move, error) {
	var moves []director.Move
	_, err := dir.Store().List(ctx, prefix, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		if err == nil && match(m) {
			moves = append(moves, m)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list moves: %w", err)
	}
	return moves, nil
}

func (s *Server) getMove(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	m, err := s.dir.Move(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("move of %s: %w", u, err)
	}
	if c.r.URL.Query().Get("watch") == "" {
		return admin.MoveOf(m.Value), nil
	}
	return nil, s.watchMove(ctx, c, u, m.Value)
}

// watchMove sends the journal whenever it is another, until the move has ended.
func (s *Server) watchMove(ctx context.Context, c *call, u director.User, m director.Move) error {
	changed := make(chan struct{}, 1)
	cancel := s.cache.Subscribe(func(ch director.Change) {
		if ch.Key == director.MoveKey(u) || cache.IsReload(ch) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	out := c.stream()
	for {
		if err := out.send(admin.MoveOf(m), true); err != nil || m.Phase.Finished() {
			return err
		}
		for last := m; m == last; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.draining.Done():
				return fmt.Errorf("this director stops; the move goes on: %w", director.ErrUnavailable)
			case <-changed:
			case <-poll.C:
			}
			var err error
			if m, err = s.readMove(ctx, u, last); err != nil {
				return err
			}
		}
	}
}

// readMove reads the journal; while the store is away it is as it was.
func (s *Server) readMove(ctx context.Context, u director.User, last director.Move) (director.Move, error) {
	v, err := s.dir.Move(ctx, u)
	switch {
	case errors.Is(err, director.ErrUnavailable) && ctx.Err() == nil:
		return last, nil
	case err != nil:
		return last, fmt.Errorf("move of %s: %w", u, err)
	}
	return v.Value, nil
}

// moveTracker counts moves on their way, for metrics and status, by the cache's
// changes; a full reading of the journals only follows a reload.
type moveTracker struct {
	dir    *director.Directory
	log    *slog.Logger
	reload chan struct{} // holds one: the journals are to be read

	mu       sync.Mutex // guards what follows
	inFlight map[director.User]struct{}
	// touched are users whose journal changed while all were being read: what
	// was heard is newer than what was read.
	touched map[director.User]struct{}
}

func newMoveTracker(dir *director.Directory, log *slog.Logger) *moveTracker {
	t := &moveTracker{dir: dir, log: log, reload: make(chan struct{}, 1), inFlight: map[director.User]struct{}{}}
	t.reload <- struct{}{}
	return t
}

func (t *moveTracker) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.inFlight)
}

// run follows the cache until ctx ends.
func (t *moveTracker) run(ctx context.Context, c *cache.Client) {
	cancel := c.Subscribe(t.note)
	defer cancel()
	retry := time.NewTicker(watchPoll)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.reload:
		}
		for !t.readAll(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-retry.C:
			}
		}
	}
}

// readAll reports false when the store could not be read.
func (t *moveTracker) readAll(ctx context.Context) bool {
	t.mu.Lock()
	t.touched = map[director.User]struct{}{}
	t.mu.Unlock()
	moves, err := readMoves(ctx, t.dir, director.PrefixMove, everyMove)
	t.mu.Lock()
	defer t.mu.Unlock()
	touched := t.touched
	t.touched = nil
	if err != nil {
		t.log.Debug("moves not counted yet", "error", err)
		return false
	}
	now := make(map[director.User]struct{}, len(moves))
	for _, m := range moves {
		now[m.User] = struct{}{}
	}
	for u := range touched {
		if _, on := t.inFlight[u]; on {
			now[u] = struct{}{}
		} else {
			delete(now, u)
		}
	}
	t.inFlight = now
	return true
}

// note takes one change of the directory.
func (t *moveTracker) note(ch director.Change) {
	if cache.IsReload(ch) {
		select {
		case t.reload <- struct{}{}:
		default:
		}
		return
	}
	name, ok := strings.CutPrefix(ch.Key, director.PrefixMove)
	if !ok {
		return
	}
	u, on := director.User(name), false
	if !ch.Deleted {
		m, err := director.DecodeMove(ch.Value)
		on = err == nil && !m.Phase.Finished()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.touched != nil {
		t.touched[u] = struct{}{}
	}
	if on {
		t.inFlight[u] = struct{}{}
	} else {
		delete(t.inFlight, u)
	}
}
