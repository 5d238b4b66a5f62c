package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// fataler is what testing.TB and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// quickFS waits for no disk.
type quickFS struct{ vfs.FS }

func (q quickFS) SyncDir(string) error { return nil }

func (q quickFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := q.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return quickFile{f}, nil
}

func (q quickFS) Nameless(dir string) (vfs.File, error) {
	f, err := q.FS.Nameless(dir)
	if err != nil {
		return nil, err
	}
	return quickFile{f}, nil
}

type quickFile struct{ vfs.File }

func (quickFile) Sync() error     { return nil }
func (quickFile) Datasync() error { return nil }

// world is an archive and the place of a user's UIDs.
type world struct {
	t       fataler
	archive string
	root    string
	config  Config
	now     time.Time
	fence   error
	set     *Set
	boxes   []mailbox.Box
}

// newWorld makes one below dir; the clock is far ahead of all files.
func newWorld(t fataler, dir, below, format string) *world {
	w := &world{t: t, archive: filepath.Join(dir, "srv", string(ann)), root: filepath.Join(dir, "user"), now: time.Now().Add(time.Hour)}
	w.config = Config{Name: "Archive", Format: format, Path: filepath.Join(dir, "srv", "{user}", below)}
	if err := os.MkdirAll(w.archive, 0o700); err != nil {
		t.Fatalf("%v", err)
	}
	w.restart()
	return w
}

// restart is another process.
func (w *world) restart() {
	w.t.Helper()
	w.end()
	set, err := New(Options{FS: quickFS{vfs.OS}, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }, Interval: time.Millisecond}, []Config{w.config})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	w.set = set
}

func (w *world) end() {
	for _, b := range w.boxes {
		b.Close()
	}
	w.boxes = nil
}

func (w *world) box() mailbox.Box {
	w.t.Helper()
	guard := func(op func() error) error {
		if w.fence != nil {
			return w.fence
		}
		return op()
	}
	all := w.set.Open(Owner{User: ann, Epoch: 3, Root: w.root, Guard: guard, Done: make(chan struct{})})
	if len(all) != 1 || all[0].Name != "Archive" {
		w.t.Fatalf("opened %v", all)
	}
	w.boxes = append(w.boxes, all[0].Box)
	return all[0].Box
}

func (w *world) folder(name string) mailbox.Folder {
	w.t.Helper()
	f, err := w.box().Folder(name)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	return f
}

// snapshot looks at a folder some seconds later.
func (w *world) snapshot(f mailbox.Folder) mailbox.Snapshot {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	s, err := f.Snapshot()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	return s
}

// read gives UIDs and texts.
func (w *world) read(f mailbox.Folder) string {
	w.t.Helper()
	var out strings.Builder
	for _, m := range w.snapshot(f).Messages.All() {
		b, err := f.Open(m.UID)
		if err != nil {
			w.t.Fatalf("%v", err)
		}
		text, err := io.ReadAll(b)
		if err != nil || int64(len(text)) != m.WireSize || b.WireSize() != m.WireSize {
			w.t.Fatalf("%d bytes of %d: %v", len(text), m.WireSize, err)
		}
		b.Close()
		fmt.Fprintf(&out, "%d=%s ", m.UID, strings.TrimSpace(strings.TrimPrefix(string(text), "\r\n")))
	}
	return strings.TrimSpace(out.String())
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.archive, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatalf("%v", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatalf("%v", err)
	}
}

// mail is an mbox of these texts.
func mail(all ...string) string {
	var b strings.Builder
	for _, text := range all {
		b.WriteString(sep + "\n" + text + "\n\n")
	}
	return b.String()
}

