package rebalance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"waypost/director"
)

// entryState is what a plan's owner knows of an entry.
type entryState uint8

const (
	entryWaits entryState = iota
	// entryBegun: its move is on its way, or is taken to be until it is looked at.
	entryBegun
	entryDone
	entryUndone
	entrySkipped
)

func (s entryState) ended() bool { return s >= entryDone }

// groupTries is how often the move of a group's member is begun whose others have
// gone: they must not stay apart.
const groupTries = 3

// planRun is the owner's memory of the plan under way. All of it can be found out
// again: from the head, the entries, and the moves' journals and receipts.
type planRun struct {
	id, set string
	entries []director.PlanEntry
	state   []entryState
	try     []uint8
	// low: all before it have ended; tally counts those, and total all.
	low          int
	tally, total director.PlanTally
	failures     []director.PlanFailure
	begun        map[int]string // the moves' ids
	// known: what an earlier owner had begun of groups has been found.
	known bool
	// rate is measured over the time in which moves were on their way.
	worked   time.Duration
	lastLook time.Time
	atStart  director.PlanTally
	lastTold time.Time
	waiting  string
	// members counts groups as they are; see planner.sameGroup.
	members   map[string]int
	membersAt time.Time
}

// moveID names the move of an entry. Movers and receipts carry it, so that whoever
// takes the plan over knows the plan's moves from others.
func moveID(planID string, entry int, try uint8) string {
	return planID + "." + strconv.Itoa(entry) + "." + strconv.Itoa(int(try))
}

// carryOut makes one round of a plan that was approved.
func (p *planner) carryOut(ctx context.Context, head director.Plan) error {
	if p.running == nil || p.running.set != head.Set {
		r, err := p.load(ctx, head)
		if err != nil {
			return err
		}
		p.running = r
	}
	r := p.running
	if err := p.look(ctx, r); err != nil {
		return err
	}
	var err error
	switch head.State {
	case director.PlanRunning:
		r.waiting, err = p.feed(ctx, head, r)
	case director.PlanPaused:
		r.waiting, err = "paused by the operator", p.finishGroups(ctx, r)
	case director.PlanAborting:
		r.waiting, err = "undoing what has not flipped", p.abort(ctx, r)
	}
	if err != nil && !errors.Is(err, director.ErrPlanStopped) {
		return err
	}
	p.metrics.pending.Set(float64(len(r.entries) - r.total.Done - r.total.Undone - r.total.Skipped))
	return errors.Join(err, p.tell(ctx, head, r))
}

// load reads a plan, from its first entry that has not ended.
func (p *planner) load(ctx context.Context, head director.Plan) (*planRun, error) {
	r := &planRun{id: head.ID, set: head.Set, low: head.Low, tally: head.LowTally, total: head.LowTally, atStart: head.LowTally,
		failures: head.Failures, begun: map[int]string{}, lastLook: p.now()}
	for n := 0; ; n++ {
		part, err := p.s.dir.PlanEntries(ctx, head.Set, n)
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			break
		}
		r.entries = append(r.entries, part...)
	}
	if len(r.entries) != head.Moves {
		return nil, fmt.Errorf("plan %s has %d of %d entries: %w", head.ID, len(r.entries), head.Moves, director.ErrUnavailable)
	}
	r.state, r.try = make([]entryState, len(r.entries)), make([]uint8, len(r.entries))
	for i := range r.low {
		r.state[i] = entryDone // counted in the tally already, one way or the other
	}
	return r, nil
}

// look finds out which moves have ended.
func (p *planner) look(ctx context.Context, r *planRun) error {
	now := p.now()
	if len(r.begun) > 0 {
		r.worked += now.Sub(r.lastLook)
	}
	r.lastLook = now
	if !r.known {
		if err := p.recall(ctx, r); err != nil {
			return err
		}
	}
	// Also while none is known: a former owner may not know yet that it is none.
	on, err := p.onTheirWay(ctx, r)
	if err != nil {
		return err
	}
	for i, id := range r.begun {
		if _, is := on[i]; is {
			continue
		}
		m, err := p.s.dir.Move(ctx, r.entries[i].User)
		switch {
		case err != nil && !errors.Is(err, director.ErrNotFound):
			return err
		case err == nil && m.Value.ID == id && !m.Value.Phase.Finished():
			continue
		case err == nil && m.Value.ID == id:
			r.end(i, m.Value)
		case err == nil && r.adopt(i, m.Value):
			// Another owner has begun it again.
		default:
			// Another move has taken the receipt's place, or the user was deleted.
			r.replaced(i, m.Value)
		}
	}
	r.settleGroups()
	return nil
}

