package maildir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
	"waypost/director"
	"waypost/internal/vfs"
)

func TestExpungeDeletedSparesUndeleted(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 3 {
		s.append("INBOX", text(i), system(mailbox.Deleted))
	}
	f, g := s.folder("INBOX"), s.folder("INBOX")
	all := uids(s.snapshot(f))
	_, err := g.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsRemove, Flags: system(mailbox.Deleted)})
	must(t, err)
	// Another program takes the flag away without a word.
	for _, file := range s.files("cur") {
		if n, _ := name.Parse(file); refBase(s.a.folders[""].msgs.Get(3).Ref) == n.Base {
			must(t, os.Rename(s.path("cur", file), s.path("cur", n.Base+":2,S")))
		}
	}
	gone, err := f.ExpungeDeleted(all)
	must(t, err)
	sameList(t, "expunged", gone, 2)
	sameList(t, "left", uids(s.snapshot(f)), 1, 3)
	s.quotaIsExact()
	gone, err = f.Expunge([]mailbox.UID{1})
	must(t, err)
	sameList(t, "expunged without the flag", gone, 1)
}

func TestRenumberedFolderRefusesOldUIDs(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	for i := range 5 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	f, g := s.folder("INBOX"), s.folder("INBOX")
	s.snapshot(f)
	_, err := g.Expunge([]mailbox.UID{1, 2}) // a handle without a Snapshot may
	must(t, err)
	must(t, os.Remove(s.path(uidlist.FileName)))
	one := []mailbox.UID{3}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"expunge", func() error { _, err := f.Expunge(one); return err }},
		{"expunge deleted", func() error { _, err := f.ExpungeDeleted(one); return err }},
		{"flags", func() error {
			_, err := f.SetFlags(one, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Deleted)})
			return err
		}},
		{"copy", func() error { _, err := f.Copy(one, "A"); return err }},
		{"move", func() error { _, err := f.Move(one, "A"); return err }},
		{"open", func() error { _, err := f.Open(3); return err }},
		{"date", func() error { _, err := f.InternalDate(3); return err }},
	} {
		if err := c.do(); !errors.Is(err, mailbox.ErrRenumbered) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	same(t, "copied", s.snapshot(s.folder("A")).Messages.Len(), 0)
	snap := s.snapshot(f) // from here on the handle knows the new ones
	sameList(t, "left", uids(snap), 1, 2, 3)
	same(t, "unseen", snap.Unseen, 3)
	same(t, "text", s.read(f, 3), text(4))
}

// TestRenumberedInTheMiddle: the list is lost while a file is looked for.
func TestRenumberedInTheMiddle(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 3 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	h := s.folder("INBOX").(*handle)
	s.snapshot(h)
	must(t, os.Remove(s.path("cur", s.files("cur")[0])))
	must(t, os.Remove(s.path(uidlist.FileName)))
	s.a.mu.Lock() // a recount may be under way
	defer s.a.mu.Unlock()
	_, err := h.f.chase(1, func(m *mailbox.Message) error { return os.Remove(h.f.path(m.Ref)) })
	if !errors.Is(err, mailbox.ErrRenumbered) {
		t.Fatal(err)
	}
	same(t, "left", len(s.files("cur")), 2)
}

func TestMeasuredSizesAreKept(t *testing.T) {
	s := newSetup(t, nil)
	s.b.Close()
	must(t, s.a.Close())
	var list strings.Builder
	fmt.Fprintf(&list, "3 V1700000000 N4 G3085f01b7f11094c501100008c4a11c1\n")
	fields := []string{"", "Wbad Pold ", "S1 "}
	for i := range 3 {
		base := fmt.Sprintf("1700000000.M%dP1.h,S=7", i)
		must(t, os.WriteFile(s.path("cur", base+":2,S"), []byte("a: b\n\n\n"), 0o600))
		fmt.Fprintf(&list, "%d %s:%s\n", i+1, fields[i], base)
	}
	path := s.path(uidlist.FileName)
	must(t, os.WriteFile(path, []byte(list.String()), 0o600))
	for range 2 {
		s.open()
		snap := s.snapshot(s.folder("INBOX"))
		sameList(t, "UIDs", uids(snap), 1, 2, 3)
		for _, m := range snap.Messages.All() {
			same(t, "wire size", m.WireSize, 10)
		}
		same(t, "GUID", snap.Messages.At(1).GUID, "old")
		data, err := os.ReadFile(path)
		must(t, err)
		same(t, "lines with sizes", strings.Count(string(data), " W10 "), 3)
		s.b.Close()
		must(t, s.a.Close())
		// What is not read cannot tell that it is another now.
		for _, file := range s.files("cur") {
			must(t, os.WriteFile(s.path("cur", file), []byte("other"), 0o600))
		}
	}
}

