package backend

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/quota"
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
		var sum int64
		for _, name := range names {
			log, err := os.ReadFile(filepath.Join(b.disk.live(name), "Maildir", "maildirsize"))
			if err != nil {
				continue // moved away, or never opened: it weighs nothing here
			}
			if c, err := quota.Parse(log); err == nil {
				sum += c.Usage.Bytes
			}
			pause(ctx, weighPace)
		}
		b.mailBytes.Store(sum)
		pause(ctx, weighEvery)
	}
}
