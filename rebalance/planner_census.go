package rebalance

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/census"
	"waypost/rebalance/plan"
)

// counter is a Backend that also tells what its users hold.
type counter interface {
	Census(ctx context.Context, req census.Request) (census.Reply, error)
}

// errNoCensus: the backend is of a version that does not know the call.
var errNoCensus = errors.New("the backend does not tell what its users hold: it is of an older version")

// Census implements counter.
func (c *client) Census(ctx context.Context, req census.Request) (census.Reply, error) {
	reply, err := control.Call[census.Reply](ctx, c.Client, census.Path, req)
	if err != nil && strings.Contains(err.Error(), "answer 404") {
		return reply, fmt.Errorf("%w: %w", errNoCensus, err)
	}
	return reply, err
}

const (
	// censusWait bounds one call, censusAtOnce how many backends are asked together.
	censusWait   = 20 * time.Second
	censusAtOnce = 16
	// activeFor is how long after a change a user counts as at work.
	activeFor = 10 * time.Minute
)

func (p *planner) count(ctx context.Context, id director.BackendID, req census.Request) (census.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, censusWait)
	defer cancel()
	b, _, err := p.s.dial(ctx, id)
	if err != nil {
		return census.Reply{}, err
	}
	c, ok := b.(counter)
	if !ok {
		return census.Reply{}, errNoCensus
	}
	return c.Census(ctx, req)
}

// gathered is what a plan is made from. It has no more of users than those with
// tags, in groups, moved of late, or on a backend that cannot be asked.
type gathered struct {
	p        *planner
	backends []plan.Backend
	// blind are the backends that tell nothing; byHome has their users.
	blind  map[director.BackendID]bool
	byHome map[director.BackendID][]director.User
	group  map[director.User]string
	tags   map[director.User][]string
	groups map[string]int
	held   map[director.User]bool
	moving map[director.User]director.Move
	// asOf is since when a backend's totals do not know of moves.
	asOf map[director.BackendID]time.Time
}

// gather reads directory and backends.
func (p *planner) gather(ctx context.Context, pol director.PlanPolicy) (*gathered, error) {
	g := &gathered{p: p, blind: map[director.BackendID]bool{}, byHome: map[director.BackendID][]director.User{},
		group: map[director.User]string{}, tags: map[director.User][]string{}, groups: map[string]int{},
		held: map[director.User]bool{}, moving: map[director.User]director.Move{}, asOf: map[director.BackendID]time.Time{}}
	for _, read := range []func(context.Context) error{
		g.readBackends,
		func(ctx context.Context) error { return g.readMoves(ctx, pol) },
		g.readAccounts,
		g.readHomes,
	} {
		if err := read(ctx); err != nil {
			return nil, fmt.Errorf("gather what the plan needs: %w", err)
		}
	}
	if pol.Goal != director.GoalDrain && pol.By != director.ByUsers {
		for _, b := range g.backends {
			if g.blind[b.ID] {
				return nil, fmt.Errorf("%w: backend %s: upgrade it, plan by users, or only drain", errNoCensus, b.ID)
			}
		}
	}
	return g, nil
}

