package plan

import (
	"cmp"
	"container/heap"

	"waypost/director"
)

// needQueue has the backends that take users, the neediest first: the one that is
// farthest below its share. It is a heap: each choice looks at few of a thousand.
type needQueue struct {
	m     *maker
	items []*node
	at    map[*node]int
}

func newNeedQueue(m *maker) needQueue {
	q := needQueue{m: m, at: map[*node]int{}}
	for _, n := range m.nodes {
		if n.takes && (m.p.Fill == "" || n.ID == m.p.Fill) {
			q.at[n] = len(q.items)
			q.items = append(q.items, n)
		}
	}
	heap.Init(&q)
	return q
}

func (q *needQueue) Len() int { return len(q.items) }

func (q *needQueue) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	// Empty mailboxes weigh nothing: among equals the one with fewer users for its weight.
	crowd := func(n *node) float64 { return float64(n.after.Users) / float64(n.Weight) }
	return cmp.Or(cmp.Compare(q.m.distance(a), q.m.distance(b)), cmp.Compare(crowd(a), crowd(b)), cmp.Compare(a.ID, b.ID)) < 0
}

func (q *needQueue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.at[q.items[i]], q.at[q.items[j]] = i, j
}

func (q *needQueue) Push(x any) { n := x.(*node); q.at[n] = len(q.items); q.items = append(q.items, n) }

func (q *needQueue) Pop() any {
	n := q.items[len(q.items)-1]
	q.items = q.items[:len(q.items)-1]
	delete(q.at, n)
	return n
}

func (q *needQueue) fix(n *node) {
	if i, ok := q.at[n]; ok {
		heap.Fix(q, i)
	}
}

// take gives the neediest backend that may have the unit; nil if there is none.
// For a drain and for tags the share is no limit, the disk is.
func (q *needQueue) take(x unit, from *node, why string) *node {
	must := why == director.WhyDrain || why == director.WhyTags
	size := q.m.measure(x.use)
	var passed []*node
	var found *node
	for q.Len() > 0 && found == nil {
		n := q.items[0]
		if !must && q.m.distance(n) >= 0 {
			break // all others have their share, too
		}
		switch {
		case n == from, x.use.Bytes > q.m.room(n), !director.MayLive(x.tags, n.Tags),
			!must && q.m.measure(n.after)+size > n.share*(1+q.m.p.Band/2):
			passed = append(passed, heap.Pop(q).(*node))
		default:
			found = n
		}
	}
	for _, n := range passed {
		heap.Push(q, n)
	}
	return found
}
