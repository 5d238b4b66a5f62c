package backend

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"waypost/backend/fence"
	"waypost/backend/journal"
	"waypost/backend/maildir"
	"waypost/backend/outbox"
	"waypost/director"
	"waypost/internal/vfs"
)

// openJournal opens the journal and brings what an unclean stop left in it into
// the trees, before anything is served. Records of another epoch than the
// fence's are not replayed (R2): what they said was in the files before the
// fence moved on, and may belong to nobody here by now.
func (b *Server) openJournal() error {
	j, err := journal.Open(journal.Options{
		FS: vfs.OS, Dir: b.disk.journal(), Sync: b.disk.root, MaxSegments: b.cfg.JournalSegments,
		Log: b.log, Metrics: b.metrics.reg,
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	b.journal = j
	held := thisMachine().held(b.disk.root, filepath.Join(b.disk.root, "users"))
	if b.views, err = b.disk.viewsRun(j.Clean(), held); err != nil {
		return err
	}
	if !j.Clean() {
		b.killed = time.Now()
		b.counted.done = make(map[director.User]bool)
	}
	r := recovery{disk: b.disk, journal: j, outbox: b.outbox, fences: b.users.fences, log: b.log}
	if _, err := r.replay(); err != nil {
		return err
	}
	return j.Start()
}

// toRecount tells whether a mailbox's quota is to be counted: at its first opening
// after an unclean stop.
func (b *Server) toRecount(u director.User) bool {
	b.counted.mu.Lock()
	defer b.counted.mu.Unlock()
	return b.counted.done != nil && !b.counted.done[u]
}

func (b *Server) recounted(u director.User) {
	b.counted.mu.Lock()
	defer b.counted.mu.Unlock()
	if b.counted.done != nil {
		b.counted.done[u] = true
	}
}

// recovery brings what a journal has into the trees, while nothing is served: at a
// start, and for `waypost repair --journal`.
type recovery struct {
	disk    disk
	journal *journal.Journal
	outbox  *outbox.Box
	fences  map[director.User]fence.Fence
	log     *slog.Logger
	// failed decides about a user whose records cannot be brought about: an error
	// ends the replay. nil: each does.
	failed func(director.User, error) error
	// each sees the records that are replayed; may be nil.
	each func(journal.Record)
}

// replayed is what a recovery did.
type replayed struct {
	Users            []director.User
	Records, Skipped int
}

func (v recovery) replay() (replayed, error) {
	var r maildir.Replay
	var did replayed
	err := v.journal.Replay(func(rec journal.Record) error {
		if rec.User == "" {
			return nil // a body, read when it is needed
		}
		u := director.User(rec.User)
		f := v.fences[u]
		if f.State == fence.Unreadable {
			// Left out, what was acknowledged would be gone with the journal.
			return fmt.Errorf("the fence of %s cannot be read, and the journal has mail of this user: restore the file %s from a backup, or remove it to give that mail up", u, v.disk.in("fences", u))
		}
		if f.State != fence.Serving || f.Epoch != director.Epoch(rec.Epoch) {
			did.Skipped++
			return nil
		}
		did.Records++
		if v.each != nil {
			v.each(rec)
		}
		return r.Add(u, rec)
	})
	if err != nil {
		return did, fmt.Errorf("replay the journal: %w", err)
	}
	p := maildir.Replayer{
		FS: vfs.OS, Incoming: v.disk.incoming(), Read: v.journal.Read, Outbox: v.outbox, Log: v.log, Now: time.Now,
	}
	did.Users = r.Users()
	for _, u := range did.Users {
		err := p.Apply(&r, u, v.disk.live(u))
		if err != nil && v.failed != nil {
			err = v.failed(u, err)
		}
		if err != nil {
			return did, err
		}
	}
	if did.Records+did.Skipped > 0 {
		v.log.Info("replayed the journal of an unclean stop", "users", len(did.Users), "records", did.Records, "of_other_epochs", did.Skipped)
	}
	return did, nil
}

// pace is the pause between two mailboxes of a walk through all: users come
// first.
const pace = 5 * time.Millisecond

// keepIncarnation counts on while the backend runs, so that a disk image taken
// an hour ago is known for what it is (R9). Like a start, it writes the disk
// first.
func (b *Server) keepIncarnation(ctx context.Context) {
	const every = time.Minute
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		inc, err := b.disk.incarnation()
		if err == nil {
			inc.Count++
			err = b.disk.putIncarnation(inc)
		}
		if err == nil {
			err = b.dir.PutIncarnation(ctx, b.cfg.ID, inc)
		}
		if err != nil && ctx.Err() == nil {
			b.log.Warn("start count not kept", "error", err)
		}
	}
}

func (d disk) journal() string { return filepath.Join(d.root, "journal") }
func (d disk) outbox() string  { return filepath.Join(d.root, "outbox") }
