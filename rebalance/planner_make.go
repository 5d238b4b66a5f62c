package rebalance

import (
	"context"
	"errors"
	"time"

	"waypost/director"
	"waypost/internal/telemetry"
	"waypost/rebalance/plan"
)

// compute makes a plan by a policy.
func (p *planner) compute(ctx context.Context, pol director.PlanPolicy) (plan.Plan, error) {
	g, err := p.gather(ctx, pol)
	if err != nil {
		return plan.Plan{}, err
	}
	start := time.Now()
	out, err := plan.Make(plan.Input{Policy: pol, Backends: g.backends, Users: g.users(ctx), Groups: g.groups, Now: p.now()})
	if err != nil {
		return out, err
	}
	p.metrics.imbalance.Set(out.Summary.ImbalanceBefore)
	p.s.log.Info("plan computed", "moves", len(out.Entries), "bytes", out.Bytes, "imbalance", out.Summary.ImbalanceBefore,
		"imbalance_after", out.Summary.ImbalanceAfter, "took", time.Since(start), "reason", out.Reason)
	return out, nil
}

// make answers a request.
func (p *planner) make(ctx context.Context, head director.Plan) error {
	out, err := p.compute(ctx, head.Policy)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, director.ErrUnavailable):
		return err // tried again when the directory is back
	case err != nil:
		failed, err := p.s.dir.PlanFail(ctx, head.ID, err.Error(), p.now().UTC())
		if err == nil {
			p.ended(failed)
		}
		return err
	}
	return p.publish(ctx, head.ID, out)
}

// publish writes a plan's entries under a name of their own, and then names them in
// the head; so no other maker of the same plan can mix its entries in.
func (p *planner) publish(ctx context.Context, id string, out plan.Plan) error {
	set := id + "." + telemetry.NewID()
	if err := p.s.dir.PutPlanEntries(ctx, set, out.Entries, out.Summary); err != nil {
		return err
	}
	head, err := p.s.dir.PlanMade(ctx, id, set, len(out.Entries), out.Bytes, out.Reason, p.now().UTC())
	if err != nil {
		return err
	}
	p.metrics.plans.WithLabelValues("made").Inc()
	if head.State.Ended() {
		p.ended(head)
	}
	p.poke()
	return p.s.dir.DropPlanSets(ctx, head.Set)
}

// proposalRests is how long an operator's proposal keeps the continuous mode from
// putting its own plan in its place.
const proposalRests = time.Hour

// fullLook is how many looks of the continuous mode go by the backends alone, while
// these are calm, before one reads accounts and moves: of ten million users that
// takes a while, and only tags could make a difference.
const fullLook = 12

// calm reports that the backends' totals give no reason to move anybody.
func (p *planner) calm(ctx context.Context, pol director.PlanPolicy) (bool, error) {
	g := &gathered{p: p, blind: map[director.BackendID]bool{}, asOf: map[director.BackendID]time.Time{}}
	if err := g.readBackends(ctx); err != nil || len(g.blind) > 0 {
		return false, err
	}
	return plan.Calm(pol, g.backends)
}

// auto is the continuous mode: while nothing is under way it looks now and then, and
// asks for a plan only when there is something worth moving.
func (p *planner) auto(ctx context.Context, head director.Plan) error {
	a, err := p.s.dir.PlanAuto(ctx)
	if err != nil || !a.On {
		p.lastAuto, p.lastFull = time.Time{}, time.Time{}
		return err
	}
	now := p.now()
	every := time.Duration(a.EverySeconds) * time.Second
	if every <= 0 {
		every = 10 * time.Minute
	}
	window, err := director.ParseWindow(a.Policy.Window)
	if err != nil {
		return err
	}
	if now.Sub(p.lastAuto) < every || !window.Open(now) || head.State == director.PlanProposed && now.Sub(head.Made) < proposalRests {
		return nil
	}
	p.lastAuto = now
	if now.Sub(p.lastFull) < fullLook*every {
		if calm, err := p.calm(ctx, a.Policy); err != nil || calm {
			return err
		}
	}
	p.lastFull = now
	out, err := p.compute(ctx, a.Policy)
	if err != nil || len(out.Entries) == 0 {
		if err != nil && !errors.Is(err, director.ErrUnavailable) && ctx.Err() == nil {
			p.s.log.Warn("no plan in the continuous mode", "error", err)
			return nil
		}
		return err
	}
	id := telemetry.NewID()
	err = p.s.dir.RequestPlan(ctx, director.Plan{ID: id, Apply: true, Auto: true, Policy: a.Policy, Created: now.UTC()})
	if err != nil {
		return err
	}
	return p.publish(ctx, id, out)
}
