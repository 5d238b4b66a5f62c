//go:build !race

package simtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

const alice = director.User("alice@example.test")

// node is a backend's machine: its disk outlives its processes.
type node struct {
	w    *world
	id   director.BackendID
	disk *crashfs.FS
	proc *proc // nil: down
}

// proc is one run of a backend on that machine. Its fields belong to who has
// the turn.
type proc struct {
	w      *world
	n      *node
	fs     *crashfs.FS
	ctx    context.Context
	stop   context.CancelFunc
	dead   bool
	port   *port
	dir    *director.Directory
	fences *fence.Dir
	busy   fence.BusyUsers

	fence    fence.Fence
	alarm    string
	mu, tree lock
	stopPull context.CancelFunc
	// ready: the fences were reconciled (R9).
	ready bool
	// places are the sessions that live here, by their clients.
	places map[string]bool
	looks  chan struct{}
	// doing is on whose behalf the disk works, to tell two of them apart.
	doing string
}

var errDown = errors.New("connection refused")

// lock is a mutex for those who take turns.
type lock struct {
	held bool
	free chan struct{}
}

func (p *proc) lock(ctx context.Context, l *lock, what string) error {
	p.doing = named(ctx)
	for l.held {
		if l.free == nil {
			l.free = make(chan struct{})
		}
		select {
		case <-l.free:
		case <-p.ctx.Done():
			return errDown
		}
		if err := p.step(ctx, "lock "+what); err != nil {
			return err
		}
	}
	l.held = true
	return nil
}

func (l *lock) unlock() {
	l.held = false
	if l.free != nil {
		close(l.free)
		l.free = nil
	}
}

// step is a seam of this process, on behalf of whom ctx names.
func (p *proc) step(ctx context.Context, what string) error {
	name := named(ctx)
	if err := p.w.step(as(p.ctx, name), string(p.n.id), what); err != nil || p.dead {
		return errDown
	}
	p.doing = name
	return nil
}

