//go:build !race

package simtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/login"
	"waypost/internal/vfs"
	"waypost/internal/wire"
	"waypost/proxy"
)

// newProxy makes the proxy whose search for a home every session uses.
func newProxy(w *world) (*proxy.Server, *cache.Client, error) {
	memory, err := cache.Open(w.ctx, cache.Options{Store: &port{w: w, who: "p1", shy: true}})
	if err != nil {
		return nil, nil, err
	}
	s, err := proxy.Assemble(proxy.Config{LoginWait: 10 * time.Minute, DeadWait: 10 * time.Minute}, proxy.Deps{
		Node: "p1", Directory: memory, Guard: nobody{}, Log: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, director.BackendID, string) (net.Conn, error) {
			return nil, errors.New("simulated")
		},
		Jitter: func(d time.Duration) time.Duration { return d },
	})
	return s, memory, err
}

// nobody is a login guard that is never asked.
type nobody struct{}

func (nobody) Login(context.Context, login.Attempt) (login.Account, error) {
	return login.Account{}, login.ErrBadCredentials
}

func (nobody) Acquire(string, netip.Addr) (func(), error) { return func() {}, nil }

// client is one IMAP client, with the proxy's end of its session: where it
// lives, or the state while it is parked.
type client struct {
	w     *world
	name  string
	n     int // sessions begun
	at    *proc
	epoch director.Epoch
	state *state
	told  map[uint32]string
	box   uint32 // by its UIDVALIDITY
}

// state is what a hand-off carries.
type state struct {
	ID   string
	Box  uint32
	Told map[uint32]string
	Next uint32 // UIDNEXT as told
	// Pending is a command that was read and not executed.
	Pending string
}

// Outcomes of a command besides its result.
var (
	errHandedOff = errors.New("handed off")
	errBYE       = errors.New("BYE")
)

// live is the client's life: reads, and now and then an APPEND.
func (c *client) live(ctx context.Context, commands int) {
	ctx = as(ctx, c.name)
	for i := 0; i < commands && ctx.Err() == nil; i++ {
		if c.at == nil && !c.login(ctx) {
			if sleep(ctx, time.Second) != nil {
				return
			}
			continue
		}
		command := ""
		if c.w.step(ctx, c.name, "command") != nil {
			return
		}
		if c.w.chance(3) {
			command = fmt.Sprintf("%s-%d", c.name, i)
			c.w.begins(command)
		}
		if err := c.do(ctx, command); err != nil && ctx.Err() == nil {
			c.w.note(c.name, "session ended: "+err.Error())
			c.w.saw("session ended with BYE")
			c.at, c.state = nil, nil
		}
		if sleep(ctx, c.pause()) != nil {
			return
		}
	}
}

func (c *client) pause() time.Duration { return time.Duration(200+137*len(c.told)) * time.Millisecond }

func (c *client) login(ctx context.Context) bool {
	c.n++
	if c.w.memory.WaitReady(ctx) != nil { // nobody logs in at a proxy that has read nothing yet
		return false
	}
	c.told = map[uint32]string{}
	err := c.w.proxy.Find(ctx, alice, func(ctx context.Context, rec director.Record) (wire.Status, error) {
		return c.ask(ctx, rec, "open", func(p *proc) (wire.Status, error) {
			a := p.open(ctx, rec.Home, rec.Epoch)
			if p.dead {
				return "", errDown
			}
			if a != "ok" {
				return wire.Status(a), nil
			}
			b, err := p.read(ctx, rec.Epoch)
			switch {
			case errors.Is(err, errNotServed):
				return wire.StatusBusy, nil
			case err != nil:
				return "", err
			}
			c.box = b.Validity
			c.arrive(p, rec.Epoch)
			return wire.StatusOK, nil
		})
	})
	if err != nil && ctx.Err() == nil && c.w.deletions == 0 {
		c.w.fail("I5: a login failed: %v", err)
	}
	return err == nil
}

