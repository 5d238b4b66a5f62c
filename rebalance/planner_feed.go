package rebalance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waypost/director"
	"waypost/rebalance/plan"
)

// feed begins as many moves as the policy lets, in the plan's order, and says why no
// further one begins.
func (p *planner) feed(ctx context.Context, head director.Plan, r *planRun) (waiting string, err error) {
	if err := p.finishGroups(ctx, r); err != nil {
		return "", err
	}
	window, err := director.ParseWindow(head.Policy.Window)
	if err != nil {
		return "", err
	}
	if now := p.now(); !window.Open(now) {
		return "the window " + head.Policy.Window + " opens at " + window.Next(now).Format("2006-01-02 15:04 MST"), nil
	}
	busy := map[director.BackendID]int{}
	for i := range r.begun {
		busy[r.entries[i].From]++
		busy[r.entries[i].To]++
	}
	full := ""
	for i := r.low; i < len(r.entries); {
		from, to := r.groupOf(i)
		i = to
		e := r.entries[from]
		if r.state[from] != entryWaits {
			continue
		}
		if len(r.begun) >= head.Policy.Concurrency {
			return fmt.Sprintf("%d moves are on their way, as many as the plan lets", len(r.begun)), nil
		}
		if n := head.Policy.PerBackend; busy[e.From] >= n || busy[e.To] >= n {
			full = fmt.Sprintf("the next users' backends have %d moves on their way, as many as the plan lets", n)
			continue
		}
		if err := p.begin(ctx, r, from, to, false); err != nil {
			return "", err
		}
		busy[e.From] += to - from
		busy[e.To] += to - from
	}
	return full, nil
}

// begin writes the journals of entries from to to: one user, or a group, whose moves
// begin together whatever the limits, so that its members are apart for as short as
// can be. finishing is for a group that has begun before.
func (p *planner) begin(ctx context.Context, r *planRun, from, to int, finishing bool) error {
	if g := r.entries[from].Group; g != "" && !finishing {
		switch n, err := p.groupSize(ctx, r, g); {
		case err != nil:
			return err
		case n != to-from:
			for j := from; j < to; j++ {
				r.skip(j, fmt.Errorf("sharing group %s has %d members by now, the plan knows %d", g, n, to-from))
			}
			return nil
		}
	}
	for j := from; j < to; j++ {
		if r.state[j] != entryWaits {
			continue
		}
		id := moveID(r.id, j, r.try[j])
		m, err := p.s.dir.PlannedMove(ctx, r.id, r.entries[j], id, finishing || j > from, p.now().UTC())
		switch {
		case err == nil:
			r.state[j], r.begun[j] = entryBegun, id
			if m.Phase.Finished() {
				r.end(j, m)
			}
		case errors.Is(err, director.ErrUnavailable), errors.Is(err, director.ErrUnknown), errors.Is(err, director.ErrPlanStopped), ctx.Err() != nil:
			return err
		case p.adopted(ctx, r, j):
		default:
			r.skip(j, err)
			if to-from > 1 && j == from && !finishing {
				// Nobody of the group has gone: the others stay with this one.
				for k := j + 1; k < to; k++ {
					r.skip(k, fmt.Errorf("it stays with %s of the same sharing group", r.entries[j].User))
				}
				return nil
			}
		}
	}
	return nil
}

// adopted reports whether another owner of the plan has begun the entry meanwhile.
func (p *planner) adopted(ctx context.Context, r *planRun, j int) bool {
	m, err := p.s.dir.Move(ctx, r.entries[j].User)
	return err == nil && r.adopt(j, m.Value)
}

// membersFor is how long a count of all groups' members is gone by.
const membersFor = time.Minute

// groupSize counts a group's members as they are now: one who has joined since the
// plan was made would be left behind.
func (p *planner) groupSize(ctx context.Context, r *planRun, group string) (int, error) {
	if now := p.now(); r.members == nil || now.Sub(r.membersAt) > membersFor {
		g := &gathered{p: p, group: map[director.User]string{}, tags: map[director.User][]string{}, groups: map[string]int{}}
		if err := g.readAccounts(ctx); err != nil {
			return 0, err
		}
		r.members, r.membersAt = g.groups, now
	}
	return r.members[group], nil
}

