package maildir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/packed"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// known is all that a folder's memory tells, but which messages are recent.
type known struct {
	validity uint32
	next     mailbox.UID
	high     uint64
	id       string
	messages []mailbox.Message
	expunged []mailbox.UIDRange
	dates    []int64
	status   mailbox.Status
}

func (s *setup) known(folder string) string {
	s.t.Helper()
	f := s.folder(folder)
	st, err := f.Status()
	must(s.t, err)
	snap := s.snapshot(f)
	k := known{validity: snap.UIDValidity, next: snap.UIDNext, high: snap.HighestModSeq, id: snap.ID, status: st}
	k.status.Recent = 0 // taken by whoever looks first
	for _, m := range snap.Messages.All() {
		k.messages = append(k.messages, *m)
		saved, err := f.SaveDate(m.UID)
		must(s.t, err)
		k.dates = append(k.dates, saved.Unix())
	}
	expunged, _, err := f.ExpungedSince(0)
	must(s.t, err)
	k.expunged = expunged
	return fmt.Sprintf("%+v", k)
}

// byView tells whether the folder was loaded by its view.
func (s *setup) byView(rel string) bool {
	f := s.a.folders[rel]
	return f != nil && f.viewed != 0 && f.loaded
}

// reopenWith opens the mailbox anew, under another run of views.
func (s *setup) reopenWith(views string) {
	s.t.Helper()
	s.opts = func(o *Options) { o.Views = views }
	s.reopen()
}

// TestView: who comes back finds the folder without reading it, and as it would be read.
func TestView(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 20 {
		s.append("INBOX", text(i), words("$Label", fmt.Sprint("k", i%3)))
	}
	s.deliver("id", text(20), "INBOX")
	s.known("INBOX")
	s.reopen()
	if s.known("INBOX"); !s.byView("") {
		t.Fatal("the view is not used")
	}
	s.deliver("id2", text(21), "INBOX")
	s.b.Close()
	must(t, s.a.Close())
	s.open()
	by := s.known("INBOX")
	s.reopenWith("")
	same(t, "as read", s.known("INBOX"), by)
}

// listings counts how often folders are listed.
type listings struct {
	vfs.FS
	of map[string]int
}

func (l listings) ReadDir(dir string, visit func(fs.DirEntry) error) error {
	l.of[filepath.Base(dir)]++
	return l.FS.ReadDir(dir, visit)
}

// TestViewListsNewOnly: a delivery while nobody has the mailbox open changes new only, and
// cur need not be listed.
func TestViewListsNewOnly(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 5 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	s.known("INBOX")
	s.b.Close()
	must(t, s.a.Close())
	must(t, os.WriteFile(s.path("new", "1795351466.M1P1Q1.other,S=12,W=14"), []byte("A: b\n\nbody\n\n"), 0o600))
	count := listings{vfs.OS, map[string]int{}}
	s.opts = func(o *Options) { o.FS = count }
	s.open()
	clear(count.of)
	if snap := s.snapshot(s.folder("INBOX")); snap.Messages.Len() != 6 || snap.UIDNext != 7 {
		t.Errorf("%d messages, UIDNEXT %d", snap.Messages.Len(), snap.UIDNext)
	}
	if count.of["cur"] != 0 || count.of["new"] != 1 {
		t.Errorf("listed: %v", count.of)
	}
}

