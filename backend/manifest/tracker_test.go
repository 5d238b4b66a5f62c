package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/internal/vfs"
)

// followed is a tree of messages that were there for a while, with a Tracker that is told
// of changes.
func followed(t *testing.T, n int) (*Changes, *Tracker) {
	t.Helper()
	base := t.TempDir()
	root := filepath.Join(base, "0a", "u@example.test")
	for i := range n {
		put(t, root, fmt.Sprintf("Maildir/.f%d/cur/%d.M1.h:2,", i%3, 1000+i), fmt.Sprint(i), 5)
	}
	put(t, root, "Maildir/dovecot-uidlist", "3 V1 N1\n", 5)
	// Folders that changed this very moment would be listed once more.
	before := time.Now().Add(-time.Hour)
	for _, dir := range []string{"", "Maildir", "Maildir/.f0", "Maildir/.f1", "Maildir/.f2", "Maildir/.f0/cur", "Maildir/.f1/cur", "Maildir/.f2/cur"} {
		if err := os.Chtimes(filepath.Join(root, dir), before, before); err != nil {
			t.Fatal(err)
		}
	}
	c := NewChanges(vfs.OS, base)
	tr := NewTracker(root)
	c.Follow(tr)
	scan(t, tr, root)
	return c, tr
}

func same(t *testing.T, tr *Tracker) {
	t.Helper()
	want, err := Scan(t.Context(), tr.root)
	if err != nil {
		t.Fatal(err)
	}
	if got := scan(t, tr, tr.root); !slices.Equal(got.Entries, want.Entries) || tr.Summary() != Summary(want) {
		t.Fatalf("has %v, there is %v", got.Entries, want.Entries)
	}
}

// TestOnlyWhatIsNew: in a folder that is written to through Changes only what is noted is
// looked at and read; what a stranger does is found all the same, by listing.
func TestOnlyWhatIsNew(t *testing.T) {
	c, tr := followed(t, 3000)
	cur := filepath.Join(tr.root, "Maildir/.f1/cur")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := c.Nameless(filepath.Join(tr.root, "Maildir"))
	must(err)
	_, err = f.Write([]byte("new"))
	must(errors.Join(err, f.LinkTo(filepath.Join(cur, "1.new:2,")), f.Close()))
	must(c.Rename(filepath.Join(cur, "1001.M1.h:2,"), filepath.Join(cur, "1001.M1.h:2,S")))
	must(c.Remove(filepath.Join(cur, "1004.M1.h:2,")))
	must(c.Link(filepath.Join(cur, "1007.M1.h:2,"), filepath.Join(tr.root, "Maildir/.f2/cur/2.copy:2,")))
	must(vfs.ReplaceFile(c, filepath.Join(tr.root, "Maildir/dovecot-uidlist"), []byte("3 V1 N5\n"), 0o600))
	must(c.SetModTime(filepath.Join(cur, "1010.M1.h:2,"), time.Unix(77, 0)))
	tr.looks, tr.reads = 0, 0
	scan(t, tr, tr.root)
	if tr.looks > 20 || tr.reads > 4 {
		t.Errorf("%d names looked at, %d files read", tr.looks, tr.reads)
	}
	same(t, tr)
	// A stranger, and one of ours after him in the same folder.
	put(t, tr.root, "Maildir/.f1/cur/3.stranger:2,", "x", 5)
	must(c.Remove(filepath.Join(cur, "1013.M1.h:2,")))
	same(t, tr)
	// Folders: renamed away, and another one made under the old name.
	must(c.Rename(filepath.Join(tr.root, "Maildir/.f1"), filepath.Join(tr.root, "Maildir/.g")))
	must(c.Mkdir(filepath.Join(tr.root, "Maildir/.f1"), 0o700))
	tr.reads = 0
	same(t, tr)
	if tr.reads > 1 { // the uidlist at most
		t.Errorf("%d files read again after a rename of their folder", tr.reads)
	}
	must(c.RemoveAll(filepath.Join(tr.root, "Maildir/.g")))
	same(t, tr)
	c.Leave(tr)
	must(c.Remove(filepath.Join(tr.root, "Maildir/dovecot-uidlist")))
	same(t, tr)
}