// finishGroups begins the rest of groups that have begun in part: an owner died, or
// a member's move was undone. It does so whatever the plan's state and window.
func (p *planner) finishGroups(ctx context.Context, r *planRun) error {
	for i := r.low; i < len(r.entries); {
		from, to := r.groupOf(i)
		i = to
		if r.inPart(from, to) {
			if err := p.begin(ctx, r, from, to, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// inPart reports whether a group has begun, and some of it has not.
func (r *planRun) inPart(from, to int) bool {
	waits, gone := false, false
	for j := from; j < to; j++ {
		waits = waits || r.state[j] == entryWaits
		gone = gone || r.state[j] == entryDone || r.state[j] == entryBegun
	}
	return waits && gone
}

// apart reports whether any group is in part.
func (r *planRun) apart() bool {
	for i := r.low; i < len(r.entries); {
		from, to := r.groupOf(i)
		if i = to; r.inPart(from, to) {
			return true
		}
	}
	return false
}

// abort undoes what has not flipped. A group of which a member has is finished: its
// members must not stay apart.
func (p *planner) abort(ctx context.Context, r *planRun) error {
	for i := r.low; i < len(r.entries); {
		from, to := r.groupOf(i)
		i = to
		gone, waits, begun := false, false, []int{}
		for j := from; j < to; j++ {
			switch r.state[j] {
			case entryDone:
				gone = true
			case entryWaits:
				waits = true
			case entryBegun:
				begun = append(begun, j)
			}
		}
		for _, j := range begun {
			flipped, err := p.flipped(ctx, r.begun[j], r.entries[j])
			if err != nil {
				return err
			}
			gone = gone || flipped
		}
		switch {
		case gone && waits && to-from > 1:
			if err := p.begin(ctx, r, from, to, true); err != nil {
				return err
			}
		case gone:
			// The rest of it follows by itself.
		default:
			for _, j := range begun {
				if err := p.cancel(ctx, r.begun[j], r.entries[j]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (p *planner) flipped(ctx context.Context, id string, e director.PlanEntry) (bool, error) {
	mv, rec, err := p.s.read(ctx, e.User)
	if errors.Is(err, director.ErrNotFound) {
		return false, nil
	}
	return err == nil && mv.ID == id && (mv.Phase == director.PhaseDone || Next(mv, rec) == StepFinish), err
}

// cancel ends a move that has not flipped, by the same transaction as the mover's
// own: whoever executes it finds the journal closed, and obeys. One that flips first
// stays so.
func (p *planner) cancel(ctx context.Context, id string, e director.PlanEntry) error {
	mv, rec, err := p.s.read(ctx, e.User)
	if err != nil || mv.ID != id {
		return ignoreGone(err)
	}
	switch Next(mv, rec) {
	case StepNone, StepFinish:
		return nil
	}
	err = p.s.undone(ctx, mv, rec, "the plan was aborted")
	if errors.Is(err, director.ErrConflict) {
		return nil // the next round looks again
	}
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if errors.Is(err, director.ErrNotFound) {
		return nil
	}
	return err
}

// tellEvery is how often the head gets new figures; what changes often does not
// belong into the directory.
const tellEvery = 2 * time.Second

// tell writes how far the plan is, and ends it when nothing is left to do.
func (p *planner) tell(ctx context.Context, head director.Plan, r *planRun) error {
	r.settleGroups()
	now := p.now().UTC()
	book := func(h *director.Plan) {
		h.Done, h.Undone, h.Skipped, h.DoneBytes = r.total.Done, r.total.Undone, r.total.Skipped, r.total.Bytes
		h.Low, h.LowTally, h.Failures, h.Owner = r.low, r.tally, r.failures, p.s.cfg.ID
		h.Waiting, h.ETA, h.Updated = r.waiting, p.eta(*h, r), now
	}
	if len(r.begun) == 0 && (head.State == director.PlanAborting && !r.apart() || head.State == director.PlanRunning && r.low == len(r.entries)) {
		ended, err := p.s.dir.PlanEnded(ctx, r.id, now, func(h *director.Plan) { book(h); h.ETA = time.Time{} })
		if err == nil {
			p.ended(ended)
			p.running = nil
			p.poke()
		}
		return err
	}
	same := head.Done == r.total.Done && head.Undone == r.total.Undone && head.Skipped == r.total.Skipped && head.Low == r.low
	if head.Owner == p.s.cfg.ID && sameWait(head.Waiting, r.waiting) && (same || now.Sub(r.lastTold) < tellEvery) {
		return nil
	}
	r.lastTold = now
	_, err := p.s.dir.AdvancePlan(ctx, r.id, func(h *director.Plan) error {
		if h.State.Ended() {
			return director.ErrConflict
		}
		book(h)
		return nil
	})
	return err
}

// sameWait leaves a count that changes from round to round out.
func sameWait(a, b string) bool {
	return strings.TrimLeft(a, "0123456789") == strings.TrimLeft(b, "0123456789")
}

// eta expects what is left to go as fast as what has gone, or, while nothing has, as
// the policy says.
func (p *planner) eta(h director.Plan, r *planRun) time.Time {
	if h.State != director.PlanRunning {
		return time.Time{}
	}
	left := len(r.entries) - r.total.Done - r.total.Undone - r.total.Skipped
	bytes := float64(max(0, h.Bytes-r.total.Bytes))
	took := bytes/float64(h.Policy.BytesPerSecond) + 2*float64(left)/float64(h.Policy.Concurrency)
	if gone := r.total.Done - r.atStart.Done; gone >= 3 && r.worked > 0 {
		took = r.worked.Seconds() * float64(left) / float64(gone)
		if b := r.total.Bytes - r.atStart.Bytes; b > 0 && bytes > 0 {
			took = r.worked.Seconds() * bytes / float64(b)
		}
	}
	now := p.now()
	work := time.Duration(took * float64(time.Second))
	return now.Add(work + plan.Waits(h.Policy.Window, now, work)).UTC().Truncate(time.Second)
}
