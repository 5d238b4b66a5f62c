package backend

import (
	"context"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/backend/mailbox"
	"waypost/internal/cluster"
)

// loadMeter watches how this backend's users fare, for movers, which yield to them.
type loadMeter struct {
	deliveries *latency
	commands   *latency

	mu     sync.Mutex // guards what follows
	copied [latencySlots]copiedSlot
	system systemLoad
}

// copiedSlot counts what pulls brought in one second.
type copiedSlot struct{ second, bytes int64 }

func newLoadMeter(disk string) *loadMeter {
	return &loadMeter{deliveries: newLatency(), commands: newLatency(), system: newSystemLoad("/", disk)}
}

// pulled counts bytes that a pull brought.
func (m *loadMeter) pulled(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now().Unix()
	s := &m.copied[now%latencySlots]
	if s.second != now {
		*s = copiedSlot{second: now}
	}
	s.bytes += n
}

// loadCall is PathLoad.
func (b *Server) loadCall(_ context.Context, _ cluster.Peer, _ control.LoadRequest) (control.LoadReply, error) {
	m := b.load
	out := control.LoadReply{Sessions: b.sessions.count(), Deliveries: m.deliveries.report(), Commands: m.commands.report()}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, s := range m.copied {
		if now.Unix()-s.second < latencySlots {
			out.CopiedBytesPerSecond += s.bytes / latencySlots
		}
	}
	m.system.read(now)
	m.system.fill(&out)
	return out, nil
}

// The handle's own methods measure what sessions wait for; all else is the Box's.

// Folder implements mailbox.Box.
func (h *handle) Folder(name string) (mailbox.Folder, error) {
	defer h.b.load.commands.since(time.Now())
	return h.Box.Folder(name)
}

// Folders implements mailbox.Box.
func (h *handle) Folders() ([]mailbox.FolderInfo, error) {
	defer h.b.load.commands.since(time.Now())
	return h.Box.Folders()
}

// Append implements mailbox.Box.
func (h *handle) Append(folder string, all []mailbox.NewMessage) (mailbox.AppendResult, error) {
	defer h.b.load.commands.since(time.Now())
	return h.Box.Append(folder, all)
}
