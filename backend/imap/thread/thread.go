// Package thread makes threads of messages: RFC 5256's ORDEREDSUBJECT and REFERENCES, and REFS
// (draft-ietf-morg-inthread): as REFERENCES, but without looking at subjects, and with
// the threads in the order of their newest messages. It reads no messages: the caller has what it
// needs of them. However references are made up, the result is a forest that has each
// message once, in time that grows with the messages and their references.
package thread

import (
	"cmp"
	"slices"
	"time"
)

// Message is what threading goes by.
type Message struct {
	// ID is its own id, Refs are those that it answers, oldest first (IDs).
	ID   string
	Refs []string
	// Subject is its base subject, prepared by collate; Reply: there was a sign of a reply or
	// forward before it.
	Subject string
	Reply   bool
	// Sent is its sent date or what stands for it.
	Sent time.Time
}

// Node is a message in a thread.
type Node struct {
	// Message is its index among all, or -1 for one that is not there.
	Message  int
	Children []*Node
}

// OrderedSubject is RFC 5256, Section 3's "poor man's threading": messages of a subject are
// answers to the first of them.
func OrderedSubject(all []Message) []*Node {
	sorted := make([]int, len(all))
	for i := range sorted {
		sorted[i] = i
	}
	bySent := func(a, b int) int { return cmp.Or(all[a].Sent.Compare(all[b].Sent), cmp.Compare(a, b)) }
	slices.SortFunc(sorted, bySent)
	// Taken by date, a thread begins with its first message and threads come in the
	// order of these.
	var roots []*Node
	threads := make(map[string]*Node)
	for _, i := range sorted {
		n := &Node{Message: i}
		if root := threads[all[i].Subject]; root != nil {
			root.Children = append(root.Children, n)
			continue
		}
		threads[all[i].Subject] = n
		roots = append(roots, n)
	}
	return roots
}

// References is RFC 5256, Section 3's algorithm of that name.
func References(all []Message) []*Node {
	roots := prune(link(all))
	sent := dates(all)
	sortLevel(roots, sent)
	roots = gather(all, roots)
	sortTree(roots, sent)
	return roots
}

// Refs is the algorithm of that name. Dates are sent dates everywhere, as in Dovecot; the draft
// would have internal dates for the order of threads.
func Refs(all []Message) []*Node {
	roots := prune(link(all))
	sortTree(roots, dates(all))
	newest := make(map[*Node]stamp, len(roots))
	for _, r := range roots {
		newest[r] = newestOf(all, r)
	}
	slices.SortStableFunc(roots, func(a, b *Node) int { return newest[a].compare(newest[b]) })
	return roots
}

// newestOf is the date of a thread's newest message.
func newestOf(all []Message, root *Node) (newest stamp) {
	newest.place = -1
	for todo := []*Node{root}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], n.Children...)
		if n.Message < 0 {
			continue
		}
		if s := (stamp{all[n.Message].Sent, n.Message}); newest.place < 0 || s.compare(newest) > 0 {
			newest = s
		}
	}
	return newest
}

// stamp orders nodes: by date, then by place in the mailbox.
type stamp struct {
	at    time.Time
	place int
}

func (s stamp) compare(t stamp) int { return cmp.Or(s.at.Compare(t.at), cmp.Compare(s.place, t.place)) }

// dates gives a node's stamp; one that is not there has its first child's (RFC 5256, Section 3,
// step 4), so children are sorted first.
func dates(all []Message) func(*Node) stamp {
	return func(n *Node) stamp {
		for n.Message < 0 && len(n.Children) > 0 {
			n = n.Children[0]
		}
		if n.Message < 0 {
			return stamp{}
		}
		return stamp{all[n.Message].Sent, n.Message}
	}
}

// sortLevel sorts the roots, and the children of those that are not there.
func sortLevel(roots []*Node, date func(*Node) stamp) {
	for _, r := range roots {
		if r.Message < 0 {
			sortNodes(r.Children, date)
		}
	}
	sortNodes(roots, date)
}

func sortNodes(nodes []*Node, date func(*Node) stamp) {
	if len(nodes) > 1 {
		slices.SortStableFunc(nodes, func(a, b *Node) int { return date(a).compare(date(b)) })
	}
}

// sortTree sorts all siblings, children before their parents' level. It does not recurse: chains of
// answers may be as long as the folder.
func sortTree(roots []*Node, date func(*Node) stamp) {
	levels := roots
	var all []*Node
	for len(levels) > 0 {
		all = append(all, levels...)
		var next []*Node
		for _, n := range levels {
			next = append(next, n.Children...)
		}
		levels = next
	}
	for _, n := range slices.Backward(all) {
		sortNodes(n.Children, date)
	}
	sortNodes(roots, date)
}
