package rebalance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// copying is the hot part of one move while this mover is at it.
type copying struct {
	s      *Server
	target Backend
	rec    director.Record
	node   string // the source's node listener
	tries  *patience
	yield  yielder
	told   int64         // the pace the source has, -1 if not known
	move   director.Move // what of it does not change

	// writing holds one: whoever writes the journal, in turn, without mu.
	writing chan struct{}

	mu     sync.Mutex // guards what follows
	mv     *director.Move
	before int64     // CopiedBytes when the pass began
	noted  time.Time // when the journal was last written
	kind   string    // of the reason in it
	speed  int64     // bytes a second, of the last look
	seen   int64     // CopiedBytes at the last look
}

// pull makes one pull and keeps the journal's figures current, at most once a
// second: what changes often does not belong into the directory.
func (c *copying) pull(ctx context.Context, final bool) (control.PullProgress, error) {
	c.mu.Lock()
	c.mv.Passes++
	c.before, c.noted = c.mv.CopiedBytes, time.Now()
	req := control.PullRequest{User: c.mv.User, Epoch: c.mv.Epoch + 1, Source: c.mv.Source, Node: c.node, Final: final}
	c.mu.Unlock()
	p, err := c.target.Pull(ctx, req, func(p control.PullProgress) { c.progress(ctx, p, final) })
	c.s.metrics.copied.Add(float64(p.Bytes))
	return p, err
}

func (c *copying) progress(ctx context.Context, p control.PullProgress, final bool) {
	if c.count(p, final) {
		c.write(ctx)
	}
}

// count takes the figures over, and tells whether it is time to write them.
func (c *copying) count(p control.PullProgress, final bool) (due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mv := c.mv
	if mv.CopiedBytes < c.before+p.Bytes {
		c.tries.progress()
	}
	mv.CopiedBytes = c.before + p.Bytes
	if !final && mv.Bytes < p.TotalBytes {
		mv.Bytes = p.TotalBytes
	}
	return !final && time.Since(c.noted) >= time.Second
}

// write notes the journal.
func (c *copying) write(ctx context.Context) {
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-c.writing }()
	c.mu.Lock()
	c.noted = time.Now()
	mv := *c.mv
	c.mu.Unlock()
	if err := c.s.dir.Advance(ctx, mv, c.rec, nil); err != nil {
		c.s.log.Debug("progress not noted", "user", mv.User, "error", err)
	}
}

// sayEvery is how often the figures in a reason are made current.
const sayEvery = 10 * time.Second

// say notes why the move waits or is slow; the zero reason: it does not.
func (c *copying) say(ctx context.Context, r reason) {
	if c.turned(r) {
		c.write(ctx)
	}
}

// turned takes a reason over, and tells whether it is to be written.
func (c *copying) turned(r reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.text == c.mv.Waiting || r.kind == c.kind && time.Since(c.noted) < sayEvery {
		return false
	}
	if r.kind != c.kind {
		c.s.log.Info("move yields", "user", c.mv.User, "move", c.mv.ID, "waiting", r.text)
	}
	c.kind, c.mv.Waiting = r.kind, r.text
	return true
}

// measure gives the speed since the last look.
func (c *copying) measure(span time.Duration) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.speed = int64(float64(c.mv.CopiedBytes-c.seen) / span.Seconds())
	c.seen = c.mv.CopiedBytes
	return c.speed
}

// hot makes a hot pass, as fast as limits and users allow. It gives the time that
// the pass would take without a pace; one that was paused counts from its last start.
func (c *copying) hot(ctx context.Context) (control.PullProgress, time.Duration, error) {
	for {
		begun := time.Now()
		c.setPace(ctx, c.yield.pace(c.s.share(c.move)))
		p, err := c.yielding(ctx)
		if !errors.Is(err, errPaused) {
			return p, unpaced(time.Since(begun), p.Bytes, c.told), err
		}
		if err := c.untilCalm(ctx); err != nil {
			return p, 0, err
		}
	}
}

// yielding makes one pull with an eye on the load.
func (c *copying) yielding(ctx context.Context) (control.PullProgress, error) {
	pass, end := context.WithCancelCause(ctx)
	var eye sync.WaitGroup
	eye.Go(func() {
		t := time.NewTicker(c.s.cfg.YieldEvery)
		defer t.Stop()
		for {
			select {
			case <-pass.Done():
				return
			case <-t.C:
			}
			if c.look(pass) {
				end(errPaused)
				return
			}
		}
	})
	p, err := c.pull(pass, false)
	end(nil)
	eye.Wait()
	if err != nil && errors.Is(context.Cause(pass), errPaused) {
		err = errPaused
	}
	return p, err
}

// look adapts the pace, and tells whether to pause.
func (c *copying) look(ctx context.Context) bool {
	strain, why := c.s.strainOf(ctx, c.move)
	most := c.s.share(c.move)
	pause := c.yield.look(strain, c.measure(c.s.cfg.YieldEvery), most)
	if ctx.Err() != nil {
		return false // the pass has ended
	}
	switch {
	case pause:
		c.say(ctx, reason{"pause " + why.kind, "paused: " + why.text})
	case c.yield.rate > 0 && strain > 1:
		c.say(ctx, reason{"slow " + why.kind, fmt.Sprintf("slowed to %d kB/s: %s", c.yield.pace(most)/1000, why.text)})
	case c.yield.rate == 0:
		c.say(ctx, reason{})
	}
	c.setPace(ctx, c.yield.pace(most))
	return pause
}

// setPace tells the source where it is another than before.
func (c *copying) setPace(ctx context.Context, rate int64) {
	if rate == c.told || rate == 0 && c.told < 0 {
		return
	}
	c.s.setPace(ctx, c.move, rate)
	c.told = rate
}

// untilCalm waits until the users of both backends do not wait any more, or the
// longest pause is over: then the move goes on as slowly as it can.
func (c *copying) untilCalm(ctx context.Context) error {
	begun := time.Now()
	for calm := 0; calm < patientFor && time.Since(begun) < c.s.cfg.YieldWait; {
		pause(ctx, c.s.cfg.YieldEvery)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.tries.progress() // a pause is no failure
		strain, why := c.s.strainOf(ctx, c.move)
		if strain < resumeAt {
			calm++
			continue
		}
		calm = 0
		c.say(ctx, reason{"pause " + why.kind, "paused: " + why.text})
	}
	c.s.metrics.yielded.Add(time.Since(begun).Seconds())
	c.yield = yielder{rate: slowest}
	c.say(ctx, reason{})
	return nil
}
