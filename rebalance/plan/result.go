package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"waypost/director"
)

// order puts quiet units first and those at work last. Within a class all sources
// take turns, so that no backend is read from, or written to, more than others.
func (m *maker) order() {
	slices.SortFunc(m.units, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(urgency(a.why), urgency(b.why)),
			cmp.Compare(a.rank, b.rank), cmp.Compare(a.from.ID, b.from.ID), cmp.Compare(a.name(), b.name()))
	})
}

// urgency: what must move comes before what had better.
func urgency(why string) int {
	if why == director.WhyDrain || why == director.WhyTags {
		return 0
	}
	return 1
}

// limit keeps what fits into the policy's bounds, in order.
func (m *maker) limit() {
	bytes, moves := int64(0), 0
	m.units = slices.DeleteFunc(m.units, func(p placed) bool {
		fits := (m.p.MaxBytes == 0 || bytes+p.use.Bytes <= m.p.MaxBytes) && moves+len(p.users) <= m.p.MaxMoves
		if !fits {
			m.shift(p, -1)
			m.cut += len(p.users)
			return true
		}
		bytes += p.use.Bytes
		moves += len(p.users)
		return false
	})
}

func (m *maker) result(before float64) Plan {
	out := Plan{Summary: director.PlanSummary{ImbalanceBefore: before, ImbalanceAfter: m.imbalance(), Reasons: map[string]int{}}}
	for _, p := range m.units {
		for _, u := range p.users {
			e := director.PlanEntry{User: u.Name, From: p.from.ID, To: p.to.ID, Bytes: u.Bytes, Messages: u.Messages, Group: u.Group, Why: p.why}
			e.When = [...]string{director.WhenQuiet, director.WhenHot, director.WhenActive}[p.class]
			out.Entries = append(out.Entries, e)
			out.Bytes += u.Bytes
			out.Summary.Messages += u.Messages
			out.Summary.Reasons[p.why]++
		}
	}
	for _, n := range m.nodes {
		out.Summary.Backends = append(out.Summary.Backends, director.PlanBackend{
			ID: n.ID, State: n.State, CapacityBytes: n.Capacity, Share: n.share,
			Before: n.Use, After: n.after, MovesIn: n.in, MovesOut: n.out,
		})
	}
	out.Summary.Seconds, out.Summary.ElapsedSeconds = m.estimate(len(out.Entries), out.Bytes)
	out.Summary.Notes = m.notes()
	return out
}

// eachMove is what a move costs beside its bytes.
const eachMove = 2 * time.Second

// estimate gives the time of the moves, and that with the waits for the window.
func (m *maker) estimate(moves int, bytes int64) (seconds, elapsed int64) {
	if moves == 0 {
		return 0, 0
	}
	s := float64(bytes)/float64(m.p.BytesPerSecond) + eachMove.Seconds()*float64(moves)/float64(m.p.Concurrency)
	seconds = int64(math.Ceil(s))
	return seconds, seconds + int64(Waits(m.p.Window, m.in.Now, time.Duration(seconds)*time.Second).Seconds())
}

// Waits gives how long work of that length, begun at now, stands still because the
// window is closed.
func Waits(window string, now time.Time, work time.Duration) time.Duration {
	w, err := director.ParseWindow(window)
	if err != nil || w.Part() == 1 {
		return 0
	}
	open := time.Duration(w.Part() * float64(24*time.Hour))
	start := w.Next(now)
	wait := start.Sub(now)
	// What is left of the window that is open at start, from its end on.
	end := time.Date(start.Year(), start.Month(), start.Day(), w.To/60, w.To%60, 0, 0, start.Location())
	if !end.After(start) {
		end = end.AddDate(0, 0, 1)
	}
	if work -= end.Sub(start); work <= 0 {
		return wait
	}
	days := (work + open - 1) / open
	return wait + days*(24*time.Hour-open)
}

func (m *maker) notes() []string {
	var notes []string
	say := func(n int, format string) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf(format, n))
		}
	}
	say(m.noRoom, "%d users must leave their backend, and no other has room for them: add a backend, or capacity")
	say(m.noTag, "%d users have tags that no active backend has: waypost backend tag")
	say(m.apart, "%d users stay because members of their sharing group live elsewhere: waypost move one of them first")
	say(m.cut, "%d users are left for a further plan by the limits on bytes and moves")
	for _, n := range m.nodes {
		if n.Away {
			notes = append(notes, fmt.Sprintf("backend %s does not answer: nothing moves to it or from it", n.ID))
		}
	}
	return notes
}
