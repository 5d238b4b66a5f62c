//go:build !race

package simtest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"waypost/backend/fence"
)

// judge looks at what is left, and at the whole history.
func (w *world) judge() {
	rec, err := w.admin.Location(context.Background(), alice)
	if err != nil {
		w.fail("record: %v", err)
		return
	}
	for _, id := range w.ids {
		p := w.nodes[id].proc
		serves := p != nil && p.fence.State == fence.Serving
		if serves != (id == rec.Value.Home) {
			w.fail("I1: record %s, and %s has fence %v", rec.Value, id, p.fence)
		}
	}
	home := w.nodes[rec.Value.Home].proc
	if home == nil {
		return
	}
	home.fs.Fail(nil)
	b, err := readBox(home.fs, home.trees().Live)
	if err != nil {
		w.fail("I2: the home's mailbox: %v", err)
		return
	}
	for _, name := range keys(w.acked) {
		if w.begunFor[name] != w.person {
			continue // was for somebody who is no more
		}
		if !b.has(name) {
			w.fail("I2: %s was acknowledged, and is not at the home %s", name, rec.Value.Home)
		}
	}
	if w.deletions == 0 && b.Validity != 7 {
		w.fail("I4: UIDVALIDITY became %d", b.Validity)
	}
	w.didRead("judge", w.now(), b)
	boxes := map[uint32]bool{}
	for _, e := range w.history {
		if !boxes[e.box] && !w.linearizable(e.box) {
			w.fail("the history of the mailbox %d is not linearizable:\n%s", e.box, w.showHistory())
		}
		boxes[e.box] = true
	}
}

func keys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// mailbox is the model: a set that grows; a read sees all of it.
var mailbox = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		names := strings.Fields(state.(string))
		in := input.(event)
		if in.isRead {
			return slices.Equal(names, in.read), state
		}
		if slices.Contains(names, in.name) {
			return false, state
		}
		names = append(names, in.name)
		slices.Sort(names)
		return true, strings.Join(names, " ")
	},
}

// linearizable asks porcupine about one mailbox. What began and was never heard of may have
// happened at any time since, or never.
func (w *world) linearizable(validity uint32) bool {
	var ops []porcupine.Operation
	if validity == 7 {
		ops = append(ops, porcupine.Operation{ClientId: -1, Input: event{name: "first"}, Call: -1, Return: 0})
	}
	for i, e := range w.history {
		if e.box != validity {
			continue
		}
		ops = append(ops, porcupine.Operation{ClientId: i, Input: e, Call: e.begin, Output: nil, Return: e.end})
	}
	for i, name := range sortedNames(w.open) {
		if w.uids[box{Validity: validity}.of(name)] != 0 { // somebody has read it: it did happen
			ops = append(ops, porcupine.Operation{ClientId: len(w.history) + i, Input: event{name: name}, Call: w.open[name], Return: math.MaxInt64})
		}
	}
	return porcupine.CheckOperationsTimeout(mailbox, ops, 10*time.Second) != porcupine.Illegal
}

func sortedNames(m map[string]int64) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (w *world) showHistory() string {
	var text strings.Builder
	for _, e := range w.history {
		fmt.Fprintf(&text, "  %4d..%4d %s %v\n", e.begin, e.end, e.who, e.read)
	}
	return text.String()
}
