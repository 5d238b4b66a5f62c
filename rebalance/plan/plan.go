// Package plan decides which users should live where: from what each backend
// holds and a policy it makes the list of moves that brings every backend within a
// band around its share, empties those that drain, takes users to where their
// tags let them live, and copies little for it.
//
// It is pure and deterministic: no I/O, no clock, no goroutines; the same input
// gives the same plan. Only the users of one backend are in memory at a time, and
// only of those that give users away; so ten million fit, and are planned in
// seconds.
//
// What it promises of a plan, whatever the order or concurrency of its moves:
//   - No backend is filled beyond its capacity less the headroom: what a backend
//     gives away is not counted as free, since it stays in the trash for days.
//   - A user goes only to an active backend of positive weight that has all of the
//     user's tags; the members of a sharing group go together or stay together.
//   - A plan begins only where a backend is outside the band, and ends at half of
//     it; users moved of late stay (but for a drain). So the next plan of the same
//     cluster is empty, and nobody is carried to and fro.
//   - Quiet users move first, hot ones then, and those at work last.
//
// Only rebalance calls it.
package plan

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"waypost/director"
)

// Backend is what is known of one backend.
type Backend struct {
	ID    director.BackendID
	State director.BackendState
	// Away: it does not answer now, so that nothing goes to or from it.
	Away   bool
	Weight int
	// Capacity is what may be filled with mail, in bytes; 0: not known, no limit.
	Capacity int64
	Tags     []string
	Use      director.PlanUse
	// Incoming is what moves on their way will add to Use.
	Incoming director.PlanUse
	// Misplaced: some of its users have tags that it has not.
	Misplaced bool
}

// User is what is known of one user.
type User struct {
	Name     director.User
	Bytes    int64
	Messages int64
	Load     float64
	// Active: at work now.
	Active bool
	// Held: moved of late. Moving: on the way already, left alone by all plans.
	Held, Moving bool
	Group        string
	Tags         []string
}

// Input is all a plan is made from.
type Input struct {
	Policy   director.PlanPolicy
	Backends []Backend
	// Users gives the users of one backend, in any order; an error ends the plan.
	Users func(director.BackendID) iter.Seq2[User, error]
	// Groups counts the members of each sharing group in the whole cluster.
	Groups map[string]int
	// Now is the mover's local time: it only serves the estimate.
	Now time.Time
}

// Plan is the outcome. Entries are in the order in which they should begin.
type Plan struct {
	Entries []director.PlanEntry
	Summary director.PlanSummary
	Bytes   int64
	// Reason says why there are no entries.
	Reason string
}

// node is a backend while a plan is made.
type node struct {
	Backend
	after director.PlanUse
	// filled is what its disk may have to hold on the way: nothing is taken off.
	filled  int64
	share   float64
	takes   bool // may get users
	gives   bool // may be relieved
	shed    float64
	in, out int
}

// maker is the state of one Make.
type maker struct {
	in    Input
	p     director.PlanPolicy
	nodes []*node
	byID  map[director.BackendID]*node
	// queue has those that take, the neediest first.
	queue needQueue
	units []placed
	// users and spare are buffers for one backend's users at a time.
	users []User
	spare []unit
	// noRoom, noTag, apart count users that had to stay.
	noRoom, noTag, apart, cut int
}

// placed is a unit with its place.
type placed struct {
	unit
	from, to *node
	why      string
	rank     int // how many units of the same source come before it
}

// Make makes the plan. The policy must have its defaults, and be valid.
func Make(in Input) (Plan, error) {
	if err := in.Policy.Validate(); err != nil {
		return Plan{}, err
	}
	m := &maker{in: in, p: in.Policy, byID: map[director.BackendID]*node{}}
	if err := m.setUp(); err != nil {
		return Plan{}, err
	}
	before := m.imbalance()
	m.decideSheds()
	m.queue = newNeedQueue(m)
	for _, n := range m.sources() {
		if err := m.relieve(n); err != nil {
			return Plan{}, err
		}
	}
	m.order()
	reason := m.worthless(before)
	if reason != "" {
		m.undo()
	}
	if m.limit(); reason == "" && len(m.units) == 0 {
		reason = "nobody fits into the limits on bytes and moves"
	}
	out := m.result(before)
	out.Reason = reason
	return out, nil
}

