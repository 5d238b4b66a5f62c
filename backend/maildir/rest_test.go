package maildir

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// calmWorld is a world whose log is silent.
func calmWorld(t *testing.T, seed uint64) (*world, *worldUser) {
	t.Helper()
	w, err := newWorld(seed, slog.New(slog.DiscardHandler), worldUsers...)
	must(t, err)
	return w, w.users[0]
}

// ended takes a world down.
func (w *world) ended() {
	w.disk.Fail(nil)
	w.disk.Kill()
	w.letGo()
}

// brings delivers a message to INBOX.
func (w *world) brings(t *testing.T, u *worldUser, id string) {
	t.Helper()
	c, err := w.delivery(u, id, w.newContent(), []mailbox.Place{{}}, rand.New(rand.NewPCG(1, 1)))
	must(t, err)
	must(t, c.do())
	u.acknowledged(c)
}

func (u *worldUser) inbox(t *testing.T) (mailbox.Folder, mailbox.Snapshot) {
	t.Helper()
	h, err := u.box.Folder(mailbox.Inbox)
	must(t, err)
	s, err := h.Snapshot()
	must(t, err)
	return h, s
}

// hit makes the operations fail that which is true of.
func hit(w *world, err error, which func(op crashfs.Op) bool) {
	w.disk.Fail(func(op crashfs.Op) error {
		if which(op) {
			return err
		}
		return nil
	})
}

// elsewhere moves all files of new to cur, seen, as another program does.
func elsewhere(t *testing.T, w *world, u *worldUser) {
	t.Helper()
	for _, file := range filesIn(t, w.disk, treePath(u, maildirName, "new")) {
		must(t, w.disk.Rename(treePath(u, maildirName, "new", file), treePath(u, maildirName, "cur", file+":2,S")))
	}
}

func filesIn(t *testing.T, fsys vfs.FS, dir string) (list []string) {
	t.Helper()
	must(t, eachMessage(fsys, dir, func(file string, _ name.Name) error {
		list = append(list, file)
		return nil
	}))
	slices.Sort(list)
	return list
}

// TestFlushedContents: what a message holds lasts when its file was renamed without a
// record before the fence changed: nothing is replayed then.
func TestFlushedContents(t *testing.T) {
	for what, rename := range map[string]func(w *world, u *worldUser){
		"a client looks": func(_ *world, u *worldUser) { u.inbox(t) },
		"another program": func(w *world, u *worldUser) {
			h, err := u.box.Folder(mailbox.Inbox)
			must(t, err)
			_, err = h.Peek()
			must(t, err)
			elsewhere(t, w, u)
			u.inbox(t)
		},
		"another program, before they are numbered": func(w *world, u *worldUser) {
			u.inbox(t)
			w.brings(t, u, "late")
			elsewhere(t, w, u)
			_, s := u.inbox(t)
			same(t, "messages", s.Messages.Len(), 4)
		},
		"flags that are taken back": func(w *world, u *worldUser) {
			h, err := u.box.Folder(mailbox.Inbox)
			must(t, err)
			s, err := h.Peek()
			must(t, err)
			tries := 0
			w.disk.Fail(func(op crashfs.Op) error {
				if op.Kind != crashfs.Rename || !strings.HasSuffix(op.Name, ":2,F") {
					return nil
				}
				tries++
				return []error{nil, syscall.ENOENT, syscall.EIO}[min(tries-1, 2)]
			})
			if _, err := h.SetFlags(uids(s), mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Flagged)}); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			w.disk.Fail(nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, u := calmWorld(t, 1)
			for _, id := range []string{"one", "two", "three"} {
				w.brings(t, u, id)
			}
			rename(w, u)
			must(t, u.account.Flushed())
			for seed := range uint64(20) {
				w.wholeOn(t, u, w.disk.Crash(rand.New(rand.NewPCG(seed, 7))))
			}
			w.ended()
		})
	}
}

