package proxy

import (
	"fmt"
	"sync"
	"time"

	"waypost/director"
	"waypost/proxy/prelogin"
)

const (
	// maxLoginDelay bounds pop3_login_delay.
	maxLoginDelay = 24 * time.Hour
	// maxDelayed bounds the users whose last login is remembered, at some 100
	// bytes each. The oldest goes first: its user may come again too early.
	maxDelayed = 200_000
)

// loginDelay is POP3's LOGIN-DELAY (RFC 2449, Section 6.5): the least time from
// one login of a user to the next one at this proxy. It is not kept over a start.
type loginDelay struct {
	least time.Duration // 0: none
	now   func() time.Time
	most  int

	mu    sync.Mutex // guards what follows, for moments
	last  map[director.User]time.Time
	order []delayed // oldest first; some may be undone
}

type delayed struct {
	user director.User
	at   time.Time
}

func newLoginDelay(least time.Duration) *loginDelay {
	return &loginDelay{least: least, now: time.Now, most: maxDelayed, last: make(map[director.User]time.Time)}
}

// login notes a login, or refuses it with ErrDelay. undo takes back one that came
// to nothing.
func (d *loginDelay) login(u director.User) (undo func(), err error) {
	if d.least <= 0 {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for len(d.order) > 0 && (len(d.order) >= d.most || now.Sub(d.order[0].at) >= d.least) {
		d.forget(d.order[0])
		d.order[0].user = "" // the array lives on
		d.order = d.order[1:]
	}
	if at, ok := d.last[u]; ok {
		return nil, fmt.Errorf("%w: %s logged in %v ago", prelogin.ErrDelay, u, now.Sub(at).Round(time.Second))
	}
	d.last[u] = now
	mine := delayed{u, now}
	d.order = append(d.order, mine)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.forget(mine)
	}, nil
}

// forget removes a login, unless a later one is in its place. d.mu is held.
func (d *loginDelay) forget(x delayed) {
	if at, ok := d.last[x.user]; ok && at.Equal(x.at) {
		delete(d.last, x.user)
	}
}