// state lists a tree with times and contents.
func state(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var data []byte
		if info.Mode().IsRegular() {
			data, err = os.ReadFile(path)
		}
		fmt.Fprintf(&b, "%s %v %v %d %q\n", path, info.Mode(), info.ModTime(), info.Size(), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (w *world) expect(f mailbox.Folder, want string) {
	w.t.Helper()
	if got := w.read(f); got != want {
		w.t.Fatalf("got %s, want %s", got, want)
	}
}

func TestMbox(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}/{month}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("2024/05.mbox", mail("a", "b"))
	f := w.folder("2024/05")
	w.expect(f, "1=a 2=b")
	first := w.snapshot(f)
	w.write("2024/05.mbox", mail("a", "b", "c"))
	w.expect(f, "1=a 2=b 3=c")
	now := w.snapshot(f)
	if now.UIDValidity != first.UIDValidity || now.ID != first.ID || now.HighestModSeq <= first.HighestModSeq || now.Version == first.Version || now.UIDNext != 4 {
		t.Errorf("%+v after %+v", now, first)
	}
	w.restart()
	f = w.folder("2024/05")
	w.expect(f, "1=a 2=b 3=c")
	// What moves gets new UIDs, what stays keeps its own.
	w.write("2024/05.mbox", mail("a", "c", "d"))
	w.snapshot(f)
	w.expect(f, "1=a 4=c 5=d")
	if s := w.snapshot(f); s.UIDValidity != first.UIDValidity || s.HighestModSeq <= now.HighestModSeq {
		t.Errorf("%+v after %+v", s, now)
	}
	// If nothing does, all begins anew.
	w.write("2024/05.mbox", mail("x", "a", "c"))
	if _, err := f.Open(1); !errors.Is(err, errUnproven) {
		t.Errorf("an old UID: %v", err)
	}
	w.snapshot(f)
	if _, err := f.Open(4); !errors.Is(err, mailbox.ErrRenumbered) && !errors.Is(err, mailbox.ErrNoMessage) {
		t.Errorf("an old UID: %v", err)
	}
	w.expect(f, "1=x 2=a 3=c")
	if s := w.snapshot(f); s.UIDValidity <= first.UIDValidity || s.ID == first.ID {
		t.Errorf("%+v after %+v", s, first)
	}
	if err := os.Remove(filepath.Join(w.archive, "2024/05.mbox")); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Minute)
	if _, err := f.Snapshot(); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Errorf("gone: %v", err)
	}
}

// TestRewritten: an mbox that is written anew shows what it had until it has stood still for a
// while. What comes back is what it was.
func TestRewritten(t *testing.T) {
	for _, during := range []string{"", mail("a"), "garbage\n", mail("a", "b")[:len(sep)+5], "\x00\x00", mail("other")} {
		w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMbox)
		t.Cleanup(w.end)
		w.write("2024.mbox", mail("a", "b"))
		f := w.folder("2024")
		w.expect(f, "1=a 2=b")
		first := w.snapshot(f)
		w.write("2024.mbox", during)
		s := w.snapshot(f)
		if s.Messages.Len() != 2 || s.UIDValidity != first.UIDValidity || s.UIDNext != 3 {
			t.Errorf("%.20q: %+v", during, s)
		}
		if _, err := f.Open(2); !errors.Is(err, errUnproven) {
			t.Errorf("%.20q: %v", during, err)
		}
		w.restart()
		f = w.folder("2024")
		if s := w.snapshot(f); s.Messages.Len() != 2 {
			t.Errorf("%.20q, after a restart: %+v", during, s)
		}
		w.write("2024.mbox", mail("a", "b", "c"))
		w.expect(f, "1=a 2=b 3=c")
		if s := w.snapshot(f); s.UIDValidity != first.UIDValidity || s.ID != first.ID {
			t.Errorf("%.20q: %+v after %+v", during, s, first)
		}
	}
}

// TestNoMbox: a file that is none is not an empty folder.
func TestNoMbox(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("2024.mbox", "Subject: x\n\nhello\n")
	if _, err := w.folder("2024").Snapshot(); !errors.Is(err, errNoMbox) {
		t.Error(err)
	}
	w.write("2025.mbox", "")
	w.expect(w.folder("2025"), "")
}

