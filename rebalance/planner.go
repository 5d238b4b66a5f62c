package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
)

// planner makes plans and carries them out. All movers have one; that of the mover
// that holds plan/owner is at work, and when it dies another goes on within the
// lease's time. Being owner is economy: what a plan has begun stands in its moves'
// journals and receipts, and a move begins in one transaction with the plan's
// state (Directory.PlannedMove), so that two owners at once begin nothing twice.
//
// A planner only writes plans, and journals of moves; the mover's own loop, here or
// elsewhere, executes them like any others.
type planner struct {
	s   *Server
	now func() time.Time
	// tick is how often an owner looks although nothing was heard (R11).
	tick time.Duration
	// wake asks for a look now.
	wake chan struct{}

	metrics plannerMetrics
	// What follows belongs to the loop of run.
	running  *planRun
	lastAuto time.Time
	lastFull time.Time
}

type plannerMetrics struct {
	owner, pending, imbalance prometheus.Gauge
	plans                     *prometheus.CounterVec
}

func newPlanner(s *Server, reg prometheus.Registerer) (*planner, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "waypost", Subsystem: "rebalance", Name: name, Help: help})
	}
	p := &planner{s: s, now: time.Now, tick: time.Second, wake: make(chan struct{}, 1), metrics: plannerMetrics{
		owner:     gauge("plan_owner", "1 while this mover makes plans and carries them out."),
		pending:   gauge("plan_moves_pending", "Moves of the plan under way that have not ended; told by its owner."),
		imbalance: gauge("plan_imbalance_ratio", "The largest distance of a backend from its share when a plan was last made, as a part of the share."),
		plans: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "waypost", Subsystem: "rebalance", Name: "plans_total",
			Help: "Plans that this mover made or ended, by result: made, failed, done, aborted."}, []string{"result"}),
	}}
	for _, c := range []prometheus.Collector{p.metrics.owner, p.metrics.pending, p.metrics.imbalance, p.metrics.plans} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("rebalance %s: %w", s.cfg.ID, err)
		}
	}
	for _, result := range []string{"made", "failed", "done", "aborted"} {
		p.metrics.plans.WithLabelValues(result) // a series that begins with the event is seen too late
	}
	return p, nil
}

// run works until ctx ends.
func (p *planner) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.own(ctx); err != nil && ctx.Err() == nil {
			p.s.log.Warn("plans wait for the directory", "error", err)
			pause(ctx, jitter(time.Second))
		}
	}
}

// own waits to become the owner, and leads while it is.
func (p *planner) own(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease, err := p.s.dir.Store().Grant(ctx, p.s.cfg.LeaseTTL)
	if err != nil {
		return err
	}
	watched := make(chan struct{}, 2)
	go func() { defer func() { watched <- struct{}{} }(); p.watch(ctx, director.PrefixPlan) }()
	go func() { defer func() { watched <- struct{}{} }(); p.watch(ctx, director.PrefixReceipt) }()
	defer func() {
		cancel()
		<-watched
		<-watched
		p.metrics.owner.Set(0)
		p.metrics.pending.Set(0)
		p.running = nil
		// A clean stop lets another take over at once.
		end, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer done()
		if err := lease.Revoke(end); err != nil {
			p.s.log.Warn("the plans' lease was not given back; it will expire", "error", err)
		}
	}()
	mine := false
	for {
		if !mine {
			if mine, err = p.s.dir.ClaimPlans(ctx, p.s.cfg.ID, lease.ID()); err != nil {
				return err
			}
			if mine {
				p.s.log.Info("this mover makes plans and carries them out")
				p.metrics.owner.Set(1)
			}
		}
		if mine {
			if err := p.lead(ctx); err != nil {
				return err
			}
		}
		t := time.NewTimer(jitter(p.tick))
		select {
		case <-ctx.Done():
		case <-lease.Done():
			err = errors.New("the plans' lease was lost")
		case <-p.wake:
		case <-t.C:
		}
		t.Stop()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// watch wakes the loop when a plan is changed, its owner is lost, or a move ends.
func (p *planner) watch(ctx context.Context, prefix string) {
	store := p.s.dir.Store()
	for ctx.Err() == nil {
		// The owner's key alone: only the revision counts.
		rev, err := store.List(ctx, director.KeyPlanOwner, func(director.Entry) error { return nil })
		if err != nil {
			pause(ctx, jitter(time.Second))
			continue
		}
		for batch := range store.Watch(ctx, prefix, rev+1) {
			if len(batch.Changes) == 0 {
				continue
			}
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		pause(ctx, jitter(time.Second)) // it ended: compacted, or the store is away
	}
}

// lead does what the plan's state asks for, once. An error is of the directory.
func (p *planner) lead(ctx context.Context) error {
	head, err := p.s.dir.Plan(ctx)
	if err != nil && !errors.Is(err, director.ErrNotFound) {
		return err
	}
	plan := head.Value
	if p.running != nil && p.running.id != plan.ID {
		p.running = nil
	}
	switch plan.State {
	case director.PlanRequested:
		err = p.make(ctx, plan)
	case director.PlanRunning, director.PlanPaused, director.PlanAborting:
		err = p.carryOut(ctx, plan)
	default:
		p.running = nil
		p.metrics.pending.Set(0)
		err = p.auto(ctx, plan)
	}
	if errors.Is(err, director.ErrConflict) || errors.Is(err, director.ErrPlanStopped) || errors.Is(err, director.ErrIllegal) {
		p.poke() // somebody steered it meanwhile: look again
		return nil
	}
	return err
}

func (p *planner) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// ended counts and logs a plan that has ended.
func (p *planner) ended(plan director.Plan) {
	p.metrics.plans.WithLabelValues(string(plan.State)).Inc()
	p.s.log.Info("plan ended", "plan", plan.ID, "state", string(plan.State), "moves", plan.Moves, "done", plan.Done,
		"undone", plan.Undone, "skipped", plan.Skipped, "bytes", plan.DoneBytes, "reason", plan.Reason)
}