// wholeOn looks for all messages that were delivered to INBOX, on a disk after a crash.
func (w *world) wholeOn(t *testing.T, u *worldUser, disk *crashfs.FS) {
	t.Helper()
	var bodies []string
	for _, sub := range []string{"cur", "new"} {
		dir := treePath(u, maildirName, sub)
		for _, file := range filesIn(t, disk, dir) {
			data, err := vfs.ReadFile(disk, filepath.Join(dir, file))
			must(t, err)
			bodies = append(bodies, string(data))
		}
	}
	for _, m := range u.model.folders[mailbox.Inbox].msgs {
		if !slices.Contains(bodies, w.content(m.content)) {
			t.Fatalf("message %d is not whole: %.20q", m.content, bodies)
		}
	}
}

// copied gives a mailbox with a copy of a message, whose name is not durable yet.
func copied(t *testing.T, w *world, u *worldUser) mailbox.Folder {
	t.Helper()
	must(t, u.box.CreateFolder("A", ""))
	u.model.create("A")
	w.brings(t, u, "one")
	h, s := u.inbox(t)
	must(t, w.check(u, true, u.model))
	_, err := h.Copy(uids(s), "A")
	must(t, err)
	u.model.add("A", modelMsg{content: w.contents})
	return h
}

// inDoubt has the sync of the copy's name fail.
func inDoubt(t *testing.T, w *world, u *worldUser, h mailbox.Folder, why error) {
	t.Helper()
	hit(w, why, func(op crashfs.Op) bool {
		return op.Kind == crashfs.SyncDir && op.Name == treePath(u, maildirName, ".A", "cur")
	})
	if _, err := h.ExpungeDeleted([]mailbox.UID{1}); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
}

// TestDoubtsEndTheBackend: an Account with doubts that knows what nobody else does is
// not followed by another one of the same process: the next process replays.
func TestDoubtsEndTheBackend(t *testing.T) {
	w, u := calmWorld(t, 1)
	inDoubt(t, w, u, copied(t, w, u), syscall.EIO)
	if err := u.account.Close(); !errors.Is(err, syscall.EIO) || !u.account.Closed() {
		t.Fatal(err)
	}
	if err := w.journal.Err(); !errors.Is(err, journal.ErrFailed) {
		t.Fatal("the journal goes on:", err)
	}
	w.disk.Fail(nil)
	crashes(t, w)
}

