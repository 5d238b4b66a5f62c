package cache

import (
	"strings"

	"waypost/director"
)

// kind is one of the parts of the directory that are kept.
type kind struct {
	prefix string
	name   string // in metrics
	tag    byte   // in snapshots
	put    func(st *state, key string, value []byte, rev int64) error
	del    func(st *state, key string)
	sweep  func(st *state)
	count  func(st *state) int
}

// kinds are all that is kept, in the order in which they are read: users first,
// since they take longest and every other kind is then the newer.
var kinds = [...]kind{
	{director.PrefixLocation, "location", 'l', putLocation, keepLocation, noSweep, countLocations},
	{director.PrefixAccount, "account", 'a', putAccount, delAccount, sweepAccounts, countAccounts},
	{director.PrefixAddress, "address", 'd', putAddress, delAddress, sweepAddresses, countAddresses},
	{director.PrefixDomain, "domain", 'm', putDomain, delDomain, sweepDomains, countDomains},
	{director.PrefixBackend, "backend", 'b', putBackend, delBackend, sweepBackends, countBackends},
}

// kindOf gives the kind of a key and the key without its prefix.
func kindOf(key string) (*kind, string) {
	for i := range kinds {
		if rest, ok := strings.CutPrefix(key, kinds[i].prefix); ok {
			return &kinds[i], rest
		}
	}
	return nil, key
}

func putLocation(st *state, key string, value []byte, _ int64) error {
	r, err := director.DecodeRecord(value)
	if err != nil {
		return err
	}
	if _, ok := st.putLocation(director.User(key), r); !ok {
		return director.ErrInvalid
	}
	return nil
}

// keepLocation: a location never disappears within an era (R12 leaves a
// tombstone), so one that does was removed by hand; its last state stands.
func keepLocation(*state, string) {}

func noSweep(*state) {}

func putAccount(st *state, key string, value []byte, rev int64) error {
	st.putAccount(director.User(key), &account{raw: string(value), rev: rev, gen: st.gen})
	return nil
}

func delAccount(st *state, key string) { st.putAccount(director.User(key), nil) }

// sweepAccounts removes what the last full read did not bring.
func sweepAccounts(st *state) {
	for i := range st.shards {
		sh := &st.shards[i]
		sh.mu.Lock()
		for u, e := range sh.users {
			if e.acct == nil || e.acct.gen == st.gen {
				continue
			}
			next := e
			next.acct = nil
			st.set(sh, u, e, next)
		}
		sh.mu.Unlock()
	}
}

func countLocations(st *state) int { return st.countUsers(func(sh *shard) int { return sh.located }) }
func countAccounts(st *state) int  { return st.countUsers(func(sh *shard) int { return sh.accounts }) }

func (st *state) countUsers(of func(*shard) int) int {
	n := 0
	for i := range st.shards {
		sh := &st.shards[i]
		sh.mu.RLock()
		n += of(sh)
		sh.mu.RUnlock()
	}
	return n
}

func countAddresses(st *state) int { return countRows(st, st.addresses) }
func countDomains(st *state) int   { return countRows(st, st.domains) }
func countBackends(st *state) int  { return countRows(st, st.backends) }

func countRows[K comparable, T any](st *state, m map[K]row[T]) int {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return len(m)
}

func putAddress(st *state, key string, value []byte, rev int64) error {
	v, err := director.DecodeAddress(value)
	if err != nil {
		return err
	}
	return putRow(st, st.addresses, strings.Clone(key), v, rev)
}

func putDomain(st *state, key string, value []byte, rev int64) error {
	v, err := director.DecodeDomain(value)
	if err != nil {
		return err
	}
	return putRow(st, st.domains, strings.Clone(key), v, rev)
}

func putBackend(st *state, key string, value []byte, rev int64) error {
	v, err := director.DecodeBackend(value)
	if err != nil {
		return err
	}
	return putRow(st, st.backends, director.BackendID(strings.Clone(key)), v, rev)
}

func delAddress(st *state, key string) { delRow(st, st.addresses, key) }
func delDomain(st *state, key string)  { delRow(st, st.domains, key) }
func delBackend(st *state, key string) { delRow(st, st.backends, director.BackendID(key)) }

func sweepAddresses(st *state) { sweepRows(st, st.addresses) }
func sweepDomains(st *state)   { sweepRows(st, st.domains) }
func sweepBackends(st *state)  { sweepRows(st, st.backends) }

func putRow[K comparable, T any](st *state, m map[K]row[T], key K, v T, rev int64) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	m[key] = row[T]{v, rev, st.gen}
	return nil
}

func delRow[K comparable, T any](st *state, m map[K]row[T], key K) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(m, key)
}

func sweepRows[K comparable, T any](st *state, m map[K]row[T]) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, r := range m {
		if r.gen != st.gen {
			delete(m, k)
		}
	}
}
