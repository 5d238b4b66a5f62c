package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"waypost/director"
)

// saved makes a snapshot of a directory with ann (busy) and an alias.
func saved(t *testing.T) (f *fixture, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "directory")
	s, d := newDirectory(t)
	f = &fixture{t: t, store: s, dir: d, Client: open(t, s, Options{Snapshot: path})}
	var cancel func()
	f.ctx, cancel = context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	addUser(t, d, "ann@example.test")
	must(t, rewrite(f.ctx, s, "ann@example.test", step))
	must(t, d.PutAddress(f.ctx, "info", "example.test", director.Address{Members: []string{"ann@example.test"}}))
	f.settle()
	must(t, f.Close())
	return f, path
}

func TestSnapshotWithoutStore(t *testing.T) {
	f, path := saved(t)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", fi.Mode(), err)
	}
	f.store.SetDown(true)
	c := open(t, f.store, Options{Snapshot: path})
	r, known, stale := c.Location("ann@example.test")
	if want := (director.Record{Home: "b1", Epoch: 2, State: director.Busy, Peer: "b2"}); r != want || !known || !stale {
		t.Fatalf("%v, known %v, stale %v", r, known, stale)
	}
	if a, v, ok := c.Account("ann@example.test"); !ok || v == 0 || a.Hash == "" {
		t.Fatalf("account %+v, %d, %v", a, v, ok)
	}
	if b, ok := c.Backend("b2"); !ok || b.Weight != 100 || !c.Domain("example.test") || c.Era() != "era-1" {
		t.Fatalf("backend %+v, era %s", b, c.Era())
	}
	if r, err := c.Resolve(t.Context(), "info@example.test"); err != nil || len(r.Recipients) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := c.Resolve(t.Context(), "bob@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}

	f.store.SetDown(false)
	must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	if r, err := c.WaitChange(f.ctx, "ann@example.test", 2); err != nil || r.Epoch != 3 {
		t.Fatalf("%v, %v", r, err)
	}
	for c.Stale() { // until the read is complete; settle fails when time is up
		settle(t, f.ctx, c, f.dir)
	}
}

func TestSnapshotOfAnotherEra(t *testing.T) {
	f, path := saved(t)
	restored := director.Record{Home: "b2", Epoch: 1, State: director.Active}
	restore(t, f.store, "era-2", map[director.User]director.Record{"ann@example.test": restored})
	c := open(t, f.store, Options{Snapshot: path})
	if r, known, _ := c.Location("ann@example.test"); !known || r != restored || c.Era() != "era-2" {
		t.Fatalf("%v, %v, era %s", r, known, c.Era())
	}
}

func TestSnapshotBehindTheStore(t *testing.T) {
	f, path := saved(t)
	must(t, f.dir.DeleteAddress(f.ctx, "info", "example.test"))
	must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	c := open(t, f.store, Options{Snapshot: path})
	if r, _, stale := c.Location("ann@example.test"); r.Epoch != 3 || stale {
		t.Fatalf("%v, stale %v", r, stale)
	}
	if _, err := c.Resolve(f.ctx, "info@example.test"); !errors.Is(err, ErrUnknownUser) {
		t.Fatal(err)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	_, path := saved(t)
	whole, err := os.ReadFile(path)
	must(t, err)
	if st, err := decodeSnapshot(bytes.NewReader(whole), newShared()); err != nil || st.era != "era-1" || countLocations(st) != 1 {
		t.Fatalf("whole: %v", err)
	}
	for i := range whole {
		if _, err := decodeSnapshot(bytes.NewReader(whole[:i]), newShared()); err == nil {
			t.Fatalf("cut after %d of %d bytes: no error", i, len(whole))
		}
		bad := bytes.Clone(whole)
		bad[i] ^= 0x41
		if _, err := decodeSnapshot(bytes.NewReader(bad), newShared()); err == nil {
			t.Fatalf("byte %d of %d changed: no error", i, len(whole))
		}
	}
	if _, err := readSnapshot(filepath.Join(t.TempDir(), "none"), newShared()); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestUnwritableSnapshotIsReported(t *testing.T) {
	s, _ := newDirectory(t)
	c := open(t, s, Options{Snapshot: filepath.Join(t.TempDir(), "no", "such", "folder")})
	if err := c.Close(); err == nil {
		t.Fatal("Close says nothing of a snapshot that it could not write")
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	st := newState("era", newShared())
	st.putLocation("u@d.test", director.Record{Home: "b1", Epoch: 3, State: director.Active})
	st.putAccount("u@d.test", &account{raw: "{}", rev: 7})
	path := filepath.Join(f.TempDir(), "s")
	must(f, writeSnapshot(path, st))
	whole, err := os.ReadFile(path)
	must(f, err)
	f.Add(whole)
	f.Add([]byte(snapshotMagic))
	f.Add([]byte(snapshotMagic + "l\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := decodeSnapshot(bytes.NewReader(b), newShared()); err == nil && st.era == "" {
			t.Fatal("a snapshot without era")
		}
	})
}
