package backend

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/quota"
	"waypost/director"
	"waypost/director/census"
	"waypost/internal/cluster"
)

// weight is what the mailboxes hold, as last added up.
type weight struct {
	bytes, messages  int64
	deliveriesPerDay float64
	since            time.Time // when the adding up began
}

// usedBy reads what one mailbox holds and does, from the sizes of two small files; it
// opens no mailbox and takes no lock. What is not there weighs nothing.
func (b *Server) usedBy(name director.User) census.User {
	out := census.User{User: name}
	path := filepath.Join(b.disk.live(name), "Maildir", "maildirsize")
	if log, err := os.ReadFile(path); err == nil {
		if c, err := quota.Parse(log); err == nil {
			out.Bytes, out.Messages = c.Usage.Bytes, c.Usage.Messages
		}
	}
	if info, err := os.Stat(path); err == nil {
		out.LastActive = info.ModTime().Unix()
	}
	if info, err := os.Stat(filepath.Join(b.disk.live(name), "deliveries")); err == nil {
		// Its lines are of the last days, and about as long as each other.
		const line = 40
		out.DeliveriesPerDay = float64(info.Size()) / line / (deliveries.Keep.Hours() / 24)
	}
	return out
}

// census is control's census.Path: a page of what users hold, for plans.
func (b *Server) census(ctx context.Context, _ cluster.Peer, req census.Request) (census.Reply, error) {
	names := b.namesAfter(req.After)
	w := b.mailWeight.Load()
	if w == nil {
		return census.Reply{}, refuse(control.CodeUnavailable, "the mailboxes have not been added up yet since the start")
	}
	_, sessions, _, capacity := b.Load()
	r := census.Reply{Totals: census.Totals{
		Users: int64(b.servedUsers()), Bytes: w.bytes, Messages: w.messages, DeliveriesPerDay: w.deliveriesPerDay,
		CapacityBytes: capacity, Sessions: int64(sessions), AsOf: w.since.UnixMilli(),
	}}
	n := min(max(req.Limit, 0), census.MaxPage)
	r.More = len(names) > n
	at := map[director.User]int{}
	if n > 0 {
		for _, x := range b.sessions.match(func(control.Session) bool { return true }) {
			at[x.info.User]++
		}
	}
	for _, name := range names[:min(n, len(names))] {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		u := b.usedBy(name)
		u.Sessions = at[name]
		r.Users = append(r.Users, u)
	}
	return r, nil
}

// namesAfter lists the users served here whose keys come after one, in order.
func (b *Server) namesAfter(after director.User) []director.User {
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	var names []director.User
	for name, f := range b.users.fences {
		if name > after && (f.State == fence.Serving || f.State == fence.Frozen) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b director.User) int { return cmp.Compare(a, b) })
	return names
}
