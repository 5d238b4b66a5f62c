//go:build !race

package simtest

import (
	"context"
	"errors"
	"fmt"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/rebalance"
)

// remote is a backend as a mover reaches it: requests and answers are late, or
// get lost.
type remote struct {
	w    *world
	who  string
	dead *bool
	n    *node
}

var _ rebalance.Backend = (*remote)(nil)

var errLost = errors.New("connection reset")

// call does fn on the backend's process as it is when the request arrives.
func call[T any](ctx context.Context, r *remote, what string, fn func(p *proc) (T, error)) (T, error) {
	var none T
	what = string(r.n.id) + " " + what
	ctx = as(ctx, r.who)
	if err := r.w.step(ctx, r.who, what); err != nil {
		return none, err
	}
	switch p := r.n.proc; {
	case *r.dead || r.w.cut[string(r.n.id)+"/net"] || r.w.chaos && r.w.chance(40):
		return none, errLost
	case p == nil || !p.ready:
		return none, errDown
	default:
		v, err := fn(p)
		if p.dead {
			return none, errDown
		}
		if stepErr := r.w.step(ctx, r.who, what+" answered"); stepErr != nil {
			return none, stepErr
		}
		if *r.dead || r.w.chaos && r.w.chance(40) {
			r.w.saw("answer of a call lost")
			return none, errLost
		}
		return v, err
	}
}

func no(code, format string, a ...any) error {
	return &control.Error{Code: code, Text: fmt.Sprintf(format, a...)}
}

func (p *proc) reply() control.FenceReply {
	return control.FenceReply{State: string(p.fence.State), Epoch: p.fence.Epoch}
}

func (r *remote) Look(ctx context.Context, _ control.LookRequest) (control.FenceReply, error) {
	return call(ctx, r, "look", func(p *proc) (control.FenceReply, error) {
		err := p.look(ctx)
		return p.reply(), err
	})
}

func (r *remote) Stage(ctx context.Context, req control.MoveRequest) (control.FenceReply, error) {
	return call(ctx, r, "stage", func(p *proc) (control.FenceReply, error) {
		if err := p.look(ctx); err != nil {
			return p.reply(), err
		}
		rec, err := fence.ReadRecord(ctx, p.dir, alice)
		if err != nil {
			return p.reply(), err
		}
		if !fence.MayStage(p.n.id, rec, req.Epoch) {
			return p.reply(), no(control.CodeEpoch, "record %v", rec)
		}
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return p.reply(), err
		}
		defer p.tree.unlock()
		if err := p.lock(ctx, &p.mu, "user"); err != nil {
			return p.reply(), err
		}
		defer p.mu.unlock()
		next, ok := fence.Stage(p.fence, req.Epoch)
		switch {
		case !ok:
			return p.reply(), no(control.CodeFence, "fence is %s", p.fence)
		case next == p.fence:
			return p.reply(), nil
		}
		if live, err := fence.Exists(p.fs, p.trees().Live); err != nil || live {
			return p.reply(), no(control.CodeFence, "a tree without a fence: %v", err)
		}
		err = p.setFence(next)
		return p.reply(), err
	})
}

// Pull copies the box as it is: what the source looks like changes meanwhile.
func (r *remote) Pull(ctx context.Context, req control.PullRequest, progress func(control.PullProgress)) (control.PullProgress, error) {
	return call(ctx, r, fmt.Sprintf("pull final=%v", req.Final), func(p *proc) (done control.PullProgress, err error) {
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return done, err
		}
		defer p.tree.unlock()
		if p.fence.State == fence.Sealed && p.fence.Epoch == req.Epoch {
			return control.PullProgress{Done: true}, nil
		}
		if p.fence.State != fence.Incoming || p.fence.Epoch != req.Epoch {
			return done, no(control.CodeFence, "fence is %s", p.fence)
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		p.stopPull = cancel
		defer func() { p.stopPull = nil }()
		b, err := r.fetch(ctx, req)
		if err != nil {
			return done, err
		}
		if err := p.step(ctx, "pulled"); err != nil {
			return done, err
		}
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		if err := writeBox(p.fs, p.trees().Staging, b); err != nil {
			return done, err
		}
		done = control.PullProgress{Files: int64(len(b.Messages)), Done: true}
		progress(done)
		return done, nil
	})
}

