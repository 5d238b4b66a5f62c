package maildir

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"waypost/director"
	"waypost/internal/vfs/crashfs"
)

// worldStep is one draw of a history.
type worldStep struct {
	what string
	user int
	n    int
}

var worldSteps = []string{
	"deliver", "deliver", "deliver", "append", "flags", "flags", "expunge", "copy", "move", "create", "delete", "rename",
	"subscribe", "annotate", "annotate", "rights", "look", "checkpoint", "evict", "burst", "both",
}

func drawSteps(rt *rapid.T, least, most int) []worldStep {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) worldStep {
		return worldStep{
			what: rapid.SampledFrom(worldSteps).Draw(rt, "what"), user: rapid.IntRange(0, 1).Draw(rt, "user"),
			n: rapid.IntRange(0, 1<<20).Draw(rt, "n"),
		}
	}), least, most).Draw(rt, "steps")
}

// under are changes that were under way, by user.
type under map[*worldUser][]*change

// do makes a step. Changes that were answered are in the models afterwards,
// others, when there is an error, are returned.
func (w *world) do(s worldStep) (under, error) {
	u := w.users[s.user%len(w.users)]
	switch s.what {
	case "look":
		return nil, w.check(u, s.n%4 == 0, u.model)
	case "checkpoint":
		return nil, w.journal.Checkpoint()
	case "evict":
		return nil, w.evict(u)
	case "burst":
		return w.burst(u, s.n)
	case "both":
		return w.both(s.n)
	}
	c, err := w.plan(u, s.what, s.n)
	if c == nil || err != nil {
		return nil, err
	}
	if err := c.do(); err != nil {
		return under{u: {c}}, fmt.Errorf("%s: %w", c.name, err)
	}
	u.acknowledged(c)
	return nil, nil
}

// both delivers one message to all users at once, each under its own id.
func (w *world) both(n int) (under, error) {
	content := w.newContent()
	s, err := w.stage(content)
	if err != nil {
		return nil, err
	}
	defer s.Discard()
	w.ids++
	all := under{}
	for _, u := range w.users {
		folder := pick(n, u.model.names())
		id := fmt.Sprint("both-", w.ids)
		all[u] = []*change{{
			name: "deliver to both " + folder, id: id, do: func() error { return u.box.Deliver(tctx, one(id, s, folder, false)) },
			stages: []func(*model){func(m *model) { m.add(folder, modelMsg{content: content}) }},
		}}
	}
	return all.together()
}

// burst delivers several messages at once.
func (w *world) burst(u *worldUser, n int) (under, error) {
	all := under{}
	rng := rand.New(rand.NewPCG(uint64(n), 4))
	for range 2 + n%2 {
		content, folder := w.newContent(), pick(rng.IntN(100), u.model.names())
		s, err := w.stage(content)
		if err != nil {
			return nil, err
		}
		w.ids++
		id := fmt.Sprint("burst-", w.ids)
		all[u] = append(all[u], &change{
			name: "deliver in a burst " + folder, id: id,
			do: func() error {
				defer s.Discard()
				return u.box.Deliver(tctx, one(id, s, folder, false))
			},
			stages: []func(*model){func(m *model) { m.add(folder, modelMsg{content: content}) }},
		})
	}
	return all.together()
}

// together does all at the same time, and leaves those that failed.
func (all under) together() (failed under, err error) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	failed = under{}
	for u, list := range all {
		for _, c := range list {
			wait.Go(func() {
				e := c.do()
				mu.Lock()
				defer mu.Unlock()
				if e == nil {
					u.acknowledged(c)
					return
				}
				failed[u] = append(failed[u], c)
				err = errors.Join(err, fmt.Errorf("%s: %w", c.name, e))
			})
		}
	}
	wait.Wait()
	return failed, err
}

// models are all that a mailbox can have become.
func (u *worldUser) models(changes []*change) []*model {
	all := []*model{u.model}
	for _, c := range changes {
		var next []*model
		for _, m := range all {
			next = append(next, c.after(m)...)
		}
		all = next
	}
	return all
}

// onDisk gives a world with the same memories of what was told, on another disk.
func (w *world) onDisk(disk *crashfs.FS) *world {
	c := *w
	c.disk = disk
	c.users = nil
	for _, u := range w.users {
		l := ledgers{}
		for v, t := range u.told {
			l[v] = &told{t.next, t.high, maps.Clone(t.what), maps.Clone(t.flags)}
		}
		c.users = append(c.users, &worldUser{name: u.name, model: u.model.clone(), told: l, ids: slices.Clone(u.ids), guids: map[string]int{}})
	}
	return &c
}

// trap cuts the power, or kills the process, at an operation.
type trap struct {
	left   atomic.Int64
	kill   bool
	rng    *rand.Rand
	many   int
	sprung atomic.Bool
	done   chan struct{} // closed once disks are there
	disks  []*crashfs.FS
}

