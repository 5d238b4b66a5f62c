package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"waypost/director"
)

// unit is what moves together: a user, or a whole sharing group.
type unit struct {
	users []User
	use   director.PlanUse
	tags  []string
	class int // 0 quiet, 1 hot, 2 at work
	held  bool
	stuck bool // it cannot move: one of it is on the way, or lives elsewhere
}

// hotTimes is how many times the mean load of its home makes a user hot.
const hotTimes = 8

// unitsOf reads a backend's users and joins groups.
func (m *maker) unitsOf(n *node) ([]unit, error) {
	mean := 0.0
	if n.Use.Users > 0 {
		mean = n.Use.Load / float64(n.Use.Users)
	}
	all := m.users[:0]
	for u, err := range m.in.Users(n.ID) {
		if err != nil {
			return nil, fmt.Errorf("plan: users of %s: %w", n.ID, err)
		}
		all = append(all, u)
	}
	m.users = all
	units := m.spare[:0]
	groups := map[string]int{}
	for i, u := range all {
		if u.Group == "" {
			one := unit{users: all[i : i+1 : i+1]}
			one.count(u, mean)
			units = append(units, one)
			continue
		}
		at, known := groups[u.Group]
		if !known {
			at = len(units)
			groups[u.Group] = at
			units = append(units, unit{})
		}
		units[at].users = append(units[at].users, u)
		units[at].count(u, mean)
	}
	m.spare = units
	for group, i := range groups {
		x := &units[i]
		if len(x.users) < m.in.Groups[group] {
			x.stuck = true
			m.apart += len(x.users)
		}
		slices.SortFunc(x.users, func(a, b User) int { return cmp.Compare(a.Name, b.Name) })
	}
	return units, nil
}

// count adds what one of its users holds.
func (x *unit) count(u User, meanLoad float64) {
	x.use = sum(x.use, director.PlanUse{Users: 1, Bytes: u.Bytes, Messages: u.Messages, Load: u.Load})
	switch {
	case u.Active:
		x.class = 2
	case u.Load > hotTimes*meanLoad:
		x.class = max(x.class, 1)
	}
	x.held = x.held || u.Held
	x.stuck = x.stuck || u.Moving
	for _, t := range u.Tags {
		if !slices.Contains(x.tags, t) {
			x.tags = append(x.tags, t)
		}
	}
}

// name orders units that are equal else.
func (x *unit) name() director.User { return x.users[0].Name }

// relieve chooses who leaves n, and where each goes.
func (m *maker) relieve(n *node) error {
	units, err := m.unitsOf(n)
	if err != nil {
		return err
	}
	units = slices.DeleteFunc(units, func(x unit) bool { return x.stuck })
	rank := 0
	refused := int64(math.MaxInt64) // bytes that no disk had room for
	move := func(x unit, why string) bool {
		var to *node
		if must := why == director.WhyDrain || why == director.WhyTags; !must || x.use.Bytes < refused {
			to = m.queue.take(x, n, why)
			if to == nil && must && len(x.tags) == 0 {
				refused = x.use.Bytes // rooms only get smaller
			}
		}
		if to == nil {
			m.stays(x, n, why)
			return false
		}
		x.users = slices.Clone(x.users) // the buffer goes to the next backend
		p := placed{unit: x, from: n, to: to, why: why, rank: rank}
		rank++
		m.shift(p, 1)
		m.queue.fix(to)
		m.units = append(m.units, p)
		return true
	}
	if m.drains(n) {
		for _, i := range m.sorted(units) {
			move(units[i], director.WhyDrain)
		}
		return nil
	}
	if n.Misplaced && m.p.Goal == director.GoalLevel {
		units = slices.DeleteFunc(units, func(x unit) bool {
			return !director.MayLive(x.tags, n.Tags) && (move(x, director.WhyTags) || true)
		})
	}
	units = slices.DeleteFunc(units, func(x unit) bool { return x.held })
	m.shed(n, units, move)
	return nil
}

func (m *maker) stays(x unit, n *node, why string) {
	if why != director.WhyDrain && why != director.WhyTags {
		return
	}
	for _, to := range m.nodes {
		if to.takes && to != n && director.MayLive(x.tags, to.Tags) {
			m.noRoom += len(x.users)
			return
		}
	}
	m.noTag += len(x.users)
}

// sorted gives the order in which units are chosen: quiet ones first, then those
// that cost few bytes for what they relieve, then large ones, so that they are few.
func (m *maker) sorted(units []unit) []int {
	type keyed struct {
		cost, size float64
		class, at  int
	}
	ks := make([]keyed, len(units))
	for i := range units {
		x := &units[i]
		size := m.measure(x.use)
		k := keyed{size: size, cost: math.Inf(1), class: x.class, at: i}
		switch {
		case m.p.By == director.ByBytes:
			k.cost = 1
		case size > 0:
			k.cost = float64(x.use.Bytes) / size
		}
		if m.p.By == director.ByLoad {
			k.class = 0 // load is where the work is: there the class only says who moves last
		}
		ks[i] = k
	}
	slices.SortFunc(ks, func(a, b keyed) int {
		if a.class != b.class {
			return a.class - b.class
		}
		if c := cmp.Compare(a.cost, b.cost); c != 0 {
			return c
		}
		if c := cmp.Compare(b.size, a.size); c != 0 {
			return c
		}
		return cmp.Compare(units[a.at].name(), units[b.at].name())
	})
	order := make([]int, len(ks))
	for i, k := range ks {
		order[i] = k.at
	}
	return order
}

// shed moves units away until n.shed is gone. What is left of it in the end goes
// with the unit that covers it with the fewest bytes, if that brings n not below its
// share; so little more than the shed is copied.
func (m *maker) shed(n *node, units []unit, move func(unit, string) bool) {
	if n.shed <= 0 {
		return
	}
	why := director.WhyOver
	if m.distance(n) <= m.p.Band {
		why = director.WhyFill
	}
	order := m.sorted(units)
	left := n.shed
	taken := make([]bool, len(units))
	misses, missed := 0, math.Inf(1)
	for _, i := range order {
		x := units[i]
		size := m.measure(x.use)
		if size <= 0 || size > left || size > missed || misses > maxMisses {
			continue
		}
		switch taken[i] = move(x, why); {
		case taken[i]:
			left -= size
		case len(x.tags) > 0:
			misses++
		default:
			// What found no place will find none later: rooms only get smaller.
			missed = size * 0.9
		}
	}
	if left < n.share*m.p.Band/100 || left <= 0 {
		return // near enough
	}
	best := -1
	for _, i := range order {
		x := &units[i]
		size := m.measure(x.use)
		if taken[i] || size < left || m.measure(n.after)-size < n.share {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(x.class, units[best].class), cmp.Compare(x.use.Bytes, units[best].use.Bytes)) < 0 {
			best = i
		}
	}
	if best >= 0 {
		move(units[best], why)
	}
}

// maxMisses bounds how many units with tags are tried that find no place.
const maxMisses = 256

// shift books a unit from its source to its target, or, with sign -1, back.
func (m *maker) shift(p placed, sign int64) {
	u := director.PlanUse{Users: sign * p.use.Users, Bytes: sign * p.use.Bytes, Messages: sign * p.use.Messages, Load: float64(sign) * p.use.Load}
	p.to.after = sum(p.to.after, u)
	p.to.filled += u.Bytes
	p.to.in += int(u.Users)
	p.from.after = sum(p.from.after, director.PlanUse{Users: -u.Users, Bytes: -u.Bytes, Messages: -u.Messages, Load: -u.Load})
	p.from.out += int(u.Users)
}