// TestSyncIsNotBelievedTwice: the sync that failed succeeds when it is tried again, without what the
// disk has given up.
func TestSyncIsNotBelievedTwice(t *testing.T) {
	w, u := calmWorld(t, 1)
	w.brings(t, u, "one")
	u.inbox(t)
	hit(w, syscall.EIO, func(op crashfs.Op) bool { return op.Kind == crashfs.SyncDir })
	if err := u.account.Flushed(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	w.disk.Fail(nil)
	if err := u.account.Close(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	if err := w.journal.Err(); !errors.Is(err, journal.ErrFailed) {
		t.Fatal("the journal goes on:", err)
	}
	crashes(t, w)
}

// TestDoubtsOfNothing: an Account with doubts that has brought everything into its files is closed, and
// no other user has to do with that.
func TestDoubtsOfNothing(t *testing.T) {
	w, u := calmWorld(t, 1)
	w.brings(t, u, "one")
	must(t, u.account.Flushed())
	u.account.mu.Lock()
	_ = u.account.doubt(syscall.EIO)
	u.account.mu.Unlock()
	if err := u.account.Close(); !errors.Is(err, ErrUncertain) || !u.account.Closed() {
		t.Fatal(err)
	}
	must(t, w.journal.Err())
	must(t, w.open(u))
	must(t, w.check(u, true, u.model))
	w.ended()
}

// TestDoubtsOfOneUser: files that may not be touched stop the writes of their user, and
// of nobody else, until they may.
func TestDoubtsOfOneUser(t *testing.T) {
	w, u := calmWorld(t, 1)
	h := copied(t, w, u)
	inDoubt(t, w, u, h, syscall.EACCES)
	for range 2 {
		if err := u.account.Close(); !errors.Is(err, syscall.EACCES) || u.account.Closed() {
			t.Fatal(err)
		}
	}
	if err := u.account.Flushed(); !errors.Is(err, ErrUncertain) {
		t.Fatal("the fence may change:", err)
	}
	must(t, w.journal.Err())
	must(t, w.check(u, true, u.model))
	if err := u.box.CreateFolder("B", ""); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	w.brings(t, w.users[1], "two")
	w.disk.Fail(nil)
	if err := u.account.Close(); !errors.Is(err, ErrUncertain) || !u.account.Closed() {
		t.Fatal(err)
	}
	must(t, w.journal.Err())
	must(t, w.open(u))
	w.brings(t, u, "three")
	must(t, w.check(u, true, u.model))
	crashes(t, w)
}

// TestForeignChangeIsTold: what clients were told of the doings of others is known to the
// next process, though the state could not be written at once.
func TestForeignChangeIsTold(t *testing.T) {
	for what, then := range map[string]struct {
		tries int
		do    func(u *worldUser)
		cut   bool
	}{
		"written in a second try": {1, func(*worldUser) {}, false},
		"by the next look":        {100, func(u *worldUser) { u.inbox(t) }, false},
		"by who leaves":           {100, func(u *worldUser) { must(t, u.account.Flushed()) }, true},
		"by who comes next": {100, func(u *worldUser) {
			u.box.Close()
			u.box = u.account.Box(u.name, worldEpoch, nil)
			u.inbox(t)
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			w, u := calmWorld(t, 1)
			w.brings(t, u, "one")
			u.inbox(t)
			must(t, u.account.Flushed())
			must(t, w.passesAll()) // nothing is left for a replay
			for _, file := range filesIn(t, w.disk, treePath(u, maildirName, "cur")) {
				must(t, w.disk.Rename(treePath(u, maildirName, "cur", file), treePath(u, maildirName, "cur", file+"S")))
			}
			left := then.tries
			hit(w, syscall.ENOSPC, func(op crashfs.Op) bool {
				is := (op.Kind == crashfs.Write || op.Kind == crashfs.Rename) && filepath.Base(op.Name) == state.FileName
				if is {
					left--
				}
				return is && left >= 0
			})
			_, s := u.inbox(t)
			same(t, "unseen", s.Unseen, 0)
			high := s.HighestModSeq
			if left == then.tries {
				t.Fatal("nothing was refused")
			}
			if then.cut {
				if err := u.account.Flushed(); !errors.Is(err, syscall.ENOSPC) {
					t.Fatal("the fence may change:", err)
				}
			}
			w.disk.Fail(nil)
			then.do(u)
			for seed := range uint64(10) {
				disk := w.disk.Kill()
				if then.cut {
					disk = w.disk.Crash(rand.New(rand.NewPCG(seed, 7)))
				}
				f := u.account.folders[""]
				s, err := state.Load(disk, stateOf(f.path(), f.list.Header()), f.a.o.Now(), false)
				must(t, err)
				if s.Highest() < high {
					t.Fatalf("HIGHESTMODSEQ was %d, and is %d", high, s.Highest())
				}
			}
			w.letGo()
		})
	}
}

// TestStateLost: what a failing disk has dropped of a state, and does not take again, ends
// the backend: checkpoints would pass the records that told of it.
func TestStateLost(t *testing.T) {
	w, u := calmWorld(t, 1)
	w.brings(t, u, "one")
	u.inbox(t)
	for _, file := range filesIn(t, w.disk, treePath(u, maildirName, "cur")) {
		must(t, w.disk.Remove(treePath(u, maildirName, "cur", file)))
	}
	hit(w, syscall.EIO, func(op crashfs.Op) bool { return op.Kind == crashfs.Datasync || op.Kind == crashfs.Sync })
	if h, err := u.box.Folder(mailbox.Inbox); err != nil {
		t.Fatal(err)
	} else if _, err := h.Snapshot(); !errors.Is(err, state.ErrLost) {
		t.Fatal(err)
	}
	if err := w.journal.Err(); !errors.Is(err, journal.ErrFailed) {
		t.Fatal("the journal goes on:", err)
	}
	w.ended()
}

// TestStateForgotten: a state that could not be replaced for certain is made certain before
// it is believed again.
func TestStateForgotten(t *testing.T) {
	for what, forget := range map[string]func(w *world, u *worldUser){
		"the folder": func(_ *world, u *worldUser) {
			u.account.mu.Lock()
			defer u.account.mu.Unlock()
			u.account.forgetFolders()
		},
		"the mailbox, under a session": func(w *world, u *worldUser) {
			must(t, u.account.Close())
			must(t, w.open(u))
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, u := calmWorld(t, 1)
			must(t, u.box.CreateFolder("A", ""))
			h, err := u.box.Folder("A")
			must(t, err)
			_, err = h.Snapshot()
			must(t, err)
			must(t, u.account.Flushed())
			s := u.account.folders[".A"].state
			far := s.Highest() + 150_000
			hit(w, syscall.EMFILE, func(op crashfs.Op) bool { return op.Kind == crashfs.SyncDir })
			if err := s.Apply(state.Change(far, 1)); !errors.Is(err, syscall.EMFILE) {
				t.Fatal(err)
			}
			w.disk.Fail(nil)
			forget(w, u)
			f := u.account.folderAt(".A", "A")
			must(t, f.load())
			must(t, f.state.Apply(state.Change(far, 1)))
			for seed := range uint64(20) {
				disk := w.disk.Crash(rand.New(rand.NewPCG(seed, 7)))
				s, err := state.Load(disk, stateOf(f.path(), f.list.Header()), f.a.o.Now(), true)
				must(t, err)
				if s.Highest() < far {
					t.Fatalf("HIGHESTMODSEQ was %d, and is %d", far, s.Highest())
				}
			}
			w.letGo()
		})
	}
}

// TestFolderInDoubt: so it is with a folder that was made or renamed, and whose name may not last.
func TestFolderInDoubt(t *testing.T) {
	for what, do := range map[string]func(b mailbox.Box) error{
		"made":    func(b mailbox.Box) error { return b.CreateFolder("B", "") },
		"renamed": func(b mailbox.Box) error { return b.RenameFolder("A", "B") },
	} {
		t.Run(what, func(t *testing.T) {
			w, u := calmWorld(t, 1)
			must(t, u.box.CreateFolder("A", ""))
			must(t, u.account.Flushed())
			var named atomic.Bool // the journal uses the disk, too
			hit(w, syscall.EIO, func(op crashfs.Op) bool {
				if op.Kind == crashfs.Rename && op.Name == treePath(u, maildirName, ".B") {
					named.Store(true)
				}
				return named.Load() && op.Kind == crashfs.SyncDir && op.Name == treePath(u, maildirName)
			})
			if err := do(u.box); !errors.Is(err, ErrUncertain) {
				t.Fatal(err)
			}
			w.disk.Fail(nil)
			_ = u.account.Close()
			if err := w.journal.Err(); !errors.Is(err, journal.ErrFailed) {
				t.Fatal("the journal goes on:", err)
			}
			w.ended()
		})
	}
}

// TestRenameTakenBackLasts: a folder whose rename was taken back has its old name for good once
// the mailbox is flushed, without a replay.
func TestRenameTakenBackLasts(t *testing.T) {
	w, u := calmWorld(t, 1)
	must(t, u.box.CreateFolder("A", ""))
	must(t, u.account.Flushed())
	hit(w, syscall.EMFILE, func(op crashfs.Op) bool {
		return op.Kind == crashfs.SyncDir && op.Name == filepath.Clean(treePath(u, maildirName))
	})
	if err := u.box.RenameFolder("A", "B"); !errors.Is(err, syscall.EMFILE) {
		t.Fatal(err)
	}
	w.disk.Fail(nil)
	u.account.mu.Lock()
	must(t, u.account.flush()) // the quota log's syncs would do, too, where it has any
	u.account.mu.Unlock()
	for seed := range uint64(20) {
		disk := w.disk.Crash(rand.New(rand.NewPCG(seed, 7)))
		for _, x := range []struct {
			dir  string
			want bool
		}{{".A", true}, {".B", false}} {
			there, err := isDirectory(disk, treePath(u, maildirName, x.dir))
			must(t, err)
			same(t, x.dir, there, x.want)
		}
	}
	w.letGo()
}