// newTrap makes one that springs at an operation up to most.
func newTrap(rng *rand.Rand, most int64, many, kills int) *trap {
	p := &trap{rng: rng, many: many, kill: rng.IntN(kills) == 0, done: make(chan struct{})}
	p.left.Store(1 + rng.Int64N(most))
	return p
}

// disarm takes the trap away. It reports whether that was too late; then the disks
// are there.
func (p *trap) disarm() bool {
	if p.left.Swap(-1<<40) > 0 {
		return false
	}
	<-p.done
	return true
}

// set lays the trap on a disk.
func (p *trap) set(disk *crashfs.FS) {
	disk.Fail(func(op crashfs.Op) error {
		if p.left.Add(-1) == 0 {
			defer close(p.done)
			p.sprung.Store(true)
			if p.kill {
				p.disks = append(p.disks, disk.Kill())
			} else {
				for range p.many {
					p.disks = append(p.disks, disk.Crash(p.rng))
				}
			}
		}
		return nil
	})
}

// recover boots on a disk, over as many crashes as bad says, and judges.
func (w *world) recover(before *world, pending under, rng *rand.Rand, bad int) error {
	for ; bad > 0; bad-- {
		p := newTrap(rng, 200, 1, 4)
		p.set(w.disk)
		err := w.boot()
		if !p.disarm() {
			if err != nil {
				return fmt.Errorf("boot: %w", err)
			}
			return w.judge(before, pending)
		}
		if err == nil {
			w.letGo()
		}
		w.disk, w.killed = p.disks[0], w.killed && p.kill
	}
	if err := w.boot(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return w.judge(before, pending)
}

// judge compares all mailboxes with what they must hold, and delivers again.
func (w *world) judge(before *world, pending under) error {
	for i, u := range w.users {
		changes := pending[before.users[i]]
		if err := w.check(u, true, u.models(changes)...); err != nil {
			return fmt.Errorf("%s: after %v: %w", u.name, names(changes), err)
		}
		for _, id := range u.ids {
			c, err := w.delivery(u, id, w.newContent(), nil, rand.New(rand.NewPCG(1, 1)))
			if err == nil {
				err = c.do()
			}
			if err != nil {
				return fmt.Errorf("%s: again: %w", u.name, err)
			}
			if is, err := u.box.Remembers("m " + id); err != nil || !is && id[0] == 'i' {
				return fmt.Errorf("%s: memory of %s is lost: %w", u.name, id, err)
			}
		}
		if err := w.check(u, false, u.model); err != nil {
			return fmt.Errorf("%s: delivered again: %w", u.name, err)
		}
	}
	return nil
}

func names(changes []*change) (list []string) {
	for _, c := range changes {
		list = append(list, c.name)
	}
	return list
}

// history runs steps with a crash somewhere, time and again until they are used
// up, and reports how many outcomes it has judged.
func history(w *world, steps []worldStep, rng *rand.Rand) (crashes int, err error) {
	for len(steps) > 0 {
		p := newTrap(rng, 700, 3, 5)
		p.set(w.disk)
		var pending under
		for len(steps) > 0 && !p.sprung.Load() {
			step := steps[0]
			steps = steps[1:]
			pending, err = w.do(step)
			if err != nil && !p.sprung.Load() {
				return crashes, fmt.Errorf("%+v: %w", step, err)
			}
			if errors.Is(err, errWrongBytes) {
				return crashes, fmt.Errorf("%+v: %w", step, err)
			}
		}
		if !p.disarm() {
			p.disks, p.kill = append(p.disks, w.disk.Kill()), true
		}
		w.letGo()
		// Views are believed if nothing but kills came since they were written.
		w.killed = p.kill
		var next *world
		for _, disk := range p.disks {
			next = w.onDisk(disk)
			if err := next.recover(w, pending, rng, max(0, rng.IntN(5)-2)); err != nil {
				return crashes, err
			}
			crashes++
			if disk != p.disks[len(p.disks)-1] {
				next.disk.Kill()
				next.letGo()
			}
		}
		w = next
	}
	w.disk.Fail(nil)
	for _, u := range w.users {
		u.box.Close()
		if err := u.account.Close(); err != nil {
			return crashes, err
		}
	}
	return crashes, w.journal.Close()
}

var worldUsers = []director.User{"a@example.test", "b@example.test"}

// checks sets the number of checks of rapid for a test, unless it was asked for.
func checks(t *testing.T, n string) {
	if flagSet {
		return
	}
	before := flag.Lookup("rapid.checks").Value.String()
	must(t, flag.Set("rapid.checks", n))
	t.Cleanup(func() { _ = flag.Set("rapid.checks", before) })
}

func TestCrashesAnywhere(t *testing.T) {
	checks(t, "150")
	crashes := 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt, 10, 60)
		seed := rapid.Uint64().Draw(rt, "seed")
		w, err := newWorld(seed, slog.New(slog.DiscardHandler), worldUsers...)
		if err != nil {
			rt.Fatal(err)
		}
		n, err := history(w, steps, rand.New(rand.NewPCG(seed, 1)))
		crashes += n
		if err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d crashes", crashes)
}