// TestNameWrongAboutSize: a message is served whole, whatever its name says of its size.
func TestNameWrongAboutSize(t *testing.T) {
	w := newWorld(t, t.TempDir(), "", FormatMaildir)
	t.Cleanup(w.end)
	for i, sizes := range []string{"S=4,W=4", "S=4,W=9", "S=9,W=9", "S=4,W=6"} {
		w.write(fmt.Sprintf("cur/%d.M1.h,%s:2,", i, sizes), "a\nb\n")
	}
	f := w.folder("INBOX")
	for uid := mailbox.UID(1); uid <= 4; uid++ {
		b, err := f.Open(uid)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(b); string(text) != "a\r\nb\r\n" || err != nil || b.WireSize() != 6 || b.Close() != nil {
			t.Errorf("%d: %q of %d, %v", uid, text, b.WireSize(), err)
		}
	}
}

// renaming gives a file another name once while its folder is read.
type renaming struct {
	vfs.FS
	once func()
}

func (r *renaming) ReadDir(name string, visit func(fs.DirEntry) error) error {
	return r.FS.ReadDir(name, func(e fs.DirEntry) error {
		if r.once != nil && e.Name() == "2.M1.h:2," {
			r.once()
			r.once = nil
			return nil // as a folder may be read: neither the old name nor the new one is seen
		}
		return visit(e)
	})
}

// TestRenamedDuringScan: a file that one look misses keeps its UID.
func TestRenamedDuringScan(t *testing.T) {
	w := newWorld(t, t.TempDir(), "", FormatMaildir)
	t.Cleanup(w.end)
	for i := 1; i <= 3; i++ {
		w.write(fmt.Sprintf("cur/%d.M1.h:2,", i), fmt.Sprintf("%d\n", i))
	}
	f := w.folder("INBOX")
	w.expect(f, "1=1 2=2 3=3")
	w.set.o.FS = &renaming{w.set.o.FS, func() {
		if err := os.Rename(filepath.Join(w.archive, "cur/2.M1.h:2,"), filepath.Join(w.archive, "cur/2.M1.h:2,S")); err != nil {
			t.Error(err)
		}
	}}
	w.boxes[0].Close()
	w.write("cur/4.M1.h:2,", "4\n")
	f = w.folder("INBOX")
	w.expect(f, "1=1 2=2 3=3 4=4")
}

func TestMaildir(t *testing.T) {
	w := newWorld(t, t.TempDir(), "", FormatMaildir)
	t.Cleanup(w.end)
	if err := os.Remove(w.archive); err != nil {
		t.Fatal(err)
	}
	f := w.folder("INBOX")
	w.expect(f, "") // nobody has ever put anything there
	w.write("cur/1.M1.h,S=2:2,FS", "a\n")
	w.write("new/2.M1.h", "b\n")
	w.write("new/.hidden", "b\n")
	w.expect(f, "1=a 2=b")
	s := w.snapshot(f)
	if s.Messages.At(0).Flags.System != mailbox.Seen|mailbox.Flagged || s.Unseen != 1 {
		t.Errorf("%+v", s)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(w.archive, from), filepath.Join(w.archive, to)); err != nil {
			t.Fatal(err)
		}
	}
	rename("new/2.M1.h", "cur/2.M1.h:2,S")
	rename("cur/1.M1.h,S=2:2,FS", "cur/1.M1.h,S=2:2,T")
	w.restart()
	f = w.folder("INBOX")
	w.expect(f, "1=a 2=b")
	status, err := f.Status()
	if err != nil || status.Unseen != 1 || status.Deleted != 1 || status.HighestModSeq <= s.HighestModSeq || status.Bytes != 6 {
		t.Errorf("%+v %v", status, err)
	}
	// A renamed file is found without waiting for the next look.
	rename("cur/2.M1.h:2,S", "cur/2.M1.h:2,")
	if b, err := f.Open(2); err != nil || b.Close() != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(w.archive, "cur/2.M1.h:2,")); err != nil {
		t.Fatal(err)
	}
	w.expect(f, "1=a")
	if err := os.Symlink("1.M1.h,S=2:2,T", filepath.Join(w.archive, "cur/3.M1.h")); err != nil {
		t.Fatal(err)
	}
	w.expect(f, "1=a")
	// A folder that was there and is not may be one that is not mounted.
	if err := os.Rename(w.archive, w.archive+"-away"); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Minute)
	if _, err := f.Snapshot(); !errors.Is(err, errAway) {
		t.Errorf("away: %v", err)
	}
	if err := os.Rename(w.archive+"-away", w.archive); err != nil {
		t.Fatal(err)
	}
	w.expect(f, "1=a")
}