func TestClosedAccountIsErrClosed(t *testing.T) {
	s := newSetup(t, nil)
	f := s.folder("INBOX")
	must(t, s.a.Close())
	if _, err := f.Snapshot(); !errors.Is(err, mailbox.ErrClosed) || !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestMaxFolders(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.CreateFolderOnDelivery, o.MaxFolders = true, 3 })
	for i := range 5 {
		s.deliver(fmt.Sprint(i), text(i), fmt.Sprint("f", i))
	}
	sameList(t, "folders", folderNames(s), "INBOX", "f0", "f1", "f2")
	same(t, "in INBOX", s.snapshot(s.folder("INBOX")).Messages.Len(), 2)
	for what, err := range map[string]error{
		"create": s.b.CreateFolder("g", ""), "rename INBOX": s.b.RenameFolder("INBOX", "g"),
	} {
		if !errors.Is(err, mailbox.ErrTooManyFolders) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.deliver("again", text(9), "f1")
	must(t, s.b.RenameFolder("f1", "g")) // no folder more
	same(t, "in g", s.snapshot(s.folder("g")).Messages.Len(), 2)
	must(t, s.b.DeleteFolder("g"))
	must(t, s.b.CreateFolder("h", ""))
}

func TestLongFoldersOfOthersOpen(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.CreateFolderOnDelivery = true })
	for _, n := range []int{201, 255} {
		rel := "." + strings.Repeat("a", 100) + "." + strings.Repeat("b", n-102)
		for _, sub := range subfolders {
			must(t, os.MkdirAll(s.path(rel, sub), 0o700))
		}
	}
	list, err := s.b.Folders()
	must(t, err)
	opened := 0
	for _, info := range list[1:] {
		if !info.NoSelect {
			opened++
			s.append(info.Name, text(1), mailbox.Flags{})
			must(t, s.b.Subscribe(info.Name, true))
		}
	}
	same(t, "opened", opened, 2)
	long := list[len(list)-1].Name
	must(t, s.b.RenameFolder(long, "short"))
	for what, err := range map[string]error{
		"create": s.b.CreateFolder(long+"x", ""), "rename": s.b.RenameFolder("short", long),
		"rename beyond the file system": s.b.RenameFolder("short", long+strings.Repeat("c", 100)),
	} {
		if !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.deliver("1", text(1), long)
	same(t, "in INBOX", s.snapshot(s.folder("INBOX")).Messages.Len(), 1)
}

