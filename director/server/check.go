package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

// checkTarget is a backend that is asked.
type checkTarget struct {
	id   director.BackendID
	node string
}

// getCheck has backends check, all at once: each paces itself on its own disk. A
// backend that does not answer is told of, and the others go on.
func (s *Server) getCheck(ctx context.Context, c *call) (any, error) {
	u, err := c.queryUser()
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	targets, err := s.checkTargets(director.BackendID(q.Get("backend")))
	if err != nil {
		return nil, err
	}
	known := u == "" || s.knows(ctx, u)
	ctx, cancel := s.untilDrain(ctx)
	defer cancel()
	out := &checkStream{lines: c.stream(), cancel: cancel}
	if u == "" && q.Get("backend") == "" {
		s.checkHomes(out)
	}
	req := control.CheckRequest{User: u, Deep: q.Get("deep") != ""}
	s.eachTarget(targets, func(t checkTarget) {
		if err := s.checkAt(ctx, t, req, out.relay(t.id)); err != nil {
			out.send(admin.CheckLine{Missing: &admin.NodeError{Node: backendPeer(t.id).String(), Text: err.Error()}})
		}
	})
	switch {
	case s.draining.Err() != nil:
		return nil, fmt.Errorf("this director stops; check again: %w", director.ErrUnavailable)
	case out.failed() != nil:
		return nil, out.failed()
	case !known && out.silent():
		return nil, fmt.Errorf("user %s: %w", u, director.ErrNotFound)
	}
	return nil, nil
}

// knows tells whether there is any sense in asking for u; what cannot be read may
// be there.
func (s *Server) knows(ctx context.Context, u director.User) bool {
	v, err := s.dir.Location(ctx, u)
	return !errors.Is(err, director.ErrNotFound) && (err != nil || v.Value.State != director.Deleted)
}

// untilDrain ends when this director stops, as well.
func (s *Server) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.draining, cancel)
	return ctx, func() { stop(); cancel() }
}

// checkTargets are the Waypost backends of the directory, or one of them.
func (s *Server) checkTargets(one director.BackendID) ([]checkTarget, error) {
	if err := s.cache.Ready(); err != nil {
		return nil, err
	}
	all := s.cache.Backends()
	if one != "" {
		b, ok := all[one]
		switch {
		case !ok:
			return nil, fmt.Errorf("backend %s: %w", one, director.ErrNotFound)
		case b.Kind != director.KindWaypost:
			return nil, fmt.Errorf("backend %s is of kind %s: it cannot be checked from here: %w", one, b.Kind, director.ErrIllegal)
		}
		return []checkTarget{{one, b.Node}}, nil
	}
	var targets []checkTarget
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if all[id].Kind == director.KindWaypost {
			targets = append(targets, checkTarget{id, all[id].Node})
		}
	}
	return targets, nil
}

// checkHomes finds users whose home is no backend.
func (s *Server) checkHomes(out *checkStream) {
	all := s.cache.Backends()
	s.cache.Users(func(u director.User, r director.Record) bool {
		if _, ok := all[r.Home]; !ok && r.State != director.Deleted {
			out.send(admin.CheckLine{Finding: &control.Finding{
				User: u, Kind: control.KindTree, Level: control.LevelProblem,
				What: fmt.Sprintf("the directory names the home %s, and has no such backend", r.Home),
				Do:   "bring the backend back",
			}})
		}
		return out.failed() == nil
	})
}

// eachTarget calls fn for all, some at once.
func (s *Server) eachTarget(targets []checkTarget, fn func(checkTarget)) {
	var asked sync.WaitGroup
	places := make(chan struct{}, fanOut)
	for _, t := range targets {
		places <- struct{}{}
		asked.Go(func() {
			defer func() { <-places }()
			fn(t)
		})
	}
	asked.Wait()
}