func TestReadOnly(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMboxrd)
	t.Cleanup(w.end)
	w.write("2024.mbox", mail(">From a", "b"))
	before := state(t, filepath.Dir(w.archive))
	b := w.box()
	f := w.folder("2024")
	w.expect(f, "1=From a 2=b")
	for what, err := range map[string]error{
		"create": b.CreateFolder("2025", ""), "delete": b.DeleteFolder("2024"), "rename": b.RenameFolder("2024", "2025"),
		"metadata": b.SetMetadata("2024", nil), "acl": b.SetACL("2024", "x", "l"), "subscribe": b.Subscribe("2024", true),
		"deliver": b.Deliver(t.Context(), mailbox.Delivery{}), "fits": b.Fits(1),
		"append":  second(b.Append("2024", nil)),
		"flags":   second(f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{})),
		"expunge": second(f.Expunge(nil)), "expunge deleted": second(f.ExpungeDeleted(nil)),
		"copy": second(f.Copy([]mailbox.UID{1}, "2024")), "move": second(f.Move([]mailbox.UID{1}, "2024")),
	} {
		if !errors.Is(err, mailbox.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	meta, err := f.Meta(2)
	if err != nil || meta.Preview != "b" || meta.Arrived.Year() != 1996 {
		t.Errorf("%+v %v", meta, err)
	}
	if again, err := f.Meta(2); err != nil || again.Preview != "b" {
		t.Errorf("%+v %v", again, err)
	}
	if r, err := b.Rights("2024"); r != "lr" || err != nil {
		t.Error(r, err)
	}
	ids := map[string]bool{}
	for uid := range mailbox.UID(2) {
		id, err := f.EmailID(uid + 1)
		if err != nil || ids[id] {
			t.Error(id, err)
		}
		ids[id] = true
	}
	for what, err := range map[string]error{
		"folder": second(b.Folder("2023")), "rights": second(b.Rights("../2024")), "metadata": second(b.Metadata("2023")), "acl": second(b.ACL("2023")),
	} {
		if !errors.Is(err, mailbox.ErrNoFolder) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"open": second(f.Open(9)), "date": second(f.InternalDate(9)), "saved": second(f.SaveDate(9)), "id": second(f.EmailID(9)), "meta": second(f.Meta(9)),
	} {
		if !errors.Is(err, mailbox.ErrNoMessage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.end()
	if after := state(t, filepath.Dir(w.archive)); after != before {
		t.Errorf("the archive was changed:\n%s\n%s", before, after)
	}
	if _, err := f.Snapshot(); !errors.Is(err, mailbox.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Links lead out of the archive, to what the user may not read.
func TestLinks(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}/{month}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("../bob/2024/05.mbox", mail("secret"))
	w.write("2023/01.mbox", mail("a"))
	for from, to := range map[string]string{"2024": "../bob/2024", "2023/05.mbox": "../../bob/2024/05.mbox"} {
		if err := os.Symlink(to, filepath.Join(w.archive, from)); err != nil {
			t.Fatal(err)
		}
	}
	b := w.box()
	for _, name := range []string{"2024/05", "2023/05", "../bob/2024/05"} {
		if _, err := b.Folder(name); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if infos, err := b.Folders(); err != nil || len(infos) != 1 || infos[0].Name != "2023/01" {
		t.Error(infos, err)
	}
}

func second[T any](_ T, err error) error { return err }

// The fence is asked at each operation, and nothing is written past it.
func TestFence(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("2024.mbox", mail("a"))
	b, f := w.box(), w.folder("2024")
	w.expect(f, "1=a")
	before := state(t, w.root)
	w.fence = mailbox.ErrFrozen
	w.write("2024.mbox", mail("a", "b"))
	w.now = w.now.Add(time.Minute)
	for what, err := range map[string]error{
		"folders": second(b.Folders()), "folder": second(b.Folder("2024")), "snapshot": second(f.Snapshot()), "status": second(f.Status()),
		"open": second(f.Open(1)), "meta": second(f.Meta(1)), "rights": second(b.Rights("2024")),
	} {
		if !errors.Is(err, mailbox.ErrFrozen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.end()
	if after := state(t, w.root); after != before {
		t.Errorf("written past the fence:\n%s\n%s", before, after)
	}
}

func TestDamage(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("2024.mbox", mail("a", "b"))
	f := w.folder("2024")
	validity := w.snapshot(f).UIDValidity
	path := filepath.Join(w.root, Dir, escaped("Archive"), escaped("2024"), ledgerName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string][]byte{
		"cut": whole[:len(whole)-3], "turned": append(slices.Clone(whole[:20]), append([]byte{whole[20] ^ 1}, whole[21:]...)...), "empty": {},
		"zeros": append(slices.Clone(whole), 0, 0, 0), "text": []byte("hello\n"),
	} {
		if err := os.WriteFile(path, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		w.restart()
		f := w.folder("2024")
		w.expect(f, "1=a 2=b")
		if s := w.snapshot(f); what == "cut" && s.UIDValidity == validity {
			t.Errorf("%s: UIDVALIDITY is still %d", what, s.UIDValidity)
		}
	}
}

// Whoever waits is told of what another program does.
func TestChanged(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{year}.mbox", FormatMbox)
	t.Cleanup(w.end)
	w.write("2024.mbox", mail("a"))
	b, f := w.box(), w.folder("2024")
	s := w.snapshot(f)
	u, account := b.Updates(0)
	changed := f.Changed(s.Version)
	select {
	case <-changed:
		t.Fatal("told of nothing")
	default:
	}
	w.write("2024.mbox", mail("a", "b"))
	for what, c := range map[string]<-chan struct{}{"folder": changed, "account": account} {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: not told", what)
		}
	}
	if now, _ := b.Updates(u.Version); !slices.Equal(now.Folders, []string{"2024"}) || now.Listing {
		t.Errorf("%+v", now)
	}
	if s, err := f.Snapshot(); err != nil || s.Messages.Len() != 2 {
		t.Error(s.Messages.Len(), err)
	}
	select {
	case <-f.Changed(s.Version):
	default:
		t.Error("not told of what was before")
	}
}

// More folders than are kept in memory.
func TestManyFolders(t *testing.T) {
	w := newWorld(t, t.TempDir(), "{name}.mbox", FormatMbox)
	t.Cleanup(w.end)
	b := w.box()
	for range 2 {
		for i := range maxOpen + 20 {
			name := fmt.Sprintf("f%d", i)
			w.write(name+".mbox", mail(name))
			f, err := b.Folder(name)
			if err != nil {
				t.Fatal(err)
			}
			w.expect(f, "1="+name)
		}
	}
	infos, err := b.Folders()
	if err != nil || len(infos) != maxOpen+20 {
		t.Error(len(infos), err)
	}
	s := b.(*box).shelf
	if s.mu.Lock(); len(s.folders) > maxOpen {
		t.Errorf("%d in memory", len(s.folders))
	}
	s.mu.Unlock()
}
