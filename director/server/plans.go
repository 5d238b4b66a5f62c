package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/telemetry"
)

// Plans are made and carried out by movers; here they are asked for, steered, and
// told of. All of it is the directory's.

func (s *Server) planRoutes() map[string]endpoint {
	return map[string]endpoint{
		"POST /v1/plan":              s.postPlan,
		"GET /v1/plan":               s.getPlan,
		"GET /v1/plan/moves":         s.listPlanMoves,
		"POST /v1/plan/{verb}":       s.steerPlan,
		"GET /v1/plan/auto":          s.getPlanAuto,
		"PUT /v1/plan/auto":          s.putPlanAuto,
		"GET /v1/users/{user}/tags":  s.getUserTags,
		"PUT /v1/users/{user}/tags":  s.putUserTags,
		"GET /v1/backends/{id}/tags": s.getBackendTags,
		"PUT /v1/backends/{id}/tags": s.putBackendTags,
	}
}

func (s *Server) postPlan(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.RequestPlan](c)
	if err != nil {
		return nil, err
	}
	p := director.Plan{ID: telemetry.NewID(), Apply: req.Apply, Policy: req.Policy.WithDefaults(), Created: time.Now().UTC()}
	c.object = fmt.Sprintf("%s %s by %s", p.ID, p.Policy.Goal, p.Policy.By)
	if err := s.checkPolicy(ctx, p.Policy); err != nil {
		return nil, err
	}
	if err := s.dir.RequestPlan(ctx, p); err != nil {
		return nil, err
	}
	return s.readPlan(ctx)
}

func (s *Server) checkPolicy(ctx context.Context, p director.PlanPolicy) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.Fill == "" {
		return nil
	}
	b, err := s.dir.Backend(ctx, p.Fill)
	if err != nil {
		return err
	}
	if b.Value.State != director.BackendActive || b.Value.Kind != director.KindWaypost {
		return fmt.Errorf("backend %s is %s, of kind %s, and cannot be filled: %w", p.Fill, b.Value.State, b.Value.Kind, director.ErrIllegal)
	}
	return nil
}

func (s *Server) readPlan(ctx context.Context) (admin.Plan, error) {
	p, err := s.dir.Plan(ctx)
	if errors.Is(err, director.ErrNotFound) {
		return admin.Plan{}, fmt.Errorf("there is no plan: waypost rebalance plan makes one: %w", director.ErrNotFound)
	}
	return admin.PlanOf(p.Value), err
}

func (s *Server) getPlan(ctx context.Context, c *call) (any, error) {
	p, err := s.dir.Plan(ctx)
	if err != nil || c.r.URL.Query().Get("full") == "" {
		return s.readPlan(ctx)
	}
	out := admin.PlanOf(p.Value)
	if p.Value.Set != "" {
		sum, err := s.dir.PlanSummary(ctx, p.Value.Set)
		switch {
		case err == nil:
			out.Summary = &sum
		case !errors.Is(err, director.ErrNotFound): // another plan took its place meanwhile
			return nil, err
		}
	}
	moves, err := s.readMoves(ctx, func(m director.Move) bool { return strings.HasPrefix(m.ID, p.Value.ID+".") })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(moves, func(a, b director.Move) int { return a.Created.Compare(b.Created) })
	for _, m := range moves {
		out.OnTheirWay = append(out.OnTheirWay, admin.MoveOf(m))
	}
	return out, nil
}

func (s *Server) listPlanMoves(ctx context.Context, c *call) (any, error) {
	p, err := s.dir.Plan(ctx)
	if err != nil {
		return s.readPlan(ctx)
	}
	out := c.stream()
	sent := 0
	for n := 0; ; n++ {
		part, err := s.dir.PlanEntries(ctx, p.Value.Set, n)
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			break
		}
		for _, e := range part {
			m := admin.PlanMove{User: e.User, From: e.From, To: e.To, Bytes: e.Bytes, Messages: e.Messages, Group: e.Group, Why: e.Why, When: e.When}
			if err := out.send(m, false); err != nil {
				return nil, err
			}
			sent++
		}
	}
	if sent != p.Value.Moves {
		return nil, fmt.Errorf("another plan took the place of %s meanwhile: %w", p.Value.ID, director.ErrConflict)
	}
	return nil, nil
}

