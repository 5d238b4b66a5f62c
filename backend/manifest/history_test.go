package manifest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir"
	"waypost/backend/manifest"
	"waypost/backend/scripts"
	"waypost/director"
	"waypost/internal/vfs"
)

const user = director.User("u@example.test")

// guard is a user's lock.
type guard struct{ mu sync.Mutex }

func (g *guard) Enter(director.Epoch) (func(), error) { g.mu.Lock(); return g.mu.Unlock, nil }

// history is one mailbox that things happen to, and its Tracker.
type history struct {
	t       *rapid.T
	base    string
	root    string
	kept    string
	changes *manifest.Changes
	tracker *manifest.Tracker
	journal *journal.Journal
	stager  *maildir.Stager
	account *maildir.Account
	box     mailbox.Box
	n       int
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// start is what a backend does before it serves.
func (h *history) start() {
	h.changes = manifest.NewChanges(vfs.OS, filepath.Join(h.base, "users"))
	log := slog.New(slog.DiscardHandler)
	var err error
	h.journal, err = journal.Open(journal.Options{FS: vfs.OS, Dir: filepath.Join(h.base, "journal"), SegmentBytes: 1 << 20, Interval: time.Hour, Sync: h.base, Log: log})
	h.must(err)
	var r maildir.Replay
	h.must(h.journal.Replay(func(rec journal.Record) error {
		if rec.User == "" {
			return nil
		}
		return r.Add(user, rec)
	}))
	incoming := filepath.Join(h.base, "incoming")
	p := maildir.Replayer{FS: vfs.OS, Incoming: incoming, Read: h.journal.Read, Log: log, Now: time.Now}
	h.must(p.Apply(&r, user, h.root))
	h.must(h.journal.Start())
	h.stager, err = maildir.NewStager(h.changes, h.journal, incoming)
	h.must(err)
	h.account, err = maildir.Open(maildir.Options{FS: h.changes, Journal: h.journal, User: user, Root: h.root, Guard: &guard{},
		Limit: func() mailbox.Limit { return mailbox.Limit{} }, Log: log, Now: time.Now, Host: "test", Recount: !h.journal.Clean()})
	h.must(err)
	h.box = h.account.Box(user, 0, nil)
	h.tracker = manifest.NewTracker(h.root)
	h.must(h.tracker.Keep(h.kept))
	h.changes.Follow(h.tracker)
}

// stop ends the process. What it knew in memory is gone.
func (h *history) stop() {
	h.box.Close()
	h.must(errors.Join(h.account.Close(), h.journal.Close(), h.tracker.Close()))
}

// crash leaves the disk as it is, with a journal that was not closed.
func (h *history) crash() {
	journalDir, copied := filepath.Join(h.base, "journal"), filepath.Join(h.base, "copied")
	for {
		// A segment that is being made ready gets its name meanwhile.
		err := os.CopyFS(copied, os.DirFS(journalDir))
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			h.t.Fatal(err)
		}
		h.must(os.RemoveAll(copied))
	}
	h.stop()
	h.must(os.RemoveAll(journalDir))
	h.must(os.Rename(copied, journalDir))
	h.start()
}

func (h *history) folder() string {
	return rapid.SampledFrom([]string{"INBOX", "A", "A/b", "a@b", "with space", "Größe"}).Draw(h.t, "folder")
}

// some opens a folder and chooses messages in it.
func (h *history) some() (mailbox.Folder, []mailbox.UID) {
	f, err := h.box.Folder(h.folder())
	if errors.Is(err, mailbox.ErrNoFolder) {
		return nil, nil
	}
	h.must(err)
	s, err := f.Snapshot()
	h.must(err)
	var uids []mailbox.UID
	for _, m := range s.Messages.All() {
		if rapid.Bool().Draw(h.t, "take") {
			uids = append(uids, m.UID)
		}
	}
	return f, uids
}

func (h *history) deliver(*rapid.T) {
	h.n++
	m, err := h.stager.Stage(context.Background(), "", strings.NewReader(fmt.Sprintf("Subject: %d\r\n\r\nbody %d\r\n", h.n, h.n)), 0)
	h.must(err)
	defer m.Discard()
	places := []mailbox.Place{{Folder: h.folder()}}
	if rapid.Bool().Draw(h.t, "two") {
		places = append(places, mailbox.Place{Folder: h.folder(), Create: true})
	}
	h.must(h.box.Deliver(context.Background(), mailbox.Delivery{ID: fmt.Sprint("d", h.n), Message: m, Places: places}))
}

