package search

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"waypost/backend/mailbox"
)

// breath is how many messages are looked at in memory before others get their turn.
const breath = 1024

// run is a Query under way.
type run struct {
	ctx  context.Context
	env  Env
	done int
	all  int
}

// Run looks through the view. The error is the context's, or the view's.
func (q *Query) Run(ctx context.Context, v View, env Env) (*Result, error) {
	if env.Now.IsZero() {
		env.Now = time.Now()
	}
	r := &run{ctx: ctx, env: env}
	res := &Result{q: q}
	if q.modseq {
		res.modseqs = make(map[mailbox.UID]uint64)
	}
	if err := r.find(q.plan(v), res); err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	var err error
	switch q.command {
	case Sort:
		err = r.sort(q, v, res)
	case Thread:
		err = r.thread(q, v, res)
	}
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	res.settle()
	return res, nil
}

// find fills in the hits, in the mailbox's order.
func (r *run) find(p *plan, res *Result) error {
	c := newCandidate(p, r, r.env.Now)
	defer c.end()
	spans := p.spans()
	if r.env.Among != nil {
		spans = intersect(spans, r.env.Among)
	}
	for _, s := range spans {
		r.all += s.Hi - s.Lo
	}
	asked := false
	for _, s := range spans {
		for i, m := range p.view.From(s.Lo) {
			if i >= s.Hi {
				break
			}
			c.begin(i, m)
			v, err := p.root.eval(c, inMemory)
			if v == unknown && err == nil {
				if !asked && r.env.Among == nil { // few are read sooner than an index is asked
					asked = true
					p.askIndex(r.ctx)
				}
				v, err = r.further(c, p.root)
			}
			if err != nil && !errors.Is(err, mailbox.ErrNoMessage) {
				return err
			}
			if v == yes && err == nil {
				res.hits = append(res.hits, hit{int32(i), m.UID})
				if res.modseqs != nil {
					res.modseqs[m.UID] = m.ModSeq
				}
			}
			if err := r.step(p.root.level > inMemory); err != nil {
				return err
			}
		}
	}
	return nil
}

// further goes up the levels until there is a verdict.
func (r *run) further(c *candidate, root *node) (v verdict, err error) {
	defer c.end()
	for at := inIndex; v == unknown && err == nil && at < levels; at++ {
		v, err = root.eval(c, at)
	}
	if c.body != nil {
		runtime.Gosched()
	}
	return v, err
}

// step counts a message, and stops at the end of the context.
func (r *run) step(costly bool) error {
	r.done++
	if r.done%breath != 0 && !(costly && r.done%16 == 0) {
		return nil
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.env.Progress != nil {
		r.env.Progress(min(r.done, r.all), r.all)
	}
	if r.done%breath == 0 {
		runtime.Gosched()
	}
	return nil
}

// acquire waits for leave to open a message.
func (r *run) acquire() error {
	if err := r.ctx.Err(); err != nil || r.env.Slots == nil {
		return err
	}
	return r.env.Slots.take(r.ctx)
}

func (r *run) release() {
	if r.env.Slots != nil {
		r.env.Slots.give()
	}
}

// askIndex asks an index of texts, if there is one, for each needle.
func (p *plan) askIndex(ctx context.Context) {
	index, ok := p.view.(TextIndex)
	if !ok {
		return
	}
	for i := range p.texts {
		if t := &p.texts[i]; p.needles[i] != "" {
			t.candidates, t.known = index.Candidates(ctx, p.needles[i], t.body)
		}
	}
}