// TestTooMany: what is noted is bounded.
func TestTooMany(t *testing.T) {
	c, tr := followed(t, 3)
	for i := range maxNames + 5 {
		f, err := c.OpenFile(fmt.Sprintf("%s/Maildir/.f0/cur/%d.more:2,", tr.root, i), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	same(t, tr)
}

// TestKept: digests survive the end of a process, for files that are the same; a file
// that is torn costs only what came after.
func TestKept(t *testing.T) {
	_, tr := followed(t, 500)
	kept := filepath.Join(t.TempDir(), "moves", "source")
	again := func() *Tracker {
		t.Helper()
		x := NewTracker(tr.root)
		if err := x.Keep(kept); err != nil {
			t.Fatal(err)
		}
		same(t, x)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		return x
	}
	again()
	if x := again(); x.reads != 1 {
		t.Errorf("%d files were read again", x.reads)
	}
	whole, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 5, len(ledgerMagic), len(ledgerMagic) + 6, len(whole) - 1} {
		if err := os.WriteFile(kept, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again()
	}
	bad := bytes.Clone(whole)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(kept, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	again()
}

// TestFrozen: what Freeze wrote is read as it was, also after more was kept; half of it
// is no manifest of a frozen tree.
func TestFrozen(t *testing.T) {
	_, tr := followed(t, 50)
	dir := t.TempDir()
	frozen := filepath.Join(dir, "manifests", "u")
	if err := tr.Keep(filepath.Join(dir, "moves", "source")); err != nil {
		t.Fatal(err)
	}
	sum, err := tr.Freeze(frozen)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ReadFrozen(frozen)
	if err != nil || Summary(m) != sum || !slices.Equal(m.Entries, tr.Manifest().Entries) {
		t.Errorf("%v, %v", m, err)
	}
	b, err := os.ReadFile(frozen)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "half"), b[:len(b)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFrozen(filepath.Join(dir, "half")); err == nil {
		t.Error("half a manifest was taken")
	}
	if err := os.WriteFile(filepath.Join(dir, "json"), []byte(`{"entries":[{"path":"Maildir/"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := ReadFrozen(filepath.Join(dir, "json")); err != nil || len(m.Entries) != 1 {
		t.Errorf("one of before: %v, %v", m, err)
	}
	if err := os.Remove(filepath.Join(tr.root, "Maildir/dovecot-uidlist")); err != nil {
		t.Fatal(err)
	}
	same(t, tr)
	if _, err := ReadFrozen(frozen); err == nil {
		t.Error("the manifest of a tree that went on was taken")
	}
}

// TestDelta: a target gets to know exactly what differs.
func TestDelta(t *testing.T) {
	_, source := followed(t, 400)
	_, target := followed(t, 400)
	put(t, source.root, "Maildir/.f0/cur/1.more:2,", "more", 5)
	if err := os.Remove(filepath.Join(source.root, "Maildir/.f0/cur/1000.M1.h:2,")); err != nil {
		t.Fatal(err)
	}
	same(t, source)
	d, err := source.Delta(target.Query(false, false))
	if err != nil {
		t.Fatal(err)
	}
	if d, err = ParseDelta(d.Append(nil)); err != nil {
		t.Fatal(err)
	}
	have := target.Within(d.Bits, d.Groups)
	if len(d.Entries) > 60 || len(have) > 60 || len(d.Groups) == 0 {
		t.Errorf("%d entries in %d groups for two that differ", len(d.Entries), len(d.Groups))
	}
	has := func(all []Entry, path control.TreePath) bool {
		return slices.ContainsFunc(all, func(e Entry) bool { return e.Path == path })
	}
	if !has(d.Entries, "Maildir/.f0/cur/1.more:2,") || !has(have, "Maildir/.f0/cur/1000.M1.h:2,") || has(d.Entries, "Maildir/.f0/cur/1000.M1.h:2,") {
		t.Errorf("source %v, target %v", d.Entries, have)
	}
	if d, err := source.Delta(source.Query(false, false)); err != nil || len(d.Groups)+len(d.Entries) > 0 {
		t.Errorf("a tree differs from itself: %v, %v", d, err)
	}
	if _, err := source.Delta(Query{Sums: make([]uint64, 3)}); err == nil {
		t.Error("three groups")
	}
}

func FuzzParseDelta(f *testing.F) {
	d := Delta{Blank: true, Bits: 3, Groups: []uint32{1, 7}, Entries: []Entry{{Path: "Maildir/"}, {Path: "a", Size: 5, MTime: -1, Digest: Digest{1}, Link: 9}}}
	f.Add(d.Append(nil))
	f.Add([]byte{2, 0, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDelta(b)
		if err != nil {
			return
		}
		if again, err := ParseDelta(d.Append(nil)); err != nil || len(again.Entries) != len(d.Entries) {
			t.Fatal(err)
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	f.Add(Query{Frozen: true, Sums: []uint64{1, 2}}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseQuery(b); err == nil {
			if again, err := ParseQuery(q.Append(nil)); err != nil || !slices.Equal(again.Sums, q.Sums) {
				t.Fatal(err)
			}
		}
	})
}
