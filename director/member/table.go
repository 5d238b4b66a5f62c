package member

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"waypost/internal/cluster"
)

// EventKind says what changed of a member.
type EventKind int

const (
	// Up: it came, or came back.
	Up EventKind = iota
	// Down: it left or crashed.
	Down
	// Update: its load or its node address changed.
	Update
)

// String is for logs.
func (k EventKind) String() string {
	switch k {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "update"
}

// Event is one change.
type Event struct {
	Kind   EventKind
	Member Member
}

const (
	// rememberDead is how long a dead node is told of.
	rememberDead = 24 * time.Hour
	// maxMembers bounds the table; memberlist is troubled above some 1,000.
	maxMembers = 4096
)

// table is what memberlist has told, and who wants to know. memberlist calls it
// with its own lock held, so it only notes, and announce tells.
type table struct {
	log   *slog.Logger
	dirty chan struct{} // holds one: there is something to announce

	mu   sync.Mutex // guards what follows, for moments only
	all  map[cluster.Peer]*entry
	subs map[*subscription]struct{}
}

type subscription struct{ fn func(Event) }

type entry struct {
	now Member
	ups int // how often it came
	// The rest is as last announced; pending while it may differ from now.
	pending   bool
	wasAlive  bool
	announced int
}

func newTable(log *slog.Logger) *table {
	return &table{
		log: log, dirty: make(chan struct{}, 1),
		all: map[cluster.Peer]*entry{}, subs: map[*subscription]struct{}{},
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (t *table) NotifyJoin(n *memberlist.Node) { t.note(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.note(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (t *table) NotifyLeave(n *memberlist.Node) { t.note(n, false) }

// NotifyConflict implements memberlist.ConflictDelegate. A node that restarted
// at another address before its crash was seen shows up here, too.
func (t *table) NotifyConflict(have, other *memberlist.Node) {
	t.log.Warn("two nodes of one name; the first is believed until it is dead",
		"name", have.Name, "address", have.Address(), "other", other.Address())
}

func (t *table) note(n *memberlist.Node, alive bool) {
	p, err := parseName(n.Name)
	if err != nil {
		t.log.Warn("a node of no known role is ignored", "error", err)
		return
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		t.log.Warn("a node's gossip cannot be read", "name", n.Name, "error", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.all[p]
	if e == nil {
		t.prune()
		if len(t.all) >= maxMembers {
			t.log.Warn("too many members; one is ignored", "name", n.Name)
			return
		}
		e = &entry{now: Member{Role: p.Role, ID: p.ID}}
		t.all[p] = e
	}
	if alive != e.now.Alive {
		e.now.Alive, e.now.Since = alive, time.Now()
		if alive {
			e.ups++
		}
	}
	if alive {
		e.now.Node, e.now.Load = m.Node, m.Load
	}
	e.pending = true
	select {
	case t.dirty <- struct{}{}:
	default:
	}
}

// prune forgets who has been dead for long. The caller holds mu.
func (t *table) prune() {
	for p, e := range t.all {
		if !e.now.Alive && !e.pending && time.Since(e.now.Since) > rememberDead {
			delete(t.all, p)
		}
	}
}

// announce tells the subscribers until ctx ends.
func (t *table) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.dirty:
		}
		events, subs := t.take()
		for _, ev := range events {
			if ev.Kind != Update {
				t.log.Info("member "+ev.Kind.String(), "name", ev.Member.Peer().String(), "node", ev.Member.Node)
			}
			for _, s := range subs {
				s.fn(ev)
			}
		}
	}
}

// take gives what is to be announced, and to whom.
func (t *table) take() ([]Event, []*subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune()
	var events []Event
	for _, e := range t.all {
		if !e.pending {
			continue
		}
		events = append(events, e.events()...)
		e.pending, e.wasAlive, e.announced = false, e.now.Alive, e.ups
	}
	subs := make([]*subscription, 0, len(t.subs))
	for s := range t.subs {
		subs = append(subs, s)
	}
	return events, subs
}

// events are what brings a listener from what was announced to what is now.
func (e *entry) events() []Event {
	down := e.now
	down.Alive = false
	came := e.ups != e.announced
	switch {
	case e.wasAlive && e.now.Alive && came:
		return []Event{{Down, down}, {Up, e.now}}
	case e.now.Alive && came:
		return []Event{{Up, e.now}}
	case e.now.Alive:
		return []Event{{Update, e.now}}
	case e.wasAlive:
		return []Event{{Down, e.now}}
	case came: // it came and went unannounced
		up := e.now
		up.Alive = true
		return []Event{{Up, up}, {Down, e.now}}
	}
	return nil
}

func (t *table) subscribe(fn func(Event)) (cancel func()) {
	s := &subscription{fn}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs[s] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subs, s)
	}
}

// copyOf shares no memory with the table.
func (e *entry) copyOf() Member {
	m := e.now
	if m.Load != nil {
		l := *m.Load
		m.Load = &l
	}
	return m
}

func (t *table) members() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	ms := make([]Member, 0, len(t.all))
	for _, e := range t.all {
		if e.now.Alive || time.Since(e.now.Since) <= rememberDead {
			ms = append(ms, e.copyOf())
		}
	}
	sortMembers(ms)
	return ms
}

func (t *table) get(p cluster.Peer) (Member, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.all[p]
	if e == nil || !e.now.Alive && time.Since(e.now.Since) > rememberDead {
		return Member{}, false
	}
	return e.copyOf(), true
}