// Calm reports, from the backends alone, that there is nothing to level and nothing
// to empty: no users need to be read. Users whose tags do not let them live where they
// do it cannot see.
func Calm(p director.PlanPolicy, backends []Backend) (bool, error) {
	m := &maker{in: Input{Policy: p, Backends: backends}, p: p, byID: map[director.BackendID]*node{}}
	if err := m.setUp(); err != nil {
		return false, err
	}
	for _, n := range m.nodes {
		if m.drains(n) && n.after.Users > 0 {
			return false, nil
		}
	}
	return p.Goal == director.GoalDrain || m.imbalance() <= p.Band, nil
}

func (m *maker) setUp() error {
	for _, b := range m.in.Backends {
		n := &node{Backend: b, after: sum(b.Use, b.Incoming), filled: b.Use.Bytes + b.Incoming.Bytes}
		n.takes = b.State == director.BackendActive && !b.Away && b.Weight > 0
		n.gives = !b.Away && b.State != director.BackendOffline
		m.nodes = append(m.nodes, n)
		m.byID[b.ID] = n
	}
	slices.SortFunc(m.nodes, func(a, b *node) int { return cmp.Compare(a.ID, b.ID) })
	if f := m.p.Fill; f != "" {
		n := m.byID[f]
		if n == nil || !n.takes {
			return fmt.Errorf("plan: backend %s cannot be filled: it is not active, alive and of positive weight: %w", f, director.ErrIllegal)
		}
	}
	m.setShares()
	return nil
}

func sum(a, b director.PlanUse) director.PlanUse {
	return director.PlanUse{Users: a.Users + b.Users, Bytes: a.Bytes + b.Bytes, Messages: a.Messages + b.Messages, Load: a.Load + b.Load}
}

// measure is what the policy levels.
func (m *maker) measure(u director.PlanUse) float64 {
	switch m.p.By {
	case director.ByUsers:
		return float64(u.Users)
	case director.ByMessages:
		return float64(u.Messages)
	case director.ByLoad:
		return u.Load
	}
	return float64(u.Bytes)
}

// room is what may still be put onto a disk.
func (m *maker) room(n *node) int64 {
	if n.Capacity == 0 {
		return math.MaxInt64
	}
	return int64(float64(n.Capacity)*(1-m.p.Headroom)) - n.filled
}

// setShares divides what is there among those that take users, and those that are
// away but will again: by weight, for bytes by weight times capacity. Nobody's share
// of bytes is above what may be filled: the rest is divided among the others.
func (m *maker) setShares() {
	var open []*node
	total := 0.0
	for _, n := range m.nodes {
		if n.State == director.BackendActive && n.Weight > 0 && !n.Away {
			open = append(open, n)
		}
		if n.gives {
			total += m.measure(n.after)
		}
	}
	factor := func(n *node) float64 {
		if m.p.By == director.ByBytes {
			return float64(n.Weight) * m.capacityOf(n, open)
		}
		return float64(n.Weight)
	}
	for len(open) > 0 {
		sum := 0.0
		for _, n := range open {
			sum += factor(n)
		}
		full := slices.DeleteFunc(slices.Clone(open), func(n *node) bool {
			n.share = total * factor(n) / sum
			return m.p.By != director.ByBytes || n.Capacity == 0 || n.share <= float64(n.Capacity)*(1-m.p.Headroom)
		})
		if len(full) == 0 || len(full) == len(open) {
			return
		}
		for _, n := range full {
			n.share = float64(n.Capacity) * (1 - m.p.Headroom)
			total -= n.share
		}
		open = slices.DeleteFunc(open, func(n *node) bool { return slices.Contains(full, n) })
	}
}

// capacityOf takes the mean for a backend that has not told its capacity.
func (m *maker) capacityOf(n *node, among []*node) float64 {
	if n.Capacity > 0 {
		return float64(n.Capacity)
	}
	known, sum := 0, 0.0
	for _, x := range among {
		if x.Capacity > 0 {
			known++
			sum += float64(x.Capacity)
		}
	}
	if known == 0 {
		return 1
	}
	return sum / float64(known)
}

