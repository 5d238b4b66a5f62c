package cache

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"waypost/director"
)

// shardCount spreads look-ups over locks.
const shardCount = 256

// state is the memory of one era. It only grows newer: when the era changes it
// is dropped as a whole. Users are written by the run goroutine and by Fresh
// reads, everything else by the run goroutine alone.
type state struct {
	era     string
	shared  *shared
	seed    maphash.Seed
	dropped chan struct{} // closed when another era took over
	gen     uint16        // counts full reads; only the run goroutine uses it

	shards [shardCount]shard
	groups groups

	mu        sync.RWMutex                     // protects what follows
	addresses map[string]row[director.Address] // by "domain/local"
	domains   map[string]row[director.Domain]
	backends  map[director.BackendID]row[director.Backend]
}

// row is a value and the revision and full read that brought it.
type row[T any] struct {
	value T
	rev   int64
	gen   uint16
}

// shared is what outlives an era.
type shared struct {
	names   names
	lookups [shardCount]lookups
}

// lookups are counted per shard, so that processors do not share a line.
type lookups struct {
	hits, misses atomic.Uint64
	_            [48]byte
}

// shard is a part of the users.
type shard struct {
	mu      sync.RWMutex
	users   map[director.User]entry
	waiters map[director.User]*waiter
	// located and accounts count the users that have the one and the other.
	located, accounts int
}

// entry is one user: 24 bytes, since ten million are kept. Epoch 0 means that
// only the account is there.
type entry struct {
	epoch      director.Epoch
	acct       *account
	home, peer uint16 // in names
	state      uint8
}

// account is kept as it is stored, and read when asked for.
type account struct {
	raw string
	rev int64
	gen uint16
}

// waiter is closed at the user's next change.
type waiter struct {
	changed chan struct{}
	waiting int
}

var states = [...]director.State{director.Active, director.Busy, director.Deleted}

func newState(era string, sh *shared) *state {
	st := &state{
		era: era, shared: sh, seed: maphash.MakeSeed(), dropped: make(chan struct{}),
		addresses: map[string]row[director.Address]{},
		domains:   map[string]row[director.Domain]{},
		backends:  map[director.BackendID]row[director.Backend]{},
	}
	for i := range st.shards {
		st.shards[i].users = map[director.User]entry{}
		st.shards[i].waiters = map[director.User]*waiter{}
	}
	return st
}

func (st *state) index(u director.User) int {
	return int(maphash.String(st.seed, string(u)) % shardCount)
}

func (st *state) shard(u director.User) *shard { return &st.shards[st.index(u)] }

func (st *state) location(u director.User) (director.Record, bool) {
	i := st.index(u)
	sh := &st.shards[i]
	sh.mu.RLock()
	e := sh.users[u]
	sh.mu.RUnlock()
	if e.epoch == 0 {
		st.shared.lookups[i].misses.Add(1)
		return director.Record{}, false
	}
	st.shared.lookups[i].hits.Add(1)
	return st.record(e), true
}

func (st *state) record(e entry) director.Record {
	return director.Record{Home: st.shared.names.name(e.home), Epoch: e.epoch, State: states[e.state], Peer: st.shared.names.name(e.peer)}
}

// putLocation takes r if it is newer than what is there, and gives what is
// there then. ok is false for a record that cannot be kept.
func (st *state) putLocation(u director.User, r director.Record) (now director.Record, ok bool) {
	next := entry{epoch: r.Epoch}
	for i, s := range states {
		if s == r.State {
			next.state = uint8(i)
			ok = true
		}
	}
	var homeOK, peerOK bool
	next.home, homeOK = st.shared.names.number(r.Home)
	next.peer, peerOK = st.shared.names.number(r.Peer)
	if !ok || !homeOK || !peerOK || r.Epoch == 0 {
		return r, false
	}
	sh := st.shard(u)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	have := sh.users[u]
	if have.epoch >= next.epoch {
		return st.record(have), true
	}
	next.acct = have.acct
	st.set(sh, u, have, next)
	if w := sh.waiters[u]; w != nil {
		close(w.changed)
		delete(sh.waiters, u)
	}
	return r, true
}

func (st *state) account(u director.User) *account {
	sh := st.shard(u)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.users[u].acct
}