// TestViewsEqualReading: after any history, and whatever changed since, a folder that is
// loaded by its view, or not, is as it is when it is read.
func TestViewsEqualReading(t *testing.T) {
	checks(t, "40")
	used := 0
	rapid.Check(t, func(rt *rapid.T) {
		s := newSetup(t, nil)
		defer s.shut()
		n := 0
		for range rapid.IntRange(1, 12).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 6).Draw(rt, "steps") {
				f := s.folder("INBOX")
				all := uids(s.snapshot(f))
				n++
				switch what := rapid.SampledFrom([]string{"append", "deliver", "flag", "word", "expunge", "hand"}).Draw(rt, "what"); {
				case what == "append":
					s.append("INBOX", text(n), system(mailbox.Seen))
				case what == "deliver":
					s.deliver(fmt.Sprint("id", n), text(n), "INBOX")
				case what == "hand":
					must(t, os.WriteFile(s.path("new", fmt.Sprintf("1795351466.M%dP1Q1.other", n)), []byte("A: b\n\nbody\n\n"), 0o600))
				case len(all) == 0:
				case what == "flag", what == "word":
					change := mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Deleted)}
					if what == "word" {
						change.Flags = words(fmt.Sprint("w", n%40))
					}
					_, err := f.SetFlags(all[:1+n%len(all)], change)
					must(t, err)
				default:
					_, err := f.Expunge(all[n%len(all):][:1])
					must(t, err)
				}
			}
			s.reopen()
			if rapid.Bool().Draw(rt, "deliver unseen") {
				n++
				s.deliver(fmt.Sprint("id", n), text(n), "INBOX")
			}
			got := s.known("INBOX")
			if s.byView("") {
				used++
			}
			s.reopenWith("")
			if want := s.known("INBOX"); got != want {
				rt.Fatalf("by the view:\n%s\nread:\n%s", got, want)
			}
			s.reopenWith("test")
		}
	})
	if used == 0 {
		t.Error("no view was ever used")
	}
	t.Logf("%d loads by a view", used)
}

// TestViewNotBelieved: what was changed meanwhile, is damaged, or comes from before a crash, is
// not used.
func TestViewNotBelieved(t *testing.T) {
	view := func(s *setup) string { return s.path(viewName) }
	for name, spoil := range map[string]func(t *testing.T, s *setup){
		"another run": func(_ *testing.T, s *setup) { s.opts = func(o *Options) { o.Views = "later" } },
		"cut":         func(t *testing.T, s *setup) { must(t, os.Truncate(view(s), 100)) },
		"empty":       func(t *testing.T, s *setup) { must(t, os.Truncate(view(s), 0)) },
		"a bit": func(t *testing.T, s *setup) {
			b, err := os.ReadFile(view(s))
			must(t, err)
			b[len(b)/2] ^= 4
			must(t, os.WriteFile(view(s), b, 0o600))
		},
		"cur": func(t *testing.T, s *setup) {
			must(t, os.WriteFile(s.path("cur", "1.M1P1Q1.other:2,S"), []byte("A: b\n\n"), 0o600))
		},
		"removed": func(t *testing.T, s *setup) { must(t, os.Remove(s.path("cur", s.files("cur")[0]))) },
		"uidlist": func(t *testing.T, s *setup) { touch(t, s.path("dovecot-uidlist")) },
		"state":   func(t *testing.T, s *setup) { touch(t, s.path("waypost-state")) },
		"words":   func(t *testing.T, s *setup) { must(t, os.WriteFile(s.path(keywordsName), []byte("0 other\n"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, nil)
			for i := range 5 {
				s.append("INBOX", text(i), words("$Label"))
			}
			s.known("INBOX")
			s.b.Close()
			must(t, s.a.Close())
			spoil(t, s)
			s.open()
			got := s.known("INBOX")
			if s.byView("") {
				t.Error("the view was used")
			}
			s.reopenWith("")
			same(t, "as read", s.known("INBOX"), got)
		})
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)))
}

// FuzzView: whatever a view says, with a checksum that is right, loading never panics.
func FuzzView(f *testing.F) {
	s := newSetup(f, nil)
	for i := range 3 {
		s.append("INBOX", text(i), words("$Label"))
	}
	s.snapshot(s.folder("INBOX"))
	s.b.Close()
	must(f, s.a.Close())
	whole, err := os.ReadFile(s.path(viewName))
	must(f, err)
	f.Add(whole[viewStart:])
	f.Add([]byte("\x04test"))
	s.open()
	f.Fuzz(func(t *testing.T, body []byte) {
		b := binary.LittleEndian.AppendUint32([]byte(viewMagic), crc32.Checksum(body, viewTable))
		b = append(b, body...)
		must(t, os.WriteFile(s.path(viewName), b, 0o600))
		g := &folder{a: s.a, name: "INBOX", meaning: map[string]mailbox.Flags{}}
		_ = g.loadView(nil) // any error is fine
		r := packed.Reader{Rest: string(body)}
		g.empty()
		g.list = s.a.folderAt("", "INBOX").list
		if g.takeView(&r, nil, nil) == nil {
			for _, m := range g.msgs.All() {
				_ = refBase(m.Ref)
			}
		}
	})
}

