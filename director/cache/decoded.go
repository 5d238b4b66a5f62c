package cache

import (
	"sync"

	"waypost/director"
)

// maxDecoded bounds the accounts that are kept decoded: a message or a login
// asks several times for one, and millions are asked for seldom.
const maxDecoded = 8192

// decodedAccounts keeps accounts decoded, by their version.
type decodedAccounts struct {
	mu sync.RWMutex
	by map[director.User]decodedAccount
}

type decodedAccount struct {
	rev int64
	a   director.Account
}

func (d *decodedAccounts) get(u director.User, rev int64) (director.Account, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	got, known := d.by[u]
	return got.a, known && got.rev == rev
}

func (d *decodedAccounts) put(u director.User, rev int64, a director.Account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil || len(d.by) >= maxDecoded {
		d.by = make(map[director.User]decodedAccount)
	}
	d.by[u] = decodedAccount{rev, a}
}
