package quota

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"waypost/internal/vfs/crashfs"
)

// TestRecountDoesNotBlock has changes logged, and the file coalesced, while a
// recount counts.
func TestRecountDoesNotBlock(t *testing.T) {
	l, path := newLog(t, Usage{100, 2}, Limit{})
	other := openLog(t, path, Limit{})
	c, err := l.BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, 7, 1)
	wantUsage(t, other, Usage{107, 3})
	for range 1000 {
		add(t, other, 1, 0)
	}
	foreign(t, path)("5 1\n")
	if quiet, err := c.Finish(Usage{2000, 20}); quiet || err != nil {
		t.Fatal(quiet, err)
	}
	wantUsage(t, l, Usage{3012, 22})
	wantUsage(t, other, Usage{3012, 22})
}

func TestRecountUntilQuiet(t *testing.T) {
	l, _ := newLog(t, Usage{100, 2}, Limit{})
	for busy, want := range []Usage{{50, 1}, {50, 1}, {50, 1}, {51, 1}} {
		calls := 0
		exact, err := l.Recount(func() (Usage, error) {
			if calls++; calls <= busy {
				add(t, l, 1, 0)
			}
			return Usage{50, 1}, nil
		})
		if err != nil || exact != (busy < maxCounts) || calls != min(busy+1, maxCounts) {
			t.Fatal(busy, exact, calls, err)
		}
		wantUsage(t, l, want)
	}
	// Changes whose sum is nothing are changes.
	c, err := l.BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, 1, 1)
	add(t, l, -1, -1)
	if quiet, err := c.Finish(Usage{50, 1}); quiet || err != nil {
		t.Fatal(quiet, err)
	}
}

func TestRecountOfMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "maildirsize")
	l := openLog(t, path, Limit{1000, 0})
	first, err := l.BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, 10, 1)
	if u, err := l.Usage(); u.Known() || err != nil {
		t.Fatal(u, err)
	}
	second, err := l.BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, 20, 1)
	if _, err := first.Finish(Usage{1, 1}); !errors.Is(err, ErrSuperseded) {
		t.Fatal(err)
	}
	if _, err := second.Finish(Usage{100, 5}); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, l, Usage{120, 6})
	if c, err := l.BeginRecount(); err != nil {
		t.Fatal(err)
	} else if err := os.Remove(path); err != nil {
		t.Fatal(err)
	} else if _, err := c.Finish(Usage{}); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
}

// TestRecountBesideDeliveries is a mailbox that changes while it is counted; the
// snapshot is taken under the lock that the changes are made under.
func TestRecountBesideDeliveries(t *testing.T) {
	l, _ := newLog(t, Usage{1 << 40, 77}, Limit{})
	var mu sync.Mutex
	var mailbox Usage
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 1000 {
				mu.Lock()
				mailbox = Usage{mailbox.Bytes + 10, mailbox.Messages + 1}
				if err := l.Add(10, 1); err != nil {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	for range 20 {
		mu.Lock()
		c, err := l.BeginRecount()
		held := mailbox
		mu.Unlock()
		if err == nil {
			_, err = c.Finish(held)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	wantUsage(t, l, Usage{20_000, 2000})
}

// TestRecountFollowed is one whose caller knows what there is at the end.
func TestRecountFollowed(t *testing.T) {
	l, path := newLog(t, Usage{100, 2}, Limit{})
	for _, foreigner := range []string{"", "5 1\n"} {
		c, err := l.BeginRecount()
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 { // coalesced more than once
			add(t, l, 7, 1)
		}
		foreign(t, path)(foreigner)
		if told, err := c.FinishAt(Usage{7100, 1002}); told != (foreigner != "") || err != nil {
			t.Fatal(told, err)
		}
		wantUsage(t, l, Usage{7100, 1002})
	}
	first, err := l.BeginRecount()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.BeginRecount(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.FinishAt(Usage{}); !errors.Is(err, ErrSuperseded) {
		t.Fatal(err)
	}
}

// TestOtherFileSystem runs on one that has no owners.
func TestOtherFileSystem(t *testing.T) {
	fsys := crashfs.New(1)
	l, err := Open(fsys, "/maildirsize", Limit{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if exact, err := l.Recount(func() (Usage, error) { return Usage{5, 1}, nil }); !exact || err != nil {
		t.Fatal(exact, err)
	}
	for range 1000 {
		add(t, l, 10, 1)
	}
	wantUsage(t, l, Usage{10_005, 1001})
}