// TestViewAfterKill: a view of a process that was killed is believed, but of a moment in which the folder
// may have changed without its time telling.
func TestViewAfterKill(t *testing.T) {
	for name, c := range map[string]struct {
		cur, new time.Duration // how long before the view was written it changed
		view     bool
	}{
		"quiet":       {time.Hour, time.Hour, true},
		"cur changed": {0, time.Hour, false},
		"new changed": {time.Hour, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, nil)
			for i := range 5 {
				s.append("INBOX", text(i), words("$Label"))
			}
			s.known("INBOX")
			now := time.Now()
			must(t, os.Chtimes(s.path("cur"), now, now.Add(-c.cur)))
			must(t, os.Chtimes(s.path("new"), now, now.Add(-c.new)))
			s.snapshot(s.folder("INBOX")) // sees the times
			s.b.Close()
			must(t, s.a.Close())
			info, err := os.Lstat(s.path("new"))
			must(t, err)
			must(t, os.WriteFile(s.path("new", "1795351466.M1P1Q1.other,S=12,W=14"), []byte("A: b\n\nbody\n\n"), 0o600))
			if c.new == 0 {
				// In the same moment: nothing tells of it.
				must(t, os.Chtimes(s.path("new"), now, info.ModTime()))
			}
			count := listings{vfs.OS, map[string]int{}}
			s.opts = func(o *Options) { o.FS, o.Killed = count, time.Now() }
			s.open()
			clear(count.of)
			if got := s.snapshot(s.folder("INBOX")).Messages.Len(); got != 6 {
				t.Errorf("%d messages", got)
			}
			same(t, "loaded by the view", count.of["cur"] == 0, c.view)
		})
	}
}

// TestViewWhileCached: a folder that stays in memory has a view, too, for a process that is killed.
func TestViewWhileCached(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.Cache = NewCache(1 << 20) })
	s.append("INBOX", text(1), mailbox.Flags{})
	s.known("INBOX")
	s.b.Close()
	first, err := os.Stat(s.path(viewName))
	must(t, err)
	again := func() fs.FileInfo {
		s.b = s.a.Box(testUser, 0, nil)
		s.append("INBOX", text(2), mailbox.Flags{})
		s.b.Close()
		info, err := os.Stat(s.path(viewName))
		must(t, err)
		return info
	}
	if !os.SameFile(first, again()) {
		t.Error("written again at once")
	}
	s.a.folders[""].viewSaved = time.Now().Add(-viewPause)
	if os.SameFile(first, again()) {
		t.Error("not written again")
	}
}