func (c *client) key() string { return fmt.Sprintf("%s/%d", c.name, c.n) }

// arrive makes p the place where the session lives.
func (c *client) arrive(p *proc, e director.Epoch) {
	c.at, c.epoch = p, e
	c.w.arrived(c.key(), p, e)
}

// ask is a request from the proxy to a backend, and its answer.
func (c *client) ask(ctx context.Context, rec director.Record, what string, fn func(p *proc) (wire.Status, error)) (wire.Status, error) {
	if err := c.w.step(ctx, c.name, what+" at "+string(rec.Home)); err != nil {
		return "", err
	}
	p := c.w.nodes[rec.Home].proc
	if p == nil || !p.ready || c.w.cut[string(rec.Home)+"/net"] {
		return "", errDown
	}
	return fn(p)
}

// do gives a command to wherever the session lives, and follows it as often as
// it is handed off.
func (c *client) do(ctx context.Context, command string) error {
	err := c.execute(ctx, command)
	for errors.Is(err, errHandedOff) {
		if err = c.resume(ctx); err == nil {
			pending := c.state.Pending
			c.state = nil
			err = c.execute(ctx, pending)
		}
	}
	return err
}

// execute runs at the backend; "" is a read.
func (c *client) execute(ctx context.Context, command string) error {
	p := c.at
	what := "read"
	if command != "" {
		what = "append " + command
	}
	if err := c.w.step(ctx, c.name, what+" on its way"); err != nil {
		return err
	}
	began := c.w.now()
	switch {
	case p.dead && command == "":
		// The client was told nothing since its last answer: the checkpoint is
		// what it saw.
		c.w.saw("resumed from a checkpoint")
		c.state = c.pack("")
		return errHandedOff
	case p.dead:
		return errBYE // nobody knows whether it was done
	case !p.enter(c.epoch):
		c.w.left(c.key(), p)
		c.state = c.pack(command)
		c.w.saw("session handed off")
		if c.w.chaos && c.w.chance(40) {
			c.w.saw("link cut in a hand-off")
			return errBYE
		}
		return errHandedOff
	case command != "":
		return c.appends(ctx, p, command)
	}
	b, err := p.read(ctx, c.epoch)
	switch {
	case p.dead, errors.Is(err, errNotServed): // it was so until the lock was there
		return c.execute(ctx, command)
	case err != nil:
		c.w.fail("%s: read: %v", c.name, err)
		return err
	}
	if err := c.w.step(ctx, c.name, "read answered"); err != nil {
		return err
	}
	for uid, name := range c.told {
		if !holds(b, uid, name) {
			c.w.fail("I4: %s was told of %s as UID %d, which is not so at %s", c.name, name, uid, p.n.id)
		}
	}
	for _, m := range b.Messages {
		c.told[m.UID] = m.Name
	}
	c.w.didRead(c.name, began, b)
	return nil
}

func (c *client) appends(ctx context.Context, p *proc, command string) error {
	_, err := p.commit(ctx, c.epoch, command, "")
	switch {
	case p.dead:
		return errBYE
	case err != nil: // fenced meanwhile: not done
		return c.execute(ctx, command)
	}
	if err := c.w.step(ctx, c.name, "append answered"); err != nil {
		return err
	}
	if !p.dead {
		c.w.acked[command] = true
	}
	return nil
}

func holds(b box, uid uint32, name string) bool {
	for _, m := range b.Messages {
		if m.UID == uid {
			return m.Name == name
		}
	}
	return false
}

func (c *client) pack(pending string) *state {
	c.w.handoffs++
	s := &state{ID: fmt.Sprintf("%s-%d", c.key(), c.w.handoffs), Box: c.box, Told: map[uint32]string{}, Pending: pending}
	for uid, name := range c.told {
		s.Told[uid] = name
		s.Next = max(s.Next, uid+1)
	}
	return s
}