// fetch reads the source's tree, which must be frozen for the last pass.
func (r *remote) fetch(ctx context.Context, req control.PullRequest) (box, error) {
	source := &remote{w: r.w, who: r.who + ".pull", dead: new(bool), n: r.w.nodes[req.Source]}
	return call(ctx, source, "fetch", func(s *proc) (box, error) {
		if s.fence.State != fence.Serving && s.fence.Epoch != req.Epoch {
			if err := s.look(ctx); err != nil {
				return box{}, err
			}
		}
		frozen := s.fence.State == fence.Frozen && s.fence.Epoch == req.Epoch
		if !frozen && (req.Final || s.fence.State != fence.Serving) {
			return box{}, no(control.CodeFence, "fence is %s", s.fence)
		}
		b, err := readBox(s.fs, s.trees().Live)
		if err != nil {
			return b, err
		}
		if r.w.chaos && len(b.Messages) > 0 && r.w.chance(20) {
			// A file was missed in the listing: the proof must notice.
			r.w.saw("a copy missed a message")
			b.Messages = b.Messages[:len(b.Messages)-1]
		}
		if r.w.rule("ids not moved") {
			b.IDs = nil
		}
		return b, nil
	})
}

func (r *remote) Freeze(ctx context.Context, req control.MoveRequest) (control.ManifestSummary, error) {
	return call(ctx, r, "freeze", func(p *proc) (sum control.ManifestSummary, err error) {
		if err := p.look(ctx); err != nil {
			return sum, err
		}
		rec, err := fence.ReadRecord(ctx, p.dir, alice)
		if err != nil {
			return sum, err
		}
		if !fence.MayFreeze(p.n.id, rec, req.Epoch) {
			return sum, no(control.CodeEpoch, "record %v", rec)
		}
		if err := p.freezeAt(ctx, req.Epoch); err != nil {
			return sum, err
		}
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return sum, err
		}
		defer p.tree.unlock()
		b, err := readBox(p.fs, p.trees().Live)
		if err != nil {
			return sum, err
		}
		if p.fence != (fence.Fence{State: fence.Frozen, Epoch: req.Epoch}) {
			return sum, no(control.CodeFence, "fence became %s", p.fence)
		}
		return r.w.summary(b), nil
	})
}

func (p *proc) freezeAt(ctx context.Context, epoch director.Epoch) error {
	if err := p.lock(ctx, &p.mu, "user"); err != nil {
		return err
	}
	defer p.mu.unlock()
	next, ok := fence.Freeze(p.fence, epoch)
	switch {
	case !ok:
		return no(control.CodeFence, "fence is %s", p.fence)
	case next == p.fence:
		return nil
	}
	return p.setFence(next)
}

func (w *world) summary(b box) control.ManifestSummary {
	if w.rule("ids not moved") {
		b.IDs = nil
	}
	return control.ManifestSummary{Digest: b.digest(), Messages: int64(len(b.Messages))}
}

func (r *remote) Seal(ctx context.Context, req control.SealRequest) (control.ManifestSummary, error) {
	return call(ctx, r, "seal", func(p *proc) (sum control.ManifestSummary, err error) {
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return sum, err
		}
		defer p.tree.unlock()
		f := p.fence
		again, ok := fence.MaySeal(f, req.Epoch, req.Digest)
		if !ok {
			return sum, no(control.CodeFence, "fence is %s", f)
		}
		b, err := readBox(p.fs, p.trees().Staging)
		if err != nil {
			return sum, err
		}
		sum = r.w.summary(b)
		if r.w.rule("seal without proof") {
			sum.Digest = req.Digest
		}
		switch {
		case sum.Digest != req.Digest:
			return sum, no(control.CodeDiffers, "staging is %s", sum.Digest)
		case again:
			return sum, nil
		}
		if err := p.lock(ctx, &p.mu, "user"); err != nil {
			return sum, err
		}
		defer p.mu.unlock()
		if p.fence != f {
			return sum, no(control.CodeFence, "fence became %s", p.fence)
		}
		return sum, p.setFence(fence.Fence{State: fence.Sealed, Epoch: req.Epoch, Digest: req.Digest})
	})
}