// onTheirWay lists the plan's unfinished journals, by entry; it learns those that an
// earlier owner began.
func (p *planner) onTheirWay(ctx context.Context, r *planRun) (map[int]director.Move, error) {
	out := map[int]director.Move{}
	_, err := p.s.dir.Store().List(ctx, director.PrefixMove, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		if err != nil || m.Phase.Finished() {
			return err
		}
		if i, try, mine := r.entryOf(m); mine {
			out[i] = m
			if r.state[i] == entryWaits || r.begun[i] != "" && try > r.try[i] {
				r.state[i], r.try[i], r.begun[i] = entryBegun, try, m.ID
			}
		}
		return nil
	})
	return out, err
}

func (r *planRun) entryOf(m director.Move) (entry int, try uint8, mine bool) {
	rest, ok := strings.CutPrefix(m.ID, r.id+".")
	a, b, ok2 := strings.Cut(rest, ".")
	i, err := strconv.Atoi(a)
	t, err2 := strconv.ParseUint(b, 10, 8)
	if !ok || !ok2 || err != nil || err2 != nil || i < 0 || i >= len(r.entries) || r.entries[i].User != m.User {
		return 0, 0, false
	}
	return i, uint8(t), true
}

// recall finds what an earlier owner has begun: all that is on its way, and of
// groups what has ended, since the rest of a group that has gone must follow.
func (p *planner) recall(ctx context.Context, r *planRun) error {
	if _, err := p.onTheirWay(ctx, r); err != nil {
		return err
	}
	for i := r.low; i < len(r.entries); i++ {
		if r.entries[i].Group == "" || r.state[i] != entryWaits {
			continue
		}
		m, err := p.s.dir.Move(ctx, r.entries[i].User)
		switch {
		case errors.Is(err, director.ErrNotFound):
		case err != nil:
			return err
		default:
			r.adopt(i, m.Value)
		}
	}
	r.known = true
	return nil
}

// adopt takes a move that another owner of the plan began for an entry as the
// entry's own.
func (r *planRun) adopt(i int, m director.Move) bool {
	at, try, mine := r.entryOf(m)
	if !mine || at != i {
		return false
	}
	r.state[i], r.try[i], r.begun[i] = entryBegun, try, m.ID
	if m.Phase.Finished() {
		r.end(i, m)
	}
	return true
}

// end books an entry whose move has ended.
func (r *planRun) end(i int, m director.Move) {
	delete(r.begun, i)
	e := r.entries[i]
	if m.Phase == director.PhaseDone {
		r.state[i] = entryDone
		r.total.Done++
		r.total.Bytes += e.Bytes
		return
	}
	r.state[i] = entryUndone
	r.total.Undone++
	r.fail(e.User, m.Reason)
}

func (r *planRun) replaced(i int, m director.Move) {
	e := r.entries[i]
	if m.User == e.User && m.Source == e.To {
		m.Phase = director.PhaseDone // it got there, and has moved on
	} else {
		m.Phase, m.Reason = director.PhaseUndone, "its receipt is gone: the user was deleted, or moved by somebody else"
	}
	r.end(i, m)
}

func (r *planRun) skip(i int, why error) {
	r.state[i] = entrySkipped
	r.total.Skipped++
	r.fail(r.entries[i].User, "not begun: "+why.Error())
}

func (r *planRun) fail(u director.User, reason string) {
	r.failures = append(r.failures, director.PlanFailure{User: u, Reason: reason})
	if over := len(r.failures) - director.MaxPlanFailures; over > 0 {
		r.failures = r.failures[over:]
	}
}

// groupOf gives the range of a group's entries.
func (r *planRun) groupOf(i int) (from, to int) {
	g := r.entries[i].Group
	if g == "" {
		return i, i + 1
	}
	for from = i; from > 0 && r.entries[from-1].Group == g; from-- {
	}
	for to = i + 1; to < len(r.entries) && r.entries[to].Group == g; to++ {
	}
	return from, to
}

// settleGroups has members begin again whose move was undone while others of their
// group have gone.
func (r *planRun) settleGroups() {
	for i := r.low; i < len(r.entries); {
		from, to := r.groupOf(i)
		i = to
		if to-from < 2 {
			continue
		}
		gone := false
		for j := from; j < to; j++ {
			gone = gone || r.state[j] == entryDone
		}
		for j := from; j < to && gone; j++ {
			if r.state[j] == entryUndone && r.try[j]+1 < groupTries {
				r.state[j] = entryWaits
				r.try[j]++
				r.total.Undone--
			}
		}
	}
	r.advance()
}

// advance moves low on. A group is passed as a whole.
func (r *planRun) advance() {
	for r.low < len(r.entries) {
		from, to := r.groupOf(r.low)
		for j := from; j < to; j++ {
			if !r.state[j].ended() {
				return
			}
		}
		for ; r.low < to; r.low++ {
			switch r.state[r.low] {
			case entryDone:
				r.tally.Done++
				r.tally.Bytes += r.entries[r.low].Bytes
			case entryUndone:
				r.tally.Undone++
			default:
				r.tally.Skipped++
			}
		}
	}
}