func (g *gathered) readBackends(ctx context.Context) error {
	_, err := g.p.s.dir.Store().List(ctx, director.PrefixBackend, func(e director.Entry) error {
		b, err := director.DecodeBackend(e.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		if b.Kind == director.KindWaypost { // moves know no other kind
			id := director.BackendID(strings.TrimPrefix(e.Key, director.PrefixBackend))
			g.backends = append(g.backends, plan.Backend{ID: id, State: b.State, Weight: b.Weight, Capacity: b.CapacityBytes, Tags: b.Tags})
		}
		return nil
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, censusAtOnce)
	var mu sync.Mutex // guards blind and asOf
	for i := range g.backends {
		b := &g.backends[i]
		if b.State == director.BackendOffline {
			b.Away = true
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, err := g.p.count(ctx, b.ID, census.Request{})
			switch {
			case errors.Is(err, errNoCensus):
				mu.Lock()
				g.blind[b.ID] = true
				mu.Unlock()
			case err != nil:
				b.Away = true
				g.p.s.log.Warn("a backend was not asked for what it holds", "backend", string(b.ID), "error", err)
			default:
				t := r.Totals
				b.Use = director.PlanUse{Users: t.Users, Bytes: t.Bytes, Messages: t.Messages, Load: census.Load(t.Sessions, t.DeliveriesPerDay)}
				if b.Capacity == 0 {
					b.Capacity = t.CapacityBytes
				}
				if t.AsOf > 0 {
					mu.Lock()
					g.asOf[b.ID] = time.UnixMilli(t.AsOf)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// readMoves finds who is on the way, and who was moved of late.
func (g *gathered) readMoves(ctx context.Context, pol director.PlanPolicy) error {
	store := g.p.s.dir.Store()
	cool := g.p.now().Add(-time.Duration(pol.CoolDownSeconds) * time.Second)
	_, err := store.List(ctx, director.PrefixReceipt, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		if err != nil || m.Phase != director.PhaseDone {
			return err
		}
		if m.Finished.After(cool) {
			g.held[m.User] = true
		}
		g.correct(m)
		return nil
	})
	if err != nil {
		return err
	}
	_, err = store.List(ctx, director.PrefixMove, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		if err == nil && !m.Phase.Finished() {
			g.moving[m.User] = m
		}
		return err
	})
	for i := range g.backends {
		for _, m := range g.moving {
			if b := &g.backends[i]; m.Target == b.ID {
				b.Incoming.Users++
				b.Incoming.Bytes += m.Bytes
				b.Incoming.Messages += m.Messages
			}
		}
	}
	return err
}

// correct books a move that the totals of its backends do not know of yet; else the
// next plan would make the same moves again.
func (g *gathered) correct(m director.Move) {
	for i := range g.backends {
		b := &g.backends[i]
		sign := int64(0)
		switch b.ID {
		case m.Source:
			sign = -1
		case m.Target:
			sign = 1
		default:
			continue
		}
		if since, old := g.asOf[b.ID]; old && m.Finished.After(since) {
			b.Use.Bytes = max(0, b.Use.Bytes+sign*m.Bytes)
			b.Use.Messages = max(0, b.Use.Messages+sign*m.Messages)
		}
	}
}

// readAccounts finds those with tags or a group. Nearly all have neither, and are
// only read where a name is seen.
func (g *gathered) readAccounts(ctx context.Context) error {
	sets := map[string][]string{} // one of each, however many have it
	_, err := g.p.s.dir.Store().List(ctx, director.PrefixAccount, func(e director.Entry) error {
		raw := string(e.Value)
		if !strings.Contains(raw, `"group":`) && !strings.Contains(raw, `"tags":`) {
			return nil
		}
		a, err := director.DecodeAccount(e.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		u := director.User(strings.TrimPrefix(e.Key, director.PrefixAccount))
		if a.Group != "" {
			g.group[u] = a.Group
			g.groups[a.Group]++
		}
		if len(a.Tags) > 0 {
			key := strings.Join(a.Tags, ",")
			if sets[key] == nil {
				sets[key] = a.Tags
			}
			g.tags[u] = sets[key]
		}
		return nil
	})
	return err
}

// readHomes finds misplaced users, and those of backends that tell nothing.
func (g *gathered) readHomes(ctx context.Context) error {
	if len(g.tags) == 0 && len(g.blind) == 0 {
		return nil
	}
	at := map[director.BackendID]*plan.Backend{}
	for i := range g.backends {
		at[g.backends[i].ID] = &g.backends[i]
	}
	_, err := g.p.s.dir.Store().List(ctx, director.PrefixLocation, func(e director.Entry) error {
		r, err := director.DecodeRecord(e.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		b := at[r.Home]
		if r.State == director.Deleted || b == nil {
			return nil
		}
		u := director.User(strings.TrimPrefix(e.Key, director.PrefixLocation))
		b.Misplaced = b.Misplaced || !director.MayLive(g.tags[u], b.Tags)
		if g.blind[r.Home] {
			b.Use.Users++
			g.byHome[r.Home] = append(g.byHome[r.Home], u)
		}
		return nil
	})
	return err
}

// users gives the users of one backend, a page at a time.
func (g *gathered) users(ctx context.Context) func(director.BackendID) iter.Seq2[plan.User, error] {
	return func(id director.BackendID) iter.Seq2[plan.User, error] {
		return func(yield func(plan.User, error) bool) {
			for _, u := range g.byHome[id] {
				if !yield(g.user(census.User{User: u}), nil) {
					return
				}
			}
			if g.blind[id] {
				return
			}
			for req := (census.Request{Limit: census.MaxPage}); ; {
				r, err := g.p.count(ctx, id, req)
				if err != nil {
					yield(plan.User{}, err)
					return
				}
				for _, u := range r.Users {
					if !yield(g.user(u), nil) {
						return
					}
				}
				if !r.More || len(r.Users) == 0 {
					return
				}
				req.After = r.Users[len(r.Users)-1].User
			}
		}
	}
}

func (g *gathered) user(u census.User) plan.User {
	_, moving := g.moving[u.User]
	return plan.User{
		Name: u.User, Bytes: u.Bytes, Messages: u.Messages, Load: census.Load(int64(u.Sessions), u.DeliveriesPerDay),
		Active: u.Sessions > 0 || g.p.now().Sub(time.Unix(u.LastActive, 0)) < activeFor,
		Held:   g.held[u.User], Moving: moving, Group: g.group[u.User], Tags: g.tags[u.User],
	}
}
