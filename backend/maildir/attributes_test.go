package maildir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/state"
)

// TestSpecialUseOfUnopenedFolders: a listing finds the uses of folders that nobody
// has opened, and of one that crashed into being.
func TestSpecialUseOfUnopenedFolders(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("Sent", `\Sent`))
	must(t, s.b.CreateFolder("Bin", ""))
	use := `\Trash`
	_, err := s.b.Folders()
	must(t, err)
	must(t, s.b.SetMetadata("Bin", map[string]*string{mailbox.UseEntry: &use}))
	s.b.Close() // the Account forgets its folders
	s.b = s.a.Box(testUser, 0, nil)
	uses := func() (list []string) {
		infos, err := s.b.Folders()
		must(t, err)
		for _, info := range infos {
			list = append(list, info.Name+info.SpecialUse)
		}
		return list
	}
	want := []string{"INBOX", `Bin\Trash`, `Sent\Sent`}
	sameList(t, "uses", uses(), want...)
	s.reopen()
	sameList(t, "uses", uses(), want...)
	same(t, "folders opened", len(s.a.folders), 0)
	// The state of a folder as a crash may leave it: the journal has the rest.
	s.powerless(func() { must(t, os.Truncate(s.path(".Bin", state.FileName), 0)) })
	sameList(t, "uses", uses(), want...)
	// One that cannot be read is none.
	must(t, os.Remove(s.path(".Sent", state.FileName)))
	must(t, os.Mkdir(s.path(".Sent", state.FileName), 0o700))
	s.reopen()
	sameList(t, "uses", uses(), "INBOX", `Bin\Trash`, "Sent")
	must(t, os.Remove(s.path(".Sent", state.FileName)))
}

// TestUsualUses: names tell uses until somebody says them.
func TestUsualUses(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.Uses = mailbox.UsualUses() })
	for _, folder := range []string{"Spam", "Sent", "Trash/2026", "Deleted Items", "Out"} {
		must(t, s.b.CreateFolder(folder, ""))
	}
	uses := func() (list []string) {
		infos, err := s.b.Folders()
		must(t, err)
		for _, info := range infos {
			list = append(list, info.Name+info.SpecialUse)
		}
		return list
	}
	sameList(t, "uses", uses(), "INBOX", `Deleted Items\Trash`, "Out", `Sent\Sent`, `Spam\Junk`, "Trash", "Trash/2026")
	use := `\Sent`
	must(t, s.b.SetMetadata("Out", map[string]*string{mailbox.UseEntry: &use}))
	must(t, s.b.RenameFolder("Deleted Items", "Trash/2025"))
	must(t, s.b.CreateFolder("Trash", ""))
	sameList(t, "uses", uses(), "INBOX", `Out\Sent`, "Sent", `Spam\Junk`, `Trash\Trash`, "Trash/2025", "Trash/2026")
	must(t, s.b.SetMetadata("Out", map[string]*string{mailbox.UseEntry: nil}))
	sameList(t, "uses", uses(), "INBOX", "Out", `Sent\Sent`, `Spam\Junk`, `Trash\Trash`, "Trash/2025", "Trash/2026")
}

// TestMailboxIDWithoutGUID: older servers' uidlists have none.
func TestMailboxIDWithoutGUID(t *testing.T) {
	s := newSetup(t, nil)
	s.append("INBOX", text(1), mailbox.Flags{})
	id := s.snapshot(s.folder("INBOX")).ID
	s.b.Close()
	must(t, s.a.Close())
	list := s.path("dovecot-uidlist")
	data, err := os.ReadFile(list)
	must(t, err)
	head, rest, _ := strings.Cut(string(data), "\n")
	must(t, os.WriteFile(list, []byte(head[:strings.Index(head, " G")]+"\n"+rest), 0o600))
	must(t, os.Remove(s.path(state.FileName)))
	s.open()
	got := s.snapshot(s.folder("INBOX")).ID
	if len(got) != 32 || got == id {
		t.Fatalf("%q after %q", got, id)
	}
	s.reopen()
	same(t, "id", s.snapshot(s.folder("INBOX")).ID, got)
	s.powerless(func() {})
	same(t, "id", s.snapshot(s.folder("INBOX")).ID, got)
}

func TestObjectID(t *testing.T) {
	for text, want := range map[string]string{
		"aZ_-9": "aZ_-9", strings.Repeat("x", 255): strings.Repeat("x", 255),
	} {
		same(t, text, objectID(text), want)
	}
	seen := map[string]bool{}
	for _, text := range []string{"", "1.M2P3Q4.host", "1.M2P3Q5.host", "ä", strings.Repeat("x", 256)} {
		id := objectID(text)
		if len(id) != 32 || seen[id] || objectID(text) != id {
			t.Errorf("%q: %q", text, id)
		}
		seen[id] = true
	}
}

