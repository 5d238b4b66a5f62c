package search

import (
	"slices"

	"waypost/backend/imap/syntax"
	"waypost/backend/imap/thread"
	"waypost/backend/mailbox"
)

// hit is a message found.
type hit struct {
	index int32
	uid   mailbox.UID
}

// Result is what a Query found, in the command's order.
type Result struct {
	// Saved is what "$" stands for from now on, rising, if Query.Save.
	Saved []mailbox.UID

	q       *Query
	hits    []hit
	part    []hit // what PARTIAL asks for
	threads []*thread.Node
	// modseqs are the hits' mod-sequences, if they are asked for.
	modseqs map[mailbox.UID]uint64
}

// Count is how many messages were found.
func (r *Result) Count() int { return len(r.hits) }

// returns are a command's RETURN options (RFC 4731, Section 3.1; RFC 5182; RFC 5267; RFC 9394).
type returns struct {
	given                      bool
	min, max, all, count, save bool
	update                     bool
	partial                    *window
}

// window is PARTIAL's range as written: counted from 1, or, fromEnd, from the last
// backwards.
type window struct {
	from, to uint32
	fromEnd  bool
}

// of gives the part of the hits, in their own order.
func (w *window) of(hits []hit) []hit {
	n := uint32(len(hits))
	lo, hi := min(w.from, w.to), min(max(w.from, w.to), n)
	if lo > n {
		return nil
	}
	if w.fromEnd {
		lo, hi = n-hi+1, n-lo+1
	}
	return hits[lo-1 : hi]
}

// number is what the client calls the message.
func (r *Result) number(h hit) uint32 {
	if r.q.opts.ByUID {
		return uint32(h.uid)
	}
	return uint32(h.index + 1)
}

// settle works out what depends on all hits.
func (r *Result) settle() {
	if w := r.q.ret.partial; w != nil {
		r.part = w.of(r.hits)
	}
	if r.q.ret.save {
		for _, h := range r.told() {
			r.Saved = append(r.Saved, h.uid)
		}
		slices.Sort(r.Saved)
		r.Saved = slices.Compact(r.Saved)
	}
}

// told are the hits that the answer speaks of: all, unless MIN, MAX and PARTIAL only are
// asked for. They are what is saved (RFC 5182, Section 2.4; RFC 9394, Section 3.1), and MODSEQ is
// theirs (RFC 4731, Section 3.2).
func (r *Result) told() []hit {
	o := r.q.ret
	if o.all || o.count || !o.min && !o.max && o.partial == nil || len(r.hits) == 0 {
		return r.hits
	}
	told := slices.Clone(r.part)
	if o.min {
		told = append(told, r.hits[0])
	}
	if o.max {
		told = append(told, r.hits[len(r.hits)-1])
	}
	return told
}

func (r *Result) modseq() (highest uint64) {
	for _, h := range r.told() {
		highest = max(highest, r.modseqs[h.uid])
	}
	return highest
}

// Write writes the untagged response, if there is one; tag is the command's.
func (r *Result) Write(e *syntax.Encoder, tag string) {
	switch {
	case r.q.command == Thread:
		r.writeThreads(e)
	case r.q.ret.given || r.q.opts.Rev2 && r.q.command == Search:
		r.writeExtended(e, tag)
	default:
		r.writePlain(e)
	}
}

// writePlain writes SEARCH (RFC 3501, Section 7.2.5) or SORT (RFC 5256, Section 4).
func (r *Result) writePlain(e *syntax.Encoder) {
	e.Raw("* ")
	if r.q.command == Sort {
		e.Raw("SORT")
	} else {
		e.Raw("SEARCH")
	}
	for _, h := range r.hits {
		e.SP().Number(uint64(r.number(h)))
	}
	if r.q.modseq && len(r.hits) > 0 {
		e.Raw(" (MODSEQ ").Number(r.modseq()).Byte(')') // RFC 7162, Section 3.1.5
	}
	e.CRLF()
}

// writeExtended writes ESEARCH (RFC 4731, Section 3.1). SAVE alone is not answered (RFC 5182,
// Section 2.1).
func (r *Result) writeExtended(e *syntax.Encoder, tag string) {
	o := r.q.ret
	if o.save && !o.min && !o.max && !o.all && !o.count && !o.update && o.partial == nil {
		return
	}
	e.Raw("* ESEARCH (TAG ").String(tag).Byte(')')
	if r.q.opts.ByUID {
		e.Raw(" UID")
	}
	n := len(r.hits)
	if o.min && n > 0 {
		e.Raw(" MIN ").Number(uint64(r.number(r.hits[0])))
	}
	if o.max && n > 0 {
		e.Raw(" MAX ").Number(uint64(r.number(r.hits[n-1])))
	}
	if (o.all || !o.given) && n > 0 {
		e.Raw(" ALL ").Ranges(r.ranges(r.hits))
	}
	if o.count {
		e.Raw(" COUNT ").Number(uint64(n))
	}
	if o.partial != nil {
		r.writePartial(e, o.partial)
	}
	if r.q.modseq && n > 0 {
		e.Raw(" MODSEQ ").Number(r.modseq())
	}
	e.CRLF()
}

// writePartial writes RFC 9394, Section 3.1's "PARTIAL (-1:-100 ...)".
func (r *Result) writePartial(e *syntax.Encoder, w *window) {
	sign := ""
	if w.fromEnd {
		sign = "-"
	}
	e.Raw(" PARTIAL (").Raw(sign).Number(uint64(w.from)).Byte(':').Raw(sign).Number(uint64(w.to)).SP()
	if len(r.part) == 0 {
		e.Raw("NIL)")
		return
	}
	e.Ranges(r.ranges(r.part)).Byte(')')
}

// ranges keeps the order that the hits have: a sorted result's is not that of numbers.
func (r *Result) ranges(hits []hit) []syntax.Range {
	numbers := make([]uint32, len(hits))
	for i, h := range hits {
		numbers[i] = r.number(h)
	}
	return syntax.Compact(numbers)
}

// writeThreads writes RFC 5256, Section 4's THREAD.
func (r *Result) writeThreads(e *syntax.Encoder) {
	e.Raw("* THREAD")
	if len(r.threads) > 0 {
		e.SP()
	}
	number := func(i int) { e.Number(uint64(r.number(r.hits[i]))) }
	for _, n := range r.threads {
		writeThread(e, n, number)
	}
	e.CRLF()
}

// writeThread writes one: a line of only children needs no parentheses. What is nested takes the
// stack's memory only as deep as threads branch.
func writeThread(e *syntax.Encoder, n *thread.Node, number func(i int)) {
	e.Byte('(')
	first := true
	for {
		if n.Message >= 0 {
			if !first {
				e.SP()
			}
			number(n.Message)
			first = false
		}
		if len(n.Children) != 1 {
			break
		}
		n = n.Children[0]
	}
	if len(n.Children) > 0 && !first {
		e.SP()
	}
	for _, c := range n.Children {
		writeThread(e, c, number)
	}
	e.Byte(')')
}
