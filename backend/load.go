package backend

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Load is what the backend gossips: a hint for placing users, never truth. used
// is what its mailboxes hold, by their quota logs, some minutes old at most;
// capacity is what is configured, or what they could grow to on this disk.
func (b *Server) Load() (users, sessions int, usedBytes, capacityBytes int64) {
	_, free, err := b.disk.room()
	if err != nil {
		b.log.Warn("disk", "error", err)
	}
	usedBytes = b.mailBytes.Load()
	capacityBytes = usedBytes + free
	if c := b.cfg.CapacityBytes; c != 0 && c < capacityBytes {
		capacityBytes = c
	}
	return b.servedUsers(), b.sessions.count(), usedBytes, capacityBytes
}

// weighEvery is how often the quota logs are added up, weighPace the pause
// between two of them.
const (
	weighEvery = 5 * time.Minute
	weighPace  = 100 * time.Microsecond
)

// weigh adds up what the mailboxes hold, from one small file each.
func (b *Server) weigh(ctx context.Context) {
	for ctx.Err() == nil {
		b.users.mu.Lock()
		names := slices.Collect(maps.Keys(b.users.fences))
		b.users.mu.Unlock()
		sum := weight{since: time.Now()}
		for _, name := range names {
			u := b.usedBy(name)
			sum.bytes += u.Bytes
			sum.messages += u.Messages
			sum.deliveriesPerDay += u.DeliveriesPerDay
			pause(ctx, weighPace)
		}
		b.mailBytes.Store(sum.bytes)
		b.mailWeight.Store(&sum)
		pause(ctx, weighEvery)
	}
}