func (s *Server) checkAt(ctx context.Context, t checkTarget, req control.CheckRequest, fn func(control.CheckLine) error) error {
	if m, ok := s.members.Member(cluster.RoleBackend, string(t.id)); ok && !m.Alive {
		return errors.New("it is down: what it has was not checked")
	}
	return s.nodes.client(backendPeer(t.id), t.node).Check(ctx, req, fn)
}

// checkStream is the answer to a check, from several backends. Safe for concurrent
// use.
type checkStream struct {
	lines  *lines
	cancel context.CancelFunc

	mu   sync.Mutex // guards what follows
	err  error      // of the first line that could not be sent
	said int        // findings, steps and missing parts
}

func (o *checkStream) send(l admin.CheckLine) {
	err := o.lines.send(l, true)
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.Progress == nil {
		o.said++
	}
	if err != nil && o.err == nil {
		o.err = err
		o.cancel() // nobody listens
	}
}

func (o *checkStream) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *checkStream) silent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said == 0
}

// relay sends a backend's lines on.
func (o *checkStream) relay(id director.BackendID) func(control.CheckLine) error {
	return func(l control.CheckLine) error {
		switch {
		case l.Finding != nil:
			l.Finding.Backend = id
			o.send(admin.CheckLine{Finding: l.Finding})
		case l.Step != nil:
			o.send(admin.CheckLine{Step: l.Step})
		default:
			o.send(admin.CheckLine{Progress: &admin.CheckProgress{Backend: id, Checked: l.Checked, Total: l.Total, Done: l.Done}})
		}
		return o.failed()
	}
}

// repairUser has the home mend what is derived. Where another backend claims the
// user as well, nothing is touched.
func (s *Server) repairUser(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	view, err := s.readUser(ctx, u)
	if err != nil {
		return nil, err
	}
	targets, err := s.checkTargets("")
	if err != nil {
		return nil, err
	}
	home := slices.IndexFunc(targets, func(t checkTarget) bool { return t.id == view.Home })
	if home < 0 {
		return nil, fmt.Errorf("the home %s of %s is no backend of kind %s: %w", view.Home, u, director.KindWaypost, director.ErrIllegal)
	}
	missing, err := s.oneHome(ctx, u, slices.Delete(slices.Clone(targets), home, home+1))
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.untilDrain(ctx)
	defer cancel()
	out := &checkStream{lines: c.stream(), cancel: cancel}
	for _, m := range missing {
		out.send(admin.CheckLine{Missing: &m})
	}
	t := targets[home]
	err = s.nodes.client(backendPeer(t.id), t.node).Repair(ctx, control.RepairRequest{User: u, Deep: c.r.URL.Query().Get("deep") != ""}, out.relay(t.id))
	switch {
	case control.IsCode(err, control.CodeFence):
		return nil, fmt.Errorf("%w: %w", director.ErrConflict, err)
	case out.failed() != nil:
		return nil, out.failed()
	}
	return nil, err
}

// oneHome asks all other backends whether they claim u: ErrConflict if one does.
// Those that do not answer are given; the home's fence protects from them.
func (s *Server) oneHome(ctx context.Context, u director.User, others []checkTarget) ([]admin.NodeError, error) {
	var mu sync.Mutex // guards what follows
	var missing []admin.NodeError
	var claims []error
	ctx, cancel := context.WithTimeout(ctx, s.cfg.NodeTimeout)
	defer cancel()
	s.eachTarget(others, func(t checkTarget) {
		err := s.checkAt(ctx, t, control.CheckRequest{User: u}, func(l control.CheckLine) error {
			f := l.Finding
			if f == nil || !f.Problem() || !slices.Contains([]string{control.KindTwoHomes, control.KindFence, control.KindTree}, f.Kind) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			claims = append(claims, fmt.Errorf("backend %s: %s; %s", t.id, f.What, f.Do))
			return nil
		})
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			missing = append(missing, admin.NodeError{Node: backendPeer(t.id).String(), Text: err.Error()})
		}
	})
	if len(claims) > 0 {
		return nil, fmt.Errorf("user %s needs a human: %w: %w", u, director.ErrConflict, errors.Join(claims...))
	}
	return missing, nil
}
