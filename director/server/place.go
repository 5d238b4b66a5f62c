package server

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// candidate is a backend that may get a new user.
type candidate struct {
	id     director.BackendID
	weight int
	// capacity and used are bytes; known is false while the backend has told
	// neither, and then only its users count.
	capacity, used int64
	known          bool
	users          int
	// promised are users placed there of late, whose mail has yet to come.
	promised int
}

// choose gives the backend with the most free weighted room.
//
// New mailboxes are empty, so in the middle of an import a backend looks emptier
// than it will be: users placed of late count as much as the average user uses.
// Rooms within a hundredth of the best are equal, as those of backends on one
// disk are; then the fewest users for its weight wins, then the name. Full
// backends, and those of no weight, get nobody; a backend that has not told its
// room gets someone only when no other can.
func choose(cs []candidate) (director.BackendID, bool) {
	average := averageBytes(cs)
	type scored struct {
		candidate
		room float64
	}
	var fit, unknown []scored
	best := math.Inf(-1)
	for _, c := range cs {
		if c.weight <= 0 {
			continue
		}
		if !c.known {
			unknown = append(unknown, scored{c, 0})
			continue
		}
		if c.used >= c.capacity {
			continue // full; promises alone make nobody so
		}
		room := (float64(c.capacity-c.used) - average*float64(c.promised)) * float64(c.weight) / 100
		fit = append(fit, scored{c, room})
		best = max(best, room)
	}
	if len(fit) == 0 {
		fit, best = unknown, 0
	}
	fit = slices.DeleteFunc(fit, func(s scored) bool { return s.room < best-math.Abs(best)/100 })
	if len(fit) == 0 {
		return "", false
	}
	return slices.MinFunc(fit, func(a, b scored) int {
		return cmp.Or(
			cmp.Compare(float64(a.users)/float64(a.weight), float64(b.users)/float64(b.weight)),
			cmp.Compare(a.id, b.id))
	}).id, true
}

func averageBytes(cs []candidate) float64 {
	var bytes, users float64
	for _, c := range cs {
		if c.known {
			bytes += float64(c.used)
			users += float64(c.users)
		}
	}
	if users == 0 {
		return 0
	}
	return bytes / users
}

// placer chooses homes, and remembers whom it has sent where until the counts
// show them: gossip and census lag.
type placer struct {
	census *census

	mu     sync.Mutex // held while choosing, so that two choices see each other
	taken  int        // the census that placed is in addition to
	placed map[director.BackendID]int
	flying map[director.BackendID]int // creations that have not ended
	// promised counts placements in two generations of promiseTime each.
	promised [2]map[director.BackendID]int
	turned   time.Time
}

// promiseTime is how long, to twice as long, a placed user counts as one whose
// mail has yet to come.
const promiseTime = 30 * time.Minute

func newPlacer(c *census) *placer {
	return &placer{
		census: c, turned: time.Now(), flying: map[director.BackendID]int{},
		promised: [2]map[director.BackendID]int{{}, {}},
	}
}

// turn forgets the promises of the generation before last. The caller holds mu.
func (p *placer) turn(now time.Time) {
	if now.Sub(p.turned) < promiseTime {
		return
	}
	p.promised = [2]map[director.BackendID]int{{}, p.promised[0]}
	p.turned = now
}

// reservation is a place on a backend for one user; end it.
type reservation struct {
	p    *placer
	home director.BackendID
}

// place reserves the best of candidates(counts), leaving out those in not.
func (p *placer) place(candidates func(*tally) []candidate, not map[director.BackendID]bool) (*reservation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(time.Now())
	t, taken := p.census.count()
	if p.placed == nil || taken != p.taken {
		p.taken, p.placed = taken, make(map[director.BackendID]int, len(p.flying))
		for id, n := range p.flying {
			p.placed[id] = n
		}
	}
	cs := slices.DeleteFunc(candidates(t), func(c candidate) bool { return not[c.id] })
	for i := range cs {
		id := cs[i].id
		cs[i].users += p.placed[id]
		cs[i].promised = p.promised[0][id] + p.promised[1][id]
	}
	home, ok := choose(cs)
	if !ok {
		return nil, fmt.Errorf("no active backend that is alive has room: %w", admin.ErrNoRoom)
	}
	p.placed[home]++
	p.flying[home]++
	p.promised[0][home]++
	return &reservation{p, home}, nil
}

// end gives the reservation back when the user was made, and by now shows in
// counts, or was not.
func (r *reservation) end(made bool) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.flying[r.home]--; r.p.flying[r.home] == 0 {
		delete(r.p.flying, r.home)
	}
	if made {
		return
	}
	if r.p.placed[r.home] > 0 {
		r.p.placed[r.home]--
	}
	if r.p.promised[0][r.home] > 0 {
		r.p.promised[0][r.home]--
	}
}

// candidates are the backends that take new users with these tags: active, of kind
// waypost, and alive as far as the membership knows.
func (s *Server) candidates(t *tally, tags []string) []candidate {
	var cs []candidate
	for id, b := range s.cache.Backends() {
		if b.Kind != director.KindWaypost || b.State != director.BackendActive || !director.MayLive(tags, b.Tags) {
			continue
		}
		m, _ := s.backendMember(id)
		if !m.Alive {
			continue
		}
		c := candidate{id: id, weight: b.Weight, users: t.homes[id]}
		if load := told(m); load != nil {
			c.known, c.used, c.capacity = true, load.UsedBytes, load.CapacityBytes
			if b.CapacityBytes > 0 {
				c.capacity = b.CapacityBytes
			}
		}
		cs = append(cs, c)
	}
	return cs
}
