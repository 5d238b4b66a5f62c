package safe

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree has INBOX with two messages and UIDNEXT next, and an empty folder Sent.
func tree(t *testing.T, next uint32, now time.Time) string {
	t.Helper()
	root := t.TempDir()
	inbox, sent := filepath.Join(root, "Maildir"), filepath.Join(root, "Maildir", ".Sent")
	must(t, os.MkdirAll(sent, 0o700))
	list, err := uidlist.Create(vfs.OS, inbox, uidlist.Header{Validity: 77, Next: next - 2, GUID: "0123456789abcdef0123456789abcdef"})
	must(t, err)
	must(t, list.Add([]uidlist.Entry{{Base: "1.a"}, {Base: "2.b"}}, nil))
	st, err := state.Load(vfs.OS, state.Folder{Dir: inbox, GUID: list.Header().GUID, Validity: 77, Next: next}, now, false)
	must(t, err)
	must(t, st.Apply(state.Change(st.Highest()+1, next-2), state.Expunge(st.Highest()+2, 1)))
	return root
}

func TestMake(t *testing.T) {
	taken := time.Unix(1_700_000_000, 0)
	now := taken.Add(72 * time.Hour)
	root := tree(t, 12, taken)
	inbox := filepath.Join(root, "Maildir")
	folders, err := Make(vfs.OS, root, taken, now)
	must(t, err)
	if len(folders) != 2 || folders[0].Name != "" || folders[1].Name != ".Sent" || folders[1].Next != 0 {
		t.Fatalf("%+v", folders)
	}
	list, entries, err := uidlist.Load(vfs.OS, inbox)
	must(t, err)
	h := list.Header()
	if want := uint32(12 + 1<<20 + 16*72*3600); h.Validity != 77 || h.Next != want || folders[0].Next != want || len(entries) != 2 || entries[0].UID != 10 || entries[1].UID != 11 {
		t.Errorf("header %+v, entries %+v, want UIDNEXT %d", h, entries, want)
	}
	st, err := state.Load(vfs.OS, state.Folder{Dir: inbox, GUID: h.GUID, Validity: 77, Next: h.Next}, now, false)
	must(t, err)
	// No home that counted from the time can have given so high a one.
	if st.Highest() <= uint64(now.Add(time.Hour).Unix())<<20 || st.Highest() != folders[0].ModSeq {
		t.Errorf("HIGHESTMODSEQ %d, told %d", st.Highest(), folders[0].ModSeq)
	}
	if set, whole := st.ExpungedSince(0); whole || len(set) != 0 {
		t.Errorf("the history goes on: %v, %v", set, whole)
	}
	text, err := os.ReadFile(filepath.Join(inbox, validityName))
	must(t, err)
	if n, err := strconv.ParseUint(string(text), 16, 32); err != nil || int64(n) <= now.Unix() {
		t.Errorf("the counter of UIDVALIDITYs is %s (%v)", text, err)
	}
	// Again, it jumps again.
	again, err := Make(vfs.OS, root, taken, now)
	must(t, err)
	if again[0].Next <= folders[0].Next || again[0].ModSeq <= folders[0].ModSeq {
		t.Errorf("%+v after %+v", again, folders)
	}
}

// TestMakeUsedUp: where UIDs run short the folder gets a new UIDVALIDITY; a list
// that is not legible is left to the store, which does the same.
func TestMakeUsedUp(t *testing.T) {
	taken := time.Unix(1_700_000_000, 0)
	root := tree(t, math.MaxUint32/2-1000, taken)
	list := filepath.Join(root, "Maildir", uidlist.FileName)
	folders, err := Make(vfs.OS, root, taken, taken)
	must(t, err)
	if _, err := os.Stat(list); !errors.Is(err, fs.ErrNotExist) || folders[0].Next != 0 {
		t.Errorf("%+v, %v", folders, err)
	}
	must(t, os.WriteFile(list, []byte("no list\n"), 0o600))
	folders, err = Make(vfs.OS, root, taken, taken)
	must(t, err)
	if folders[0].Next != 0 {
		t.Errorf("%+v", folders)
	}
	// A clock that went back makes no smaller jump than the least.
	if n := jump(-time.Hour); n != jumpAtLeast {
		t.Errorf("jump by %d", n)
	}
}