// resume looks for the home and has the session go on there. Its outcome is
// known, or the session has ended.
func (c *client) resume(ctx context.Context) error {
	again := false
	for {
		outcome := error(nil)
		err := c.w.proxy.Find(ctx, alice, func(ctx context.Context, rec director.Record) (wire.Status, error) {
			return c.ask(ctx, rec, "resume", func(p *proc) (wire.Status, error) {
				var status wire.Status
				status, outcome = p.resume(ctx, c, rec)
				if outcome != nil {
					return wire.StatusOK, nil // the search has ended, for better or worse
				}
				return status, nil
			})
		})
		if err != nil {
			if ctx.Err() == nil && c.w.deletions == 0 {
				c.w.fail("I5: a session found no home: %v", err)
			}
			return fmt.Errorf("%w: %w", errBYE, err)
		}
		if errors.Is(outcome, errUnknown) && (c.w.rule("retry an unknown resume") || c.w.rule("accept an id twice")) && !again {
			again = true
			continue
		}
		return outcome
	}
}

var errUnknown = fmt.Errorf("%w: outcome of a resume unknown", errBYE)

// resume is the backend's: fence first, then the id, once and durably, then the
// view.
func (p *proc) resume(ctx context.Context, c *client, rec director.Record) (wire.Status, error) {
	a := p.open(ctx, rec.Home, rec.Epoch)
	if p.dead {
		return "", errUnknown
	}
	if a != "ok" {
		return wire.Status(a), nil
	}
	taken, err := p.accept(ctx, c.state.ID)
	if p.dead || err != nil {
		return "", errUnknown
	}
	if taken && !p.w.rule("accept an id twice") {
		if !p.w.rule("retry an unknown resume") {
			p.w.fail("I5: %s is handed to %s twice", c.state.ID, p.n.id)
		}
		return "", fmt.Errorf("%w: twice", errBYE)
	}
	b, err := p.read(ctx, rec.Epoch)
	switch {
	case errors.Is(err, errNotServed): // fenced since: it is handed off at once, as it came
		p.w.saw("handed off at once")
		c.state = c.pack(c.state.Pending)
		return wire.StatusBusy, nil
	case err != nil:
		return "", errUnknown
	}
	if b.Validity != c.state.Box {
		if p.w.deletions == 0 {
			p.w.fail("I4: UIDVALIDITY %d became %d", c.state.Box, b.Validity)
		}
		return "", fmt.Errorf("%w: identity", errBYE)
	}
	if b.UIDNext < c.state.Next {
		p.w.fail("I4: UIDNEXT shrank")
	}
	for uid, name := range c.state.Told {
		if !holds(b, uid, name) {
			p.w.fail("I4: %s resumes at %s, where UID %d is not %s", c.name, p.n.id, uid, name)
		}
	}
	p.w.saw("session resumed")
	if p.w.chaos && p.w.chance(25) {
		p.w.saw("link cut in a resume")
		p.w.haunts(ctx, c, p, rec.Epoch)
		return "", errUnknown
	}
	c.arrive(p, rec.Epoch)
	return wire.StatusOK, nil
}

// accept remembers a hand-off's id, durably, as package handed will.
func (p *proc) accept(ctx context.Context, id string) (taken bool, err error) {
	if err := p.lock(ctx, &p.mu, "user"); err != nil {
		return false, err
	}
	defer p.mu.unlock()
	ids := map[string]bool{}
	there := true
	text, err := vfs.ReadFile(p.fs, "/handed")
	if err != nil {
		if there, _ = fence.Exists(p.fs, "/handed"); there {
			return false, err
		}
	}
	if there {
		if err := json.Unmarshal(text, &ids); err != nil {
			return false, err
		}
	}
	if ids[id] {
		return true, nil
	}
	ids[id] = true
	text, err = json.Marshal(ids)
	if err != nil {
		return false, err
	}
	return false, vfs.ReplaceFile(p.fs, "/handed", text, 0o600)
}
