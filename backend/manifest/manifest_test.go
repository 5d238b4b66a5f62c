package manifest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
)

func put(t *testing.T, root, rel, body string, mtime int64) {
	t.Helper()
	p := filepath.Join(root, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(mtime, 0)
	if err := os.Chtimes(p, at, at); err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, d *Tracker, root string) control.Manifest {
	t.Helper()
	if err := d.Update(context.Background(), HashAll); err != nil {
		t.Fatal(err)
	}
	return d.Manifest()
}

// TestWhatIsCarried: everything a user has, and nothing derived or half made. A
// user's folder whose name begins with "waypost-" is a folder like any other.
func TestWhatIsCarried(t *testing.T) {
	root := t.TempDir()
	for _, carried := range []string{"deliveries", "Maildir/cur/1.M1.h,S=1,W=2:2,S", "Maildir/new/2.M1.h", "Maildir/dovecot-uidlist", "Maildir/maildirsize",
		"Maildir/subscriptions", "Maildir/.waypost-notes/cur/3.M1.h:2,", "Maildir/.tmp/cur/4.M1.h:2,", "Maildir/.a.lock/new/5.M1.h", "sieve/main.sieve"} {
		put(t, root, carried, "x", 1)
	}
	for _, left := range []string{"Maildir/tmp/6.M1.h", "Maildir/maildirsize.lock", "Maildir/dovecot.index.cache", "Maildir/..waypost-deleted.1/cur/7.M1.h",
		"Maildir/cur/.nfs0001", "Maildir/.waypost-tmp-8", "Maildir/.waypost-notes/tmp/9.M1.h"} {
		put(t, root, left, "x", 1)
	}
	got := make(map[string]bool)
	for _, e := range scan(t, NewTracker(root), root).Entries {
		if !strings.HasSuffix(string(e.Path), "/") {
			got[string(e.Path)] = true
		}
	}
	for _, want := range []string{"Maildir/.waypost-notes/cur/3.M1.h:2,", "Maildir/.tmp/cur/4.M1.h:2,", "Maildir/.a.lock/new/5.M1.h", "deliveries", "sieve/main.sieve"} {
		if !got[want] {
			t.Errorf("%s is not carried", want)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d files are carried: %v", len(got), got)
	}
}

// TestInodeUsedAgain: a message that takes over inode, size and time of one that
// was removed is another message.
func TestInodeUsedAgain(t *testing.T) {
	root := t.TempDir()
	d := NewTracker(root)
	put(t, root, "Maildir/cur/1.M1.h:2,", "one", 5)
	first := Summary(scan(t, d, root))
	// Written in place, so that the inode is the same for certain.
	old, renamed := filepath.Join(root, "Maildir/cur/1.M1.h:2,"), filepath.Join(root, "Maildir/cur/2.M1.h:2,")
	if err := os.Rename(old, renamed); err != nil {
		t.Fatal(err)
	}
	put(t, root, "Maildir/cur/2.M1.h:2,", "two", 5)
	known := scan(t, d, root)
	fresh := scan(t, NewTracker(root), root)
	if !slices.Equal(fresh.Entries, known.Entries) {
		t.Errorf("a remembered digest was wrong: %v, should be %v", known.Entries, fresh.Entries)
	}
	if Summary(known).Digest == first.Digest {
		t.Error("another message, the same manifest")
	}
}

// TestFlagsKeepDigests: a rename does not read the message again, and changes
// the manifest all the same.
func TestFlagsKeepDigests(t *testing.T) {
	root := t.TempDir()
	d := NewTracker(root)
	put(t, root, "Maildir/new/1.M1.h", "one", 0) // 1970 is a date like any other
	before := scan(t, d, root)
	if err := os.MkdirAll(filepath.Join(root, "Maildir/cur"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "Maildir/new/1.M1.h"), filepath.Join(root, "Maildir/cur/1.M1.h:2,S")); err != nil {
		t.Fatal(err)
	}
	after := scan(t, d, root)
	if d.reads != 1 {
		t.Errorf("%d messages were read", d.reads)
	}
	if Summary(before).Digest == Summary(after).Digest || Summary(after).Messages != 1 || Summary(after).Bytes != 3 {
		t.Errorf("summary %+v", Summary(after))
	}
}