// TestSaveDateOfOthers: what was there before is not dated; what others put there
// is, from when it was seen; what was delivered is, from when it was delivered.
func TestSaveDateOfOthers(t *testing.T) {
	now := time.Unix(2e9, 0)
	s := newSetup(t, func(o *Options) { o.Now = func() time.Time { return now } })
	must(t, s.b.CreateFolder("A", ""))
	s.deliver("id", text(1), "A")
	now = now.Add(time.Hour)
	must(t, os.WriteFile(s.path(".A", "cur", "1.M1P1.other:2,"), []byte("x\n"), 0o600))
	f := s.folder("A")
	snap := s.snapshot(f)
	for i, want := range []int64{2e9 + 3600, 2e9} { // by name
		at, err := f.SaveDate(snap.Messages.At(i).UID)
		must(t, err)
		same(t, "save date", at.Unix(), want)
	}
	s.b.Close()
	must(t, s.a.Close())
	must(t, os.Remove(s.path(".A", state.FileName)))
	s.open()
	at, err := s.folder("A").SaveDate(1)
	must(t, err)
	same(t, "not dated", at.IsZero(), true)
}

// TestUpdatesOfForeignChanges: who waits is told what others do to folders that are
// open, once.
func TestUpdatesOfForeignChanges(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	must(t, s.b.CreateFolder("B", ""))
	f := s.folder("A")
	s.snapshot(f)
	u, _ := s.b.Updates(0)
	_, wait := s.b.Updates(u.Version)
	for _, rel := range []string{".A", ".B"} { // nobody has opened B
		must(t, os.WriteFile(filepath.Join(s.path(rel, "new"), "1.M1P1.other"), []byte("x\n"), 0o600))
	}
	select {
	case <-wait:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was told")
	}
	got, _ := s.b.Updates(u.Version)
	sameList(t, "changed", got.Folders, "A")
	s.a.look()
	again, _ := s.b.Updates(got.Version)
	same(t, "told again", again.Version, got.Version)
	same(t, "messages", s.snapshot(f).Messages.Len(), 1)
}

// TestAppendIsOneStep: what fails in the middle leaves nothing.
func TestAppendIsOneStep(t *testing.T) {
	s := newSetup(t, nil)
	s.limit = mailbox.Limit{Messages: 2}
	var all []mailbox.NewMessage
	for i := range 3 {
		m := s.stage(text(i))
		defer m.Discard()
		all = append(all, mailbox.NewMessage{Message: m})
	}
	if _, err := s.b.Append("INBOX", all); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	bad := slices.Clone(all[:2])
	bad[1].Flags = words("two words")
	if _, err := s.b.Append("INBOX", bad); err == nil {
		t.Fatal("took a keyword that is none")
	}
	if _, err := s.b.Append("INBOX", []mailbox.NewMessage{all[0], {Message: foreignStaged{}}}); err == nil {
		t.Fatal("took a message of another store")
	}
	same(t, "messages", s.snapshot(s.folder("INBOX")).Messages.Len(), 0)
	r, err := s.b.Append("INBOX", all[1:])
	must(t, err)
	sameList(t, "UIDs", r.UIDs, 1, 2)
	s.quotaIsExact()
}

type foreignStaged struct{ mailbox.Staged }

func (foreignStaged) Size() int64 { return 1 }

// TestKeywordGetsALetterLater: a keyword that had none is the same one when it has
// got a letter.
func TestKeywordGetsALetterLater(t *testing.T) {
	s := newSetup(t, nil)
	all := words()
	for i := range 27 {
		all.Keywords = append(all.Keywords, string(rune('A'+i/10))+string(rune('0'+i%10)))
	}
	s.append("INBOX", text(1), all)
	s.append("INBOX", text(2), mailbox.Flags{})
	f := s.folder("INBOX")
	set := func(op mailbox.FlagOp, uid mailbox.UID, list ...string) []string {
		r, err := f.SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: op, Flags: words(list...)})
		must(t, err)
		return r.Changed[0].Flags.Keywords
	}
	set(mailbox.FlagsRemove, 1, "A0")
	sameList(t, "with a letter", set(mailbox.FlagsAdd, 2, "c6"), "C6")
	sameList(t, "both", set(mailbox.FlagsAdd, 1, "C6"), all.Keywords[1:]...)
	s.reopen()
	f = s.folder("INBOX")
	sameList(t, "reopened", s.snapshot(f).Messages.At(0).Flags.Keywords, all.Keywords[1:]...)
	sameList(t, "without", set(mailbox.FlagsRemove, 1, "c6"), all.Keywords[1:26]...)
	sameList(t, "the other", s.snapshot(f).Messages.At(1).Flags.Keywords, "C6")
}