func (h *history) actions() map[string]func(*rapid.T) {
	ignore := func(err error) {
		if err != nil && !errors.Is(err, mailbox.ErrNoFolder) && !errors.Is(err, mailbox.ErrFolderExists) && !errors.Is(err, mailbox.ErrBadName) {
			h.t.Fatal(err)
		}
	}
	return map[string]func(*rapid.T){
		"deliver": h.deliver,
		"flag": func(*rapid.T) {
			if f, uids := h.some(); len(uids) > 0 {
				_, err := f.SetFlags(uids, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.System(1 << rapid.IntRange(0, 3).Draw(h.t, "flag"))}})
				h.must(err)
			}
		},
		"expunge": func(*rapid.T) {
			if f, uids := h.some(); len(uids) > 0 {
				_, err := f.Expunge(uids)
				h.must(err)
			}
		},
		"copy": func(*rapid.T) {
			if f, uids := h.some(); len(uids) > 0 {
				_, err := f.Copy(uids, h.folder())
				ignore(err)
			}
		},
		"create": func(*rapid.T) { ignore(h.box.CreateFolder(h.folder(), "")) },
		"delete": func(*rapid.T) {
			if f := h.folder(); f != "INBOX" {
				ignore(h.box.DeleteFolder(f))
			}
		},
		"rename": func(*rapid.T) {
			from, to := h.folder(), h.folder()
			if from != "INBOX" && !strings.HasPrefix(to, from) {
				ignore(h.box.RenameFolder(from, to))
			}
		},
		"subscribe": func(*rapid.T) { ignore(h.box.Subscribe(h.folder(), true)) },
		"script": func(*rapid.T) {
			h.must(scripts.New(vfs.OS, h.root, scripts.Limits{}).Put("s", []byte(fmt.Sprintf("keep; # %d", h.n))))
		},
		"stranger": func(*rapid.T) { // another program's delivery
			h.n++
			h.must(os.WriteFile(filepath.Join(h.root, "Maildir/new", fmt.Sprintf("%d.M%dP9.other", 1700000000+h.n, h.n)), []byte("x\n"), 0o600))
		},
		"checkpoint": func(*rapid.T) { h.must(h.journal.Checkpoint()) },
		"restart":    func(*rapid.T) { h.stop(); h.start() },
		"crash":      func(*rapid.T) { h.crash() },
		"pass":       func(*rapid.T) { h.must(h.tracker.Update(context.Background(), manifest.HashFew)) },
		"":           func(*rapid.T) { h.same() },
	}
}

// same compares what the change list says with a look at all.
func (h *history) same() {
	if rapid.IntRange(0, 2).Draw(h.t, "look") > 0 {
		return
	}
	// A recount of the quota goes on beside all: its end is waited for.
	_, err := h.box.Usage()
	h.must(err)
	h.must(h.tracker.Update(context.Background(), manifest.HashAll))
	got := h.tracker.Manifest()
	want, err := manifest.Scan(context.Background(), h.root)
	h.must(err)
	if !slices.Equal(got.Entries, want.Entries) {
		h.t.Fatalf("by changes\n%v\nreally\n%v", got.Entries, want.Entries)
	}
	if sum := manifest.Summary(want); h.tracker.Summary() != sum {
		h.t.Fatalf("summary %+v, really %+v", h.tracker.Summary(), sum)
	}
}

// TestAnyHistory: after whatever happened to a mailbox, the manifest that was kept up to
// date is that of a look at all of it.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := filepath.Join(t.TempDir(), "b")
		h := &history{t: rt, base: base, root: filepath.Join(base, "users/0a", string(user)), kept: filepath.Join(base, "moves/source")}
		h.must(os.MkdirAll(filepath.Join(base, "incoming"), 0o700))
		h.must(os.MkdirAll(filepath.Dir(h.root), 0o700))
		h.must(maildir.Create(vfs.OS, h.root))
		h.start()
		defer func() {
			h.box.Close()
			_ = h.account.Close()
			_ = h.journal.Close()
		}()
		rt.Repeat(h.actions())
	})
}