// distance is how far a backend is from its share: a part of it, 0.1 a tenth over.
func (m *maker) distance(n *node) float64 {
	have := m.measure(n.after)
	if n.share <= 0 {
		if have > 0 {
			return 1
		}
		return 0
	}
	return have/n.share - 1
}

// imbalance is the largest distance among those that take users.
func (m *maker) imbalance() float64 {
	worst := 0.0
	for _, n := range m.nodes {
		if n.takes {
			worst = max(worst, math.Abs(m.distance(n)))
		}
	}
	return worst
}

// decideSheds says how much each backend gives away. Those above the band go down
// to half of it; if others lack more than that, whoever is above the share gives
// of it, too.
func (m *maker) decideSheds() {
	if m.p.Goal == director.GoalDrain {
		return
	}
	half := m.p.Band / 2
	over, lack, spare := 0.0, 0.0, 0.0
	for _, n := range m.nodes {
		if !n.takes || n.share <= 0 {
			continue
		}
		have := m.measure(n.after)
		switch d := m.distance(n); {
		case d > m.p.Band && m.p.Goal == director.GoalLevel:
			n.shed = have - n.share*(1+half)
			over += n.shed
			spare += n.share * half
		case d > 0:
			spare += have - n.share
		case d < -m.p.Band && (m.p.Goal == director.GoalLevel || n.ID == m.p.Fill):
			lack += n.share*(1-half) - have
		}
	}
	// What drains comes to those that lack as well.
	for _, n := range m.nodes {
		if m.drains(n) {
			lack -= m.measure(n.after)
		}
	}
	if lack <= over || spare <= 0 {
		return
	}
	part := min(1, (lack-over)/spare)
	for _, n := range m.nodes {
		if n.takes && n.share > 0 && m.distance(n) > 0 && n.ID != m.p.Fill {
			n.shed += part * (m.measure(n.after) - n.shed - n.share)
		}
	}
}

func (m *maker) drains(n *node) bool {
	return n.State == director.BackendDraining && !n.Away && m.p.Goal != director.GoalFill
}

// sources are those that give users away: first those that drain, then those
// farthest above their share.
func (m *maker) sources() []*node {
	var out []*node
	for _, n := range m.nodes {
		if n.gives && (m.drains(n) || n.shed > 0 || n.Misplaced && m.p.Goal == director.GoalLevel) {
			out = append(out, n)
		}
	}
	first := func(n *node) int {
		if m.drains(n) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b *node) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(m.distance(b), m.distance(a)))
	})
	return out
}

// worthless says why a plan is not worth its moves: it only levels, and gains
// little.
func (m *maker) worthless(before float64) string {
	for _, u := range m.units {
		if u.why == director.WhyDrain || u.why == director.WhyTags {
			return ""
		}
	}
	switch gain := before - m.imbalance(); {
	case m.p.Goal == director.GoalDrain && len(m.units) == 0:
		return "no backend that drains has users who can be moved now"
	case m.p.Goal == director.GoalFill && len(m.units) == 0 && m.distance(m.byID[m.p.Fill]) >= -m.p.Band:
		return fmt.Sprintf("backend %s is within %.1f %% of its share, or above it", m.p.Fill, m.p.Band*100)
	case before <= m.p.Band && len(m.units) == 0:
		return fmt.Sprintf("every backend is within %.1f %% of its share", m.p.Band*100)
	case len(m.units) == 0:
		return "nobody can be moved now that would bring a backend nearer to its share"
	case m.p.Goal == director.GoalLevel && m.totalGain() < m.p.MinGain && gain < m.p.MinGain:
		return fmt.Sprintf("levelling would gain %.1f %% of a share, less than the %.1f %% that it has to", m.totalGain()*100, m.p.MinGain*100)
	}
	return ""
}

// totalGain is the largest part of its share by which the plan brings a backend
// nearer to it.
func (m *maker) totalGain() float64 {
	best := 0.0
	for _, n := range m.nodes {
		if n.takes && n.share > 0 {
			was := math.Abs(m.measure(sum(n.Use, n.Incoming))/n.share - 1)
			best = max(best, was-math.Abs(m.distance(n)))
		}
	}
	return best
}

// undo takes all units back.
func (m *maker) undo() {
	for _, u := range m.units {
		m.shift(u, -1)
	}
	m.units = nil
}