// putAccount sets the account; nil removes it.
func (st *state) putAccount(u director.User, a *account) {
	sh := st.shard(u)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	have := sh.users[u]
	next := have
	next.acct = a
	st.set(sh, u, have, next)
}

// set replaces the entry have by next. The caller holds the shard's mu.
func (st *state) set(sh *shard, u director.User, have, next entry) {
	sh.located += one(next.epoch != 0) - one(have.epoch != 0)
	sh.accounts += one(next.acct != nil) - one(have.acct != nil)
	u = director.User(strings.Clone(string(u))) // not the whole key it was cut from
	if next.acct != have.acct {
		st.groups.change(u, have.acct, next.acct)
	}
	if next == (entry{}) {
		delete(sh.users, u)
		return
	}
	sh.users[u] = next
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// each calls fn with a copy of each shard, so that fn may take its time.
func (st *state) each(fn func(director.User, director.Record) bool) {
	for i := range st.shards {
		for _, p := range st.shards[i].copy() {
			if p.entry.epoch != 0 && !fn(p.user, st.record(p.entry)) {
				return
			}
		}
	}
}

type pair struct {
	user  director.User
	entry entry
}

func (sh *shard) copy() []pair {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	ps := make([]pair, 0, len(sh.users))
	for u, e := range sh.users {
		ps = append(ps, pair{u, e})
	}
	return ps
}

// await gives the user's record if its epoch is above after, else the waiter
// that is closed at its next change; leave gives it back.
func (st *state) await(u director.User, after director.Epoch) (director.Record, *waiter) {
	sh := st.shard(u)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.users[u]; e.epoch > after {
		return st.record(e), nil
	}
	w := sh.waiters[u]
	if w == nil {
		w = &waiter{changed: make(chan struct{})}
		sh.waiters[u] = w
	}
	w.waiting++
	return director.Record{}, w
}

func (st *state) leave(u director.User, w *waiter) {
	sh := st.shard(u)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if w.waiting--; w.waiting == 0 && sh.waiters[u] == w {
		delete(sh.waiters, u)
	}
}

func (st *state) address(key string) (director.Address, bool) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	r, ok := st.addresses[key]
	return r.value, ok
}

func (st *state) domain(name string) bool {
	st.mu.RLock()
	defer st.mu.RUnlock()
	_, ok := st.domains[name]
	return ok
}

// firstDomain is the first domain by name; "" when there is none.
func (st *state) firstDomain() string {
	st.mu.RLock()
	defer st.mu.RUnlock()
	first := ""
	for d := range st.domains {
		if first == "" || d < first {
			first = d
		}
	}
	return first
}

func (st *state) backend(id director.BackendID) (director.Backend, bool) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	r, ok := st.backends[id]
	return copyBackend(r.value), ok
}

func (st *state) allBackends() map[director.BackendID]director.Backend {
	st.mu.RLock()
	defer st.mu.RUnlock()
	m := make(map[director.BackendID]director.Backend, len(st.backends))
	for id, r := range st.backends {
		m[id] = copyBackend(r.value)
	}
	return m
}

// copyBackend shares no memory with what is kept.
func copyBackend(b director.Backend) director.Backend {
	if b.Dovecot != nil {
		d := *b.Dovecot
		b.Dovecot = &d
	}
	return b
}

// names gives backend ids small numbers; 0 is "". They are never forgotten.
type names struct {
	mu   sync.Mutex
	ids  map[director.BackendID]uint16
	list atomic.Pointer[[]director.BackendID]
}

func newShared() *shared {
	sh := &shared{}
	sh.names.ids = map[director.BackendID]uint16{"": 0}
	sh.names.list.Store(&[]director.BackendID{""})
	return sh
}

func (n *names) name(i uint16) director.BackendID { return (*n.list.Load())[i] }

// number is false when there are more ids than numbers.
func (n *names) number(id director.BackendID) (uint16, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.ids[id]; ok {
		return i, true
	}
	old := *n.list.Load()
	if len(old) > 1<<16-1 {
		return 0, false
	}
	id = director.BackendID(strings.Clone(string(id)))
	list := append(old[:len(old):len(old)], id)
	n.list.Store(&list)
	n.ids[id] = uint16(len(old))
	return uint16(len(old)), true
}
