package thread

import "slices"

// box is a message, or an id that messages refer to, while threads are built.
type box struct {
	message  int // -1: not there
	parent   *box
	below    int // how many boxes have it as parent
	children []*box
}

// forest is step 1 of REFERENCES.
type forest struct {
	boxes []*box
	byID  map[string]*box
	// steps is what may still be spent on looking for loops. Mail has short ways up; for
	// what was made up to have long ones, links are left out when it is used up.
	steps int
}

// Budget of forest.steps: for a folder, and for each reference.
const (
	baseSteps = 10_000_000
	refSteps  = 100
)

// link makes parents and children of all messages (step 1) and gives those without a parent
// (step 2).
func link(all []Message) []*box {
	f := &forest{byID: make(map[string]*box, len(all)), steps: baseSteps}
	own := make([]*box, len(all))
	for i := range all {
		own[i] = f.message(i, all[i].ID)
		f.steps += refSteps * len(all[i].Refs)
	}
	for i := range all {
		f.refer(own[i], all[i].Refs)
	}
	var roots []*box
	for _, b := range f.boxes {
		if b.parent == nil {
			roots = append(roots, b)
		} else {
			b.parent.children = append(b.parent.children, b)
		}
	}
	return roots
}

func (f *forest) add(message int) *box {
	b := &box{message: message}
	f.boxes = append(f.boxes, b)
	return b
}

// message makes a message's box. One without an id, or with another's, has none that
// could be referred to.
func (f *forest) message(i int, id string) *box {
	b := f.add(i)
	if id != "" && f.byID[id] == nil {
		f.byID[id] = b
	}
	return b
}

func (f *forest) named(id string) *box {
	b := f.byID[id]
	if b == nil {
		b = f.add(-1)
		f.byID[id] = b
	}
	return b
}

// refer links the references to one another, as far as they have no parents (step 1 A),
// and the message to the last, whatever others have said of it before (B).
func (f *forest) refer(own *box, refs []string) {
	var before *box
	for _, id := range refs {
		b := f.named(id)
		if before != nil && b.parent == nil && !f.under(before, b) {
			b.adopt(before)
		}
		before = b
	}
	if own.parent != nil && own.parent != before {
		own.adopt(nil)
	}
	if before != nil && own.parent == nil && !f.under(before, own) {
		own.adopt(before)
	}
}

// adopt gives b another parent, or none.
func (b *box) adopt(parent *box) {
	if b.parent != nil {
		b.parent.below--
	}
	if b.parent = parent; parent != nil {
		parent.below++
	}
}

// under reports that b is top or below it, or that there are no steps left to tell.
func (f *forest) under(b, top *box) bool {
	if b == top || top.below == 0 {
		return b == top
	}
	for ; b != nil; b = b.parent {
		if f.steps--; b == top || f.steps < 0 {
			return true
		}
	}
	return false
}

// prune makes nodes of boxes, without those of no message: they vanish, or their children
// take their place. Only among the roots they stay where they hold several together
// (step 3).
func prune(roots []*box) []*Node {
	var out []*Node
	for _, r := range roots {
		out = append(out, pruneTree(r)...)
	}
	return out
}

// pruneTree gives what remains of a root: nothing or one node. The boxes below it are visited
// children first, without recursion.
func pruneTree(root *box) []*Node {
	boxes := []*box{root}
	for i := 0; i < len(boxes); i++ {
		boxes = append(boxes, boxes[i].children...)
	}
	made := make(map[*box][]*Node, len(boxes))
	for _, b := range slices.Backward(boxes) {
		var children []*Node
		for i, c := range b.children {
			if i == 0 {
				children = made[c] // not copied at each level of a long way down
			} else {
				children = append(children, made[c]...)
			}
			delete(made, c)
		}
		switch {
		case b.message >= 0:
			made[b] = []*Node{{Message: b.message, Children: children}}
		case b == root && len(children) > 1:
			made[b] = []*Node{{Message: -1, Children: children}}
		default:
			made[b] = children
		}
	}
	return made[root]
}

// gather puts threads of one subject together (step 5).
func gather(all []Message, roots []*Node) []*Node {
	first := func(n *Node) *Message {
		if n.Message < 0 {
			n = n.Children[0]
		}
		return &all[n.Message]
	}
	table := make(map[string]*Node)
	for _, n := range roots {
		m := first(n)
		if m.Subject == "" {
			continue
		}
		old := table[m.Subject]
		if old == nil || old.Message >= 0 && (n.Message < 0 || all[old.Message].Reply && !m.Reply) {
			table[m.Subject] = n
		}
	}
	var out []*Node
	for _, n := range roots {
		m := first(n)
		to := table[m.Subject]
		if m.Subject == "" || to == n {
			out = append(out, n)
			continue
		}
		merge(to, n, m.Reply && !first(to).Reply)
	}
	return out
}

// merge puts a thread into that of the table, which stays where it is. child: n answers it.
func merge(to, n *Node, child bool) {
	switch {
	case to.Message < 0 && n.Message < 0:
		to.Children = append(to.Children, n.Children...)
	case to.Message < 0 || child:
		to.Children = append(to.Children, n)
	default:
		// A new parent of both takes the place of the table's.
		both := &Node{Message: to.Message, Children: to.Children}
		to.Message, to.Children = -1, []*Node{both, n}
	}
}