// TestReadingPlainly: a folder is the same whether it is read as most are, or as one is in which
// something is amiss.
func TestReadingPlainly(t *testing.T) {
	checks(t, "40")
	plain := 0
	rapid.Check(t, func(rt *rapid.T) {
		s := newSetup(t, func(o *Options) { o.Views = "" })
		defer s.shut()
		n := rapid.IntRange(1, 8).Draw(rt, "messages")
		for i := range n {
			s.append("INBOX", text(i), words("$Label", fmt.Sprint("w", i*7%40)))
		}
		s.deliver("id", text(n), "INBOX")
		if rapid.Bool().Draw(rt, "looked at") {
			s.known("INBOX")
		}
		s.b.Close()
		must(t, s.a.Close())
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			files := s.files("cur")
			switch what := rapid.SampledFrom([]string{"remove", "add", "twin", "wait"}).Draw(rt, "what"); {
			case what == "add":
				file := fmt.Sprintf("1795351466.M%dP1Q1.other", rapid.IntRange(0, 3).Draw(rt, "number"))
				must(t, os.WriteFile(s.path(rapid.SampledFrom([]string{"cur", "new"}).Draw(rt, "where"), file), []byte("A: b\n\nbody\n\n"), 0o600))
			case what == "wait":
				old := time.Now().Add(-time.Hour)
				must(t, os.Chtimes(s.path("cur"), old, old))
				must(t, os.Chtimes(s.path("new"), old, old))
			case len(files) == 0:
			case what == "remove":
				must(t, os.Remove(s.path("cur", files[0])))
			case what == "twin":
				must(t, os.WriteFile(s.path("cur", files[0]+"T"), []byte("A: b\n\nbody\n\n"), 0o600))
			}
		}
		s.open()
		f := s.a.folderAt("", "INBOX")
		must(t, f.load())
		if f.foreign.IsZero() && len(f.fresh) == 0 {
			plain++
		}
		list, entries, err := uidlist.Load(s.fs, f.path())
		must(t, err)
		g := &folder{a: s.a, name: "INBOX", meaning: map[string]mailbox.Flags{}, list: list}
		g.state, err = state.Load(s.fs, stateOf(g.path(), list.Header()), time.Now(), false)
		must(t, err)
		g.empty()
		g.readMarks()
		must(t, g.readWords())
		known := map[string]uidlist.Entry{}
		for _, e := range entries {
			known[e.Base] = e
		}
		must(t, g.rescan(known, nil))
		must(t, f.readWords())
		got := f.memory()
		if want := g.memory(); got != want {
			rt.Fatalf("read plainly:\n%s\nelse:\n%s", got, want)
		}
	})
	if plain == 0 {
		t.Error("never plain")
	}
}

// memory is what a folder knows of its messages.
func (f *folder) memory() string {
	slices.SortFunc(f.fresh, func(a, b unnumbered) int { return strings.Compare(a.ref, b.ref) })
	var all []mailbox.Message
	for _, m := range f.msgs.All() {
		now := *m
		now.ModSeq = 0 // of what is not known when it changed there is another at each load
		all = append(all, now)
	}
	expunged, _ := f.state.ExpungedSince(0)
	return fmt.Sprintf("%+v\n%+v\n%v %v %d %d %d %d\n%v", all, f.fresh, f.fields, f.recent, f.unseen, f.deleted, f.deletedBytes, f.wireBytes, expunged)
}

// TestViewConfirmed: what might hide behind the times of a folder when its view was first written is
// looked for before it is let go, or has been: then the view holds for as long as the times do.
func TestViewConfirmed(t *testing.T) {
	for _, c := range []struct {
		name string
		// room is of the Cache, in bytes.
		room int64
		// later is what happens behind a first close.
		later func(s *setup, wait func(time.Duration))
	}{
		{"nothing was amiss", 0, func(*setup, func(time.Duration)) {}},
		{"looked at again", 1 << 20, func(s *setup, wait func(time.Duration)) {
			s.b = s.a.Box(testUser, 0, nil)
			wait(time.Hour)
			s.known("INBOX")
			s.b.Close()
			must(s.t, s.a.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			later := time.Duration(0)
			wait := func(d time.Duration) { later += d }
			s := newSetup(t, func(o *Options) {
				o.Cache = NewCache(c.room)
				o.Now = func() time.Time { return time.Now().Add(later) }
			})
			s.append("INBOX", text(1), mailbox.Flags{})
			s.known("INBOX")
			wait(granularity)
			s.b.Close()
			c.later(s, wait)
			wait(24 * time.Hour)
			if err := s.a.Close(); err != nil && !errors.Is(err, ErrClosed) {
				t.Fatal(err)
			}
			s.open()
			if s.known("INBOX"); !s.byView("") {
				t.Error("the view is not used")
			}
		})
	}
}