// boot starts a backend on the machine's disk.
func (n *node) boot() {
	n.w.boots++
	p := &proc{w: n.w, n: n, fs: n.disk, places: map[string]bool{}, looks: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(n.w.ctx)
	p.port = &port{w: n.w, who: string(n.id)}
	p.dir = director.New(p.port)
	n.proc = p
	n.disk.Fail(p.operation)
	n.w.running.Go(p.run)
}

// operation is called before each of the disk's: the power may fail there.
func (p *proc) operation(op crashfs.Op) error {
	if p.dead {
		return crashfs.ErrDown
	}
	if p.w.chaos && p.w.crashes > 0 && p.w.chance(400) {
		p.w.saw("crash at a disk operation")
		if strings.Contains(op.Name, "/users/") && op.Kind == "rename" || p.fence.State == fence.Sealed {
			p.w.saw("crash within adoption")
		}
		p.n.crash("at " + string(op.Kind) + " in " + path.Dir(op.Name))
		return crashfs.ErrDown
	}
	if p.w.chance(24) {
		name := p.doing
		if p.w.step(as(p.ctx, name), string(p.n.id), "disk "+string(op.Kind)) != nil {
			return crashfs.ErrDown
		}
		p.doing = name
	}
	return nil
}

// crash cuts the power.
func (n *node) crash(why string) {
	p := n.proc
	if p == nil {
		return
	}
	n.w.crashes--
	n.w.note(string(n.id), "crash "+why)
	p.dead, p.port.dead = true, true
	n.disk = p.fs.Crash(n.w.rng)
	n.proc = nil
	for c := range p.places {
		n.w.left(c, p)
	}
	p.stop()
	n.w.wakeRestart(n)
}

// run is R9, and then what a backend does by itself.
func (p *proc) run() {
	for !p.begin() {
		if sleep(p.ctx, time.Second) != nil {
			return
		}
	}
	p.w.running.Go(p.watch)
	if p.w.rule("no take-back") {
		return
	}
	for sleep(p.ctx, time.Second) == nil {
		if p.step(p.ctx, "clock") != nil {
			return
		}
		for u, v := range p.busy.Snapshot() {
			why, _, look, err := p.busy.TakeBack(p.ctx, p.dir, u, v, busyLimit, ownerGrace)
			if err == nil && why != "" {
				p.w.saw("taken back: " + why)
			}
			if look && p.look(p.ctx) != nil {
				p.w.saw("look failed")
			}
		}
	}
}

// begin reads the fence and brings it up to date.
func (p *proc) begin() bool {
	if p.step(p.ctx, "start") != nil {
		return false
	}
	var err error
	if p.fences, err = fence.OpenDirOn(p.fs, "/fences"); err != nil {
		return false
	}
	if p.fence, err = p.fences.Get(alice); err != nil {
		if !p.dead {
			p.w.fail("%s: fence: %v", p.n.id, err)
		}
		return false
	}
	if p.look(p.ctx) != nil {
		return false
	}
	p.ready = true
	return true
}

// watch follows the directory as backend.observe does, and looks.
func (p *proc) watch() {
	p.w.running.Go(func() {
		for {
			select {
			case <-p.looks:
			case <-p.ctx.Done():
				return
			}
			for p.look(as(p.ctx, "watch")) != nil {
				if sleep(p.ctx, time.Second) != nil {
					return
				}
			}
		}
	})
	for rev := int64(1); ; {
		for b := range p.port.Watch(p.ctx, director.PrefixLocation, rev) {
			for _, c := range b.Changes {
				r, err := director.DecodeRecord(c.Value)
				if err != nil {
					continue
				}
				p.busy.Note(alice, r, p.n.id)
				if fence.Reconcile(p.n.id, p.fence, &r).Action != fence.Keep {
					select {
					case p.looks <- struct{}{}:
					default:
					}
				}
			}
			rev = b.Revision + 1
		}
		if sleep(p.ctx, time.Second) != nil {
			return
		}
	}
}

func (p *proc) trees() fence.Trees {
	return fence.Trees{FS: p.fs, Live: "/users/alice", Staging: "/staging/alice", Manifest: "/manifests/alice",
		Trash: func(e director.Epoch) string { return fmt.Sprintf("/trash/alice@%d", e) }}
}

// look is backend.Server.look: the lock order and what is stopped are its.
func (p *proc) look(ctx context.Context) error {
	return fence.Look(ctx, p.dir, alice, func() fence.Fence { return p.fence }, func(before fence.Fence, rec *director.Record, mv *director.Move) (bool, error) {
		return p.obey(ctx, before, rec, mv)
	})
}

func (p *proc) obey(ctx context.Context, before fence.Fence, rec *director.Record, mv *director.Move) (again bool, err error) {
	if p.dead {
		return false, errDown
	}
	d := fence.Decide(p.n.id, p.fence, rec, mv)
	if d.Action == fence.Drop || d.Action == fence.Adopt {
		if p.stopPull != nil {
			p.stopPull()
		}
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return false, err
		}
		defer p.tree.unlock()
	}
	if err := p.lock(ctx, &p.mu, "user"); err != nil {
		return false, err
	}
	defer p.mu.unlock()
	if p.fence != before {
		return true, nil
	}
	return false, p.perform(fence.Decide(p.n.id, p.fence, rec, mv), rec)
}

func (p *proc) perform(d fence.Decision, rec *director.Record) error {
	if d.Action == fence.Refuse {
		if p.alarm == "" {
			p.w.fail("%s raises an alarm: fence %s, record %v: %s", p.n.id, p.fence, rec, d.Why)
		}
		p.alarm = d.Why
		return nil
	}
	p.alarm = ""
	if d.Action != fence.Keep {
		p.w.note(string(p.n.id), fmt.Sprintf("%s: %s to %s by %s", d.Action, p.fence, d.Next, rec))
	}
	var err error
	deleted := rec != nil && rec.State == director.Deleted
	switch d.Action {
	case fence.Keep:
		return nil
	case fence.Serve:
	case fence.Adopt:
		p.w.saw("adopted")
		if p.w.rule("fence before rename") {
			if err := p.setFence(d.Next); err != nil {
				return err
			}
		}
		err = p.trees().Adopt()
	case fence.Trash:
		err = p.trees().Discard(p.fence, deleted)
	case fence.Drop:
		err = p.trees().Drop(p.fence, deleted)
	}
	if err != nil {
		return err
	}
	return p.setFence(d.Next)
}

