//go:build !race

package simtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/mx/spool"
)

// schedule is what one run does: who moves the user, who sends and reads, and
// what breaks meanwhile.
func (w *world) schedule() error {
	for _, id := range w.ids {
		w.nodes[id].boot()
	}
	if err := w.mx.boot(); err != nil {
		return err
	}
	for i := range 2 {
		m := &mover{w: w, id: fmt.Sprint("r", i+1)}
		w.movers = append(w.movers, m)
		if err := m.boot(); err != nil {
			return err
		}
	}
	w.chaos, w.crashes = true, w.rng.IntN(4)
	until := 10*time.Second + w.upTo(20*time.Second)
	moves, mails := 1+w.rng.IntN(4), 2+w.rng.IntN(5)
	w.alive(func(ctx context.Context) { w.plans(ctx, moves) })
	for i := range mails {
		after := w.upTo(until)
		w.alive(func(ctx context.Context) {
			if sleep(ctx, after) == nil {
				w.mx.send(ctx, fmt.Sprint("m", i))
			}
		})
	}
	for i := range 1 + w.rng.IntN(2) {
		c, commands := &client{w: w, name: fmt.Sprint("c", i)}, 4+w.rng.IntN(12)
		w.alive(func(ctx context.Context) { c.live(ctx, commands) })
	}
	if w.chance(4) {
		w.alive(w.replace)
	}
	w.running.Go(func() { w.harm(until) })
	return nil
}

// alive runs something that must come to its end by itself.
func (w *world) alive(fn func(context.Context)) {
	w.living++
	w.running.Go(func() {
		fn(w.ctx)
		if w.step(w.ctx, "life", "ends") == nil {
			w.living--
		}
	})
}

// plans is the operator.
func (w *world) plans(ctx context.Context, moves int) {
	dir := director.New(&port{w: w, who: "operator"})
	for i := 0; i < moves; i++ {
		if sleep(ctx, w.pace(i)) != nil || w.step(ctx, "operator", "plans") != nil {
			return
		}
		to := w.ids[w.rng.IntN(len(w.ids))]
		_, err := dir.PlanMove(ctx, alice, to, fmt.Sprint("move", i), time.Now())
		switch {
		case errors.Is(err, director.ErrConflict), errors.Is(err, director.ErrIllegal): // one at a time, and not to where it is
		case err != nil:
			w.saw("planning failed")
		default:
			w.saw("move planned")
		}
	}
}

func (w *world) pace(i int) time.Duration { return time.Duration(300+977*i%2900) * time.Millisecond }

// harm breaks things until the time is over, and then mends all.
func (w *world) harm(until time.Duration) {
	begin := time.Now()
	pause := 300 * time.Millisecond
	for sleep(w.ctx, pause) == nil && w.step(w.ctx, "harm", "now") == nil && time.Since(begin) < until {
		pause = 100*time.Millisecond + w.upTo(4*time.Second)
		n := w.nodes[w.ids[w.rng.IntN(len(w.ids))]]
		switch w.rng.IntN(7) {
		case 0:
			if w.crashes > 0 && n.proc != nil {
				w.saw("backend crashed")
				n.crash("by harm")
			}
		case 1, 2:
			m := w.movers[w.rng.IntN(len(w.movers))]
			if m.dead != nil {
				w.saw("mover killed")
				m.kill()
			} else if err := m.boot(); err != nil {
				w.fail("mover: %v", err)
			}
		case 3:
			w.toggle(string(n.id))
		case 4:
			w.toggle(string(n.id) + "/net")
		case 5:
			w.toggle([]string{"mx1", "p1", "r1", "r2"}[w.rng.IntN(4)])
		case 6:
			if w.mx.proc != nil {
				w.saw("mx killed")
				if err := w.mx.crash(); err != nil {
					w.fail("mx: %v", err)
				}
			} else if err := w.mx.boot(); err != nil {
				w.fail("mx: %v", err)
			}
		}
	}
	w.mend()
}

func (w *world) toggle(what string) {
	w.cut[what] = !w.cut[what]
	w.note("harm", fmt.Sprintf("cut %s: %v", what, w.cut[what]))
}

// mend ends all harm; from here on everything must come to its end.
func (w *world) mend() {
	if w.ctx.Err() != nil {
		return
	}
	w.note("harm", "ends")
	w.chaos = false
	clear(w.cut)
	for _, id := range w.ids {
		if n := w.nodes[id]; n.proc == nil {
			n.boot()
		}
	}
	for _, m := range w.movers {
		if m.dead == nil && !w.rule("no take-back") {
			if err := m.boot(); err != nil {
				w.fail("mover: %v", err)
			}
		}
	}
	if w.mx.proc == nil {
		if err := w.mx.boot(); err != nil {
			w.fail("mx: %v", err)
		}
	}
	w.mended = time.Now()
}

// runaway is far more turns than a schedule takes.
const runaway = 60_000

// quiet tells whether all has ended: asked when nobody has the turn.
func (w *world) quiet() bool {
	if len(w.bad) > 0 {
		return true // enough is known
	}
	if w.picks > runaway {
		w.fail("I6: %d turns and no end: %s", w.picks, w.standing())
		return true
	}
	if w.mended.IsZero() {
		if time.Since(w.start) > settleWithin {
			w.fail("the harm does not end")
		}
		return len(w.bad) > 0
	}
	if time.Since(w.mended) > settleWithin {
		w.fail("I6: not at rest after %v: %s", settleWithin, w.standing())
		return true
	}
	return w.living == 0 && w.ended() == ""
}

// ended says what has not: a busy record, an open journal, a home that does not
// serve, mail in the spool.
func (w *world) ended() string {
	ctx := context.Background()
	rec, err := w.admin.Location(ctx, alice)
	if err != nil {
		return err.Error()
	}
	if rec.Value.State != director.Active {
		return "record " + rec.Value.String()
	}
	if e, err := w.store.Get(ctx, director.MoveKey(alice)); err != nil || e.Rev != 0 && !w.rule("no take-back") {
		return "journal " + string(e.Value)
	}
	home := w.nodes[rec.Value.Home].proc
	if home == nil || !home.ready || home.alarm != "" || home.fence != (fence.Fence{State: fence.Serving, Epoch: rec.Value.Epoch}) {
		return "home does not serve"
	}
	for _, left := range w.mx.proc.Waiting() {
		if left.State != spool.Dead {
			return "spool: " + left.Error
		}
		if w.deletions == 0 {
			w.fail("I2: a dead letter: %s", left.Error)
		}
	}
	return ""
}

func (w *world) standing() string {
	text := fmt.Sprintf("%s; %d at work", w.ended(), w.living)
	rec, err := w.admin.Location(context.Background(), alice)
	if err == nil {
		text += "; record " + rec.Value.String()
	}
	for _, id := range w.ids {
		if p := w.nodes[id].proc; p != nil {
			text += fmt.Sprintf("; %s %s", id, p.fence)
		}
	}
	return text
}
