package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// notices are messages of this backend to its users.
type notices struct{ todo chan notice }

// maxNotices bounds those that wait; one more is only logged.
const maxNotices = 1000

// notice is a warning of a quota that fills.
type notice struct {
	user    director.User
	percent int
	used    mailbox.Usage
	limit   mailbox.Limit
}

// warner gives what a mailbox calls, under its locks, when a threshold is crossed.
func (b *Server) warner(u director.User) func(int, mailbox.Usage, mailbox.Limit) {
	return func(percent int, used mailbox.Usage, limit mailbox.Limit) {
		b.log.Info("quota warning", "user", u, "percent", percent, "used_bytes", used.Bytes, "used_messages", used.Messages)
		select {
		case b.notices.todo <- notice{u, percent, used, limit}:
		default:
		}
	}
}

// notify delivers notices until ctx ends.
func (b *Server) notify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-b.notices.todo:
			if err := b.deliverNotice(ctx, n); err != nil && ctx.Err() == nil {
				b.log.Warn("quota warning not delivered", "user", n.user, "error", err)
			}
		}
	}
}

// deliverNotice puts a warning into the user's inbox, over the quota if need be, at
// most once a day for each threshold.
func (b *Server) deliverNotice(ctx context.Context, n notice) error {
	box, err := b.Open(ctx, n.user, b.cfg.ID, b.fenceOf(n.user).Epoch)
	if err != nil {
		return err
	}
	defer box.Close()
	now := time.Now()
	id := fmt.Sprintf("quota-%d-%s", n.percent, now.UTC().Format(time.DateOnly))
	m, err := b.Stage(ctx, "", strings.NewReader(b.quotaText(n, id, now)), 0)
	if err != nil {
		return err
	}
	defer m.Discard()
	return box.Deliver(ctx, mailbox.Delivery{ID: id, Message: m, Places: []mailbox.Place{{}}, Force: true})
}

func (b *Server) quotaText(n notice, id string, now time.Time) string {
	var have []string
	if n.limit.Bytes > 0 {
		have = append(have, fmt.Sprintf("%d of %d MB", n.used.Bytes/1e6, n.limit.Bytes/1e6))
	}
	if n.limit.Messages > 0 {
		have = append(have, fmt.Sprintf("%d of %d messages", n.used.Messages, n.limit.Messages))
	}
	return fmt.Sprintf("From: Postmaster <postmaster@%s>\nTo: %s\nSubject: Your mailbox is %d%% full\nDate: %s\n"+
		"Message-ID: <%s.%s>\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"+
		"Your mailbox holds %s.\nWhen it is full, mail for you is refused. Delete what you do not need, and\nempty the trash.\n",
		n.user.Domain(), n.user, n.percent, now.Format(time.RFC1123Z), id, string(n.user), strings.Join(have, ", "))
}