// setFence makes it durable, then true. I1 is looked at each time.
func (p *proc) setFence(f fence.Fence) error {
	if err := p.fences.Put(alice, f); err != nil {
		return err
	}
	if p.dead {
		return errDown
	}
	p.fence = f
	p.w.oneWriter()
	return nil
}

// box is a mailbox: what a move must not change.
type box struct {
	Validity uint32    `json:"validity"`
	UIDNext  uint32    `json:"uidnext"`
	Messages []message `json:"messages"`
	// IDs are the delivery ids, in the same durable write as the messages (I3).
	IDs []string `json:"ids"`
}

type message struct {
	Name string `json:"name"`
	UID  uint32 `json:"uid"`
}

func (b box) has(name string) bool {
	return slices.ContainsFunc(b.Messages, func(m message) bool { return m.Name == name })
}

func (b box) digest() string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func readBox(fsys vfs.FS, tree string) (box, error) {
	var b box
	text, err := vfs.ReadFile(fsys, path.Join(tree, "box"))
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	return b, err
}

func writeBox(fsys vfs.FS, tree string, b box) error {
	text, err := json.Marshal(b)
	if err == nil {
		err = vfs.MkdirAll(fsys, tree, 0o700)
	}
	if err == nil {
		err = vfs.ReplaceFile(fsys, path.Join(tree, "box"), text, 0o600)
	}
	return err
}

// enter is R1.
func (p *proc) enter(epoch director.Epoch) bool {
	if p.w.rule("serve without epoch check") {
		there, err := fence.Exists(p.fs, p.trees().Live)
		return there && err == nil
	}
	return p.ready && p.fence.State == fence.Serving && p.fence.Epoch == epoch && p.alarm == ""
}

// answer says why epoch is not served, as backend.user.refusal does.
func (p *proc) answer(epoch director.Epoch) string {
	switch f := p.fence; {
	case p.enter(epoch):
		return "ok"
	case p.alarm != "" || !p.ready:
		return "refused"
	case f.State == fence.Frozen && epoch <= f.Epoch:
		return "busy"
	case epoch <= f.Epoch, f.State == fence.Serving:
		return "stale"
	}
	return "refused"
}

// open is backend.Server.Open: the place where a request makes the home look.
func (p *proc) open(ctx context.Context, home director.BackendID, epoch director.Epoch) string {
	if home != p.n.id {
		return "stale"
	}
	a := p.answer(epoch)
	if a == "refused" || a == "stale" && epoch > p.fence.Epoch {
		if p.look(ctx) == nil && !p.dead {
			a = p.answer(epoch)
		}
	}
	return a
}

// commit writes a message under the user's lock; id "" is a session's append.
func (p *proc) commit(ctx context.Context, epoch director.Epoch, name, id string) (uint32, error) {
	if err := p.lock(ctx, &p.mu, "user"); err != nil {
		return 0, err
	}
	defer p.mu.unlock()
	if !p.w.rule("no check at commit") && !p.enter(epoch) {
		return 0, errNotServed
	}
	b, err := readBox(p.fs, p.trees().Live)
	if err != nil {
		return 0, err
	}
	if id != "" && slices.Contains(b.IDs, id) {
		p.w.saw("delivered again")
		return 0, nil
	}
	if b.has(name) {
		p.w.fail("I3: %s twice at %s", name, p.n.id)
	}
	uid := b.UIDNext
	b.Messages, b.UIDNext = append(b.Messages, message{name, uid}), uid+1
	if id != "" {
		b.IDs = append(b.IDs, id)
	}
	if err := writeBox(p.fs, p.trees().Live, b); err != nil {
		return 0, err
	}
	if p.dead {
		return 0, errDown
	}
	p.w.wrote(p, epoch, b, name, uid)
	return uid, nil
}

// read takes a snapshot for a session, under the user's lock.
func (p *proc) read(ctx context.Context, epoch director.Epoch) (box, error) {
	if err := p.lock(ctx, &p.mu, "user"); err != nil {
		return box{}, err
	}
	defer p.mu.unlock()
	if !p.enter(epoch) {
		return box{}, errNotServed
	}
	b, err := readBox(p.fs, p.trees().Live)
	if p.dead {
		return b, errDown
	}
	return b, err
}

var errNotServed = errors.New("not served")