func (s *Server) steerPlan(ctx context.Context, c *call) (any, error) {
	verb := director.PlanVerb(c.r.PathValue("verb"))
	switch verb {
	case director.VerbApply, director.VerbPause, director.VerbResume, director.VerbAbort:
	default:
		return nil, fmt.Errorf("%q: say apply, pause, resume or abort: %w", verb, director.ErrNotFound)
	}
	req, err := decode[admin.SteerPlan](c)
	if err != nil {
		return nil, err
	}
	c.object = string(verb) + " " + req.ID
	p, err := s.dir.SteerPlan(ctx, req.ID, verb, time.Now().UTC())
	if errors.Is(err, director.ErrNotFound) {
		return s.readPlan(ctx)
	}
	return admin.PlanOf(p), err
}

func (s *Server) getPlanAuto(ctx context.Context, _ *call) (any, error) {
	a, err := s.dir.PlanAuto(ctx)
	return autoView(a), err
}

func autoView(a director.PlanAuto) admin.PlanAuto {
	return admin.PlanAuto{On: a.On, Policy: a.Policy, EverySeconds: a.EverySeconds, Changed: a.Changed}
}

// minEvery keeps the continuous mode from asking all backends all the time.
const minEvery = 10

func (s *Server) putPlanAuto(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.PlanAuto](c)
	if err != nil {
		return nil, err
	}
	c.object = fmt.Sprintf("continuous mode on=%v", req.On)
	if req.EverySeconds == 0 {
		req.EverySeconds = 600
	}
	if req.EverySeconds < minEvery {
		return nil, fmt.Errorf("every_seconds %d: say %d or more: %w", req.EverySeconds, minEvery, director.ErrInvalid)
	}
	a := director.PlanAuto{On: req.On, Policy: req.Policy.WithDefaults(), EverySeconds: req.EverySeconds, Changed: time.Now().UTC()}
	if a.Policy.Goal == director.GoalFill {
		return nil, fmt.Errorf("the continuous mode levels or drains; filling one backend is a plan of its own: %w", director.ErrInvalid)
	}
	if err := s.checkPolicy(ctx, a.Policy); err != nil {
		return nil, err
	}
	if err := s.dir.PutPlanAuto(ctx, a); err != nil {
		return nil, err
	}
	return autoView(a), nil
}

func (s *Server) getUserTags(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	a, err := s.dir.Account(ctx, u)
	return tagsView(a.Value.Tags), err
}

func tagsView(tags []string) admin.Tags { return admin.Tags{Tags: append([]string{}, tags...)} }

func (s *Server) putUserTags(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	tags, err := decodeTags(c)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u, err)
	}
	err = s.dir.UpdateAccount(ctx, u, func(a *director.Account) error { a.Tags = tags; return nil })
	return tagsView(tags), err
}

func (s *Server) getBackendTags(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	b, err := s.dir.Backend(ctx, id)
	return tagsView(b.Value.Tags), err
}

func (s *Server) putBackendTags(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	tags, err := decodeTags(c)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", id, err)
	}
	err = s.dir.PutBackend(ctx, id, func(b *director.Backend, exists bool) error {
		if !exists {
			return director.ErrNotFound
		}
		b.Tags = tags
		return nil
	})
	return tagsView(tags), err
}

// decodeTags reads tags, in order; none is nil, so that it is not stored.
func decodeTags(c *call) ([]string, error) {
	req, err := decode[admin.Tags](c)
	if err != nil {
		return nil, err
	}
	if len(req.Tags) == 0 {
		return nil, nil
	}
	slices.Sort(req.Tags)
	c.object += " " + strings.Join(req.Tags, ",")
	return req.Tags, director.ValidTags(req.Tags)
}