func TestTransferKeepsKeywordsApart(t *testing.T) {
	for _, op := range []string{"copy", "move"} {
		t.Run(op, func(t *testing.T) {
			s := newSetup(t, nil)
			must(t, s.b.CreateFolder("G", ""))
			u := s.append("G", text(0), mailbox.Flags{})
			g := s.folder("G")
			for i := range 26 { // all letters are named, and one is in use
				_, err := g.SetFlags([]mailbox.UID{u}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: words(fmt.Sprint("k", i))})
				must(t, err)
			}
			s.append("INBOX", text(1), words("Alpha"))
			s.append("INBOX", text(2), words("Beta", "k3"))
			f := s.folder("INBOX")
			do := f.Copy
			if op == "move" {
				do = f.Move
			}
			_, err := do([]mailbox.UID{1, 2}, "G")
			must(t, err)
			in := s.snapshot(g).Messages
			for i, want := range []mailbox.Flags{words("k25"), words("Alpha"), words("Beta", "k3")} {
				if got := in.At(i).Flags; !got.Equal(want) {
					t.Errorf("message %d has %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestStoreKeepsKeywordsApart: a word that has a letter which no message carries
// does not lose it to the next one of the same STORE.
func TestStoreKeepsKeywordsApart(t *testing.T) {
	s := newSetup(t, nil)
	s.append("INBOX", text(1), mailbox.Flags{})
	f := s.folder("INBOX")
	for i := range 26 {
		_, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: words(fmt.Sprint("k", i))})
		must(t, err)
	}
	got, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: words("k0", "new")})
	must(t, err)
	sameList(t, "keywords", got.Changed[0].Flags.Keywords, "k0", "new")
}

func TestMoveMindsUnnumberedNames(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	s.append("INBOX", text(1), mailbox.Flags{})
	f, g := s.folder("INBOX").(*handle), s.folder("A").(*handle)
	s.snapshot(f)
	s.snapshot(g)
	s.a.mu.Lock() // a recount may be under way
	base := refBase(f.f.msgs.At(0).Ref)
	size, wire := name.Sizes(base)
	must(t, os.WriteFile(s.path(".A", "new", base), []byte(text(2)), 0o600))
	// As it is while the disk is too full to number it.
	g.f.fresh = append(g.f.fresh, unnumbered{ref: refOf(true, base), size: size, wire: wire})
	_, err := f.f.moveTo(g.f, []mailbox.UID{1})
	s.a.mu.Unlock()
	must(t, err)
	file := s.files(".A", "cur")
	if n, _ := name.Parse(file[0]); len(file) != 1 || n.Base == base {
		t.Fatal(file)
	}
	same(t, "messages", s.snapshot(g).Messages.Len(), 2)
}

func TestRemoveLitterTakesTemporaryFiles(t *testing.T) {
	s := newSetup(t, nil)
	folder := vfs.TempPrefix[1:] + "x" // a client may name one so
	for _, f := range []string{"A", folder} {
		must(t, s.b.CreateFolder(f, ""))
	}
	for _, path := range []string{filepath.Join(s.root, vfs.TempPrefix+"1"), s.path(vfs.TempPrefix + "2"), s.path(".A", vfs.TempPrefix+"3")} {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	for _, c := range []struct {
		age  time.Duration
		want int
	}{{LitterAge - time.Hour, 0}, {LitterAge + time.Hour, 3}, {LitterAge + time.Hour, 0}} {
		n, err := RemoveLitter(vfs.OS, s.root, time.Now().Add(c.age))
		must(t, err)
		same(t, "removed", n, c.want)
	}
	sameList(t, "folders", folderNames(s), "INBOX", "A", folder)
}

func TestLostCurIsAnError(t *testing.T) {
	s := newSetup(t, nil)
	for _, f := range []string{"A", "Empty"} {
		must(t, s.b.CreateFolder(f, ""))
	}
	s.append("A", text(1), mailbox.Flags{})
	before := s.snapshot(s.folder("A"))
	for _, dir := range []string{".A", ".Empty"} {
		must(t, os.Rename(s.path(dir, "cur"), s.path(dir, "kept")))
	}
	for range 2 {
		if snap, err := s.folder("A").Snapshot(); err == nil {
			t.Fatal(snap, err)
		}
		s.reopen()
	}
	m := s.stage(text(2))
	defer m.Discard()
	if err := s.b.Deliver(context.Background(), one("1", m, "A", false)); err != nil {
		t.Fatal(err) // it needs tmp and new only
	}
	same(t, "messages", s.snapshot(s.folder("Empty")).Messages.Len(), 0)
	must(t, os.Rename(s.path(".A", "kept"), s.path(".A", "cur")))
	after := s.snapshot(s.folder("A"))
	same(t, "UIDVALIDITY", after.UIDValidity, before.UIDValidity)
	sameList(t, "UIDs", uids(after), 1, 2)
}

// leaveGuard calls leave when the user's lock is given back.
type leaveGuard struct {
	Guard
	leave func()
}

func (g *leaveGuard) Enter(epoch director.Epoch) (func(), error) {
	leave, err := g.Guard.Enter(epoch)
	if err != nil {
		return nil, err
	}
	return func() { g.leave(); leave() }, nil
}

func TestDeleteFolderRemovesOutsideTheLock(t *testing.T) {
	var s *setup
	hidden := func() []string {
		list, err := filepath.Glob(s.path(hiddenPrefix + "*"))
		must(t, err)
		return list
	}
	seen := -1
	s = newSetup(t, func(o *Options) { o.Guard = &leaveGuard{o.Guard, func() { seen = len(hidden()) }} })
	must(t, s.b.CreateFolder("A", ""))
	s.append("A", text(1), mailbox.Flags{})
	must(t, s.b.DeleteFolder("A"))
	same(t, "hidden when the lock was left", seen, 1)
	same(t, "hidden afterwards", len(hidden()), 0)
	sameList(t, "folders", folderNames(s), "INBOX")
	s.quotaIsExact()
}
