package manifest

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"waypost/backend/control"
)

// TestSince: what a Mark gave, with the changes since, is the manifest as it is.
func TestSince(t *testing.T) {
	names := []string{"Maildir/cur/1.M1.h:2,", "Maildir/cur/1.M1.h:2,S", "Maildir/new/2.M2.h", "Maildir/.a/cur/3.M3.h:2,", "Maildir/dovecot-uidlist", "Maildir/.a/dovecot-uidlist", "sieve/x"}
	rapid.Check(t, func(rt *rapid.T) {
		root, err := os.MkdirTemp(t.TempDir(), "tree")
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		must(err)
		tr := NewTracker(root)
		change := func() {
			path := filepath.Join(root, rapid.SampledFrom(names).Draw(rt, "name"))
			switch rapid.SampledFrom([]string{"write", "remove", "folder gone"}).Draw(rt, "change") {
			case "write":
				must(os.MkdirAll(filepath.Dir(path), 0o700))
				must(os.WriteFile(path, []byte(rapid.StringN(0, 9, -1).Draw(rt, "text")), 0o600))
			case "remove":
				must(os.RemoveAll(path))
			default:
				must(os.RemoveAll(filepath.Dir(path)))
				must(os.MkdirAll(root, 0o700))
			}
			must(tr.Update(t.Context(), HashAll))
		}
		change()
		old, _ := tr.Mark()
		base, mark := tr.Mark()
		if _, ok := tr.Since(&Mark{}); ok {
			rt.Fatal("a Mark of another Tracker counts")
		}
		all := make(map[control.TreePath]control.ManifestEntry)
		for _, e := range base.Entries {
			all[e.Path] = e
		}
		if len(old.Entries) != len(base.Entries) {
			rt.Fatalf("two Marks without a change between: %v, %v", old, base)
		}
		for range rapid.IntRange(0, 6).Draw(rt, "changes") {
			change()
		}
		changes, ok := tr.Since(mark)
		if !ok {
			rt.Fatal("the last Mark does not count")
		}
		for _, c := range changes {
			if delete(all, c.Entry.Path); !c.Gone {
				all[c.Entry.Path] = c.Entry
			}
		}
		want := make(map[control.TreePath]control.ManifestEntry)
		for _, e := range tr.Manifest().Entries {
			want[e.Path] = e
		}
		if !maps.Equal(all, want) {
			rt.Fatalf("base and changes make %v, there is %v", all, want)
		}
	})
}
