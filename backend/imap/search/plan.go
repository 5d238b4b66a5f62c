package search

import (
	"cmp"
	"slices"

	"waypost/backend/index"
	"waypost/backend/mailbox"
)

// level is what has to be at hand to decide a key; see the package comment.
type level uint8

const (
	inMemory level = iota
	inIndex
	inHeader
	inText
	levels
)

// node is a key made ready for a view.
type node struct {
	*key
	level level // the highest of the node and all below it
	least level // the lowest
	kids  []*node
	// spans are a set's; at is the one that the run has come to.
	spans []Span
	at    int
	// have and lack are the flags of a kFlag that a message must and must not have.
	have, lack mailbox.System
	// slot is the index of a header key in plan.headers, or of a text in plan.texts.
	slot int
	// needle is the text of a header key.
	needle []byte
}

// text is a string that is looked for in messages.
type text struct {
	body bool
	// candidates are what a TextIndex gives, rising, if it knows.
	candidates []mailbox.UID
	known      bool
}

// plan is a query on a view.
type plan struct {
	view View
	root *node
	// headers are the header keys; names the fields that the index keeps of theirs.
	headers []*node
	names   []string
	// sent: there is a key on the header's date.
	sent bool
	// needles are the strings of texts.
	needles []string
	texts   []text
	anyBody bool
	anyHead bool
	// saved is the node of "$", once a key has named it.
	saved *node
}

func (q *Query) plan(v View) *plan {
	p := &plan{view: v}
	p.root = p.node(q.keys)
	return p
}

func (p *plan) node(k *key) *node {
	n := &node{key: k}
	switch k.kind {
	case kSet:
		return p.set(n)
	case kAnd, kOr, kNot:
		p.inner(n)
		return n.simpler()
	case kFlag:
		n.have = k.flag
	case kArrived, kOlder, kYounger, kSaved, kSaveDates, kEmailID, kThreadID:
		n.level = inIndex
	case kSent:
		n.level, p.sent = inIndex, true
	case kHeader:
		p.header(n)
	case kBody, kText:
		n.level = inText
		p.inText(n)
	}
	n.least = n.level
	return n
}

// set resolves a set. "$" has one node: it can be a long list, and is short to name.
func (p *plan) set(n *node) *node {
	if n.set.Saved && p.saved != nil {
		return p.saved
	}
	n.spans = p.view.Resolve(n.set, n.byUID)
	if n.set.Saved {
		p.saved = n
	}
	return n
}

// inner makes the nodes below n, cheap ones first.
func (p *plan) inner(n *node) {
	n.least = levels
	for _, k := range n.key.kids {
		kid := p.node(k)
		if kid == p.saved && slices.Contains(n.kids, kid) {
			continue
		}
		n.kids = append(n.kids, kid)
		n.level, n.least = max(n.level, kid.level), min(n.least, kid.least)
	}
	slices.SortStableFunc(n.kids, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.least, b.least))
	})
}

// simpler makes one node of flags that are asked for together, and of a NOT of one flag:
// most searches are of that kind, and over all messages.
func (n *node) simpler() *node {
	switch {
	case n.kind == kNot && n.kids[0].kind == kFlag && n.kids[0].lack == 0:
		return &node{key: n.kids[0].key, lack: n.kids[0].have}
	case n.kind != kAnd:
		return n
	}
	var all *node
	kids := n.kids[:0]
	for _, kid := range n.kids {
		switch {
		case kid.kind != kFlag:
			kids = append(kids, kid)
		case all == nil:
			all = kid
			kids = append(kids, kid)
		default:
			all.have, all.lack = all.have|kid.have, all.lack|kid.lack
		}
	}
	n.kids = kids
	return n
}

func (p *plan) header(n *node) {
	n.level, n.slot, n.needle = inHeader, len(p.headers), []byte(n.text)
	p.headers = append(p.headers, n)
	if !index.Kept(n.name) {
		return
	}
	n.level = inIndex
	if !slices.Contains(p.names, n.name) {
		p.names = append(p.names, n.name)
	}
}

// inText gives equal keys one needle.
func (p *plan) inText(n *node) {
	body := n.kind == kBody
	p.anyBody, p.anyHead = p.anyBody || body, p.anyHead || !body
	for i, t := range p.texts {
		if t.body == body && p.needles[i] == n.text {
			n.slot = i
			return
		}
	}
	n.slot = len(p.texts)
	p.needles = append(p.needles, n.text)
	p.texts = append(p.texts, text{body: body})
}

// spans are those of all messages that may match, as far as the sets tell that all of them
// must be in.
func (p *plan) spans() []Span {
	out := []Span{{0, p.view.Len()}}
	if p.root.kind != kAnd {
		return out
	}
	for _, n := range p.root.kids {
		if n.kind == kSet {
			out = intersect(out, n.spans)
		}
	}
	return out
}

// intersect gives what two lists of spans, in order, have in common.
func intersect(a, b []Span) (out []Span) {
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0].Lo, b[0].Lo), min(a[0].Hi, b[0].Hi); lo < hi {
			out = append(out, Span{lo, hi})
		}
		if a[0].Hi < b[0].Hi {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// has looks for an index in a set. Runs go upwards, so that it need not look back.
func (n *node) has(i int) bool {
	for n.at < len(n.spans) && n.spans[n.at].Hi <= i {
		n.at++
	}
	return n.at < len(n.spans) && n.spans[n.at].Lo <= i
}
