package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestReadSnapshot: an exported snapshot has the store's keys; a damaged one is an
// error.
func TestReadSnapshot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	st := newState("era", newShared())
	if err := errors.Join(putTagged(st, 'l', "ann@example.test", []byte("1 b1 7 active"), 3),
		putTagged(st, 'a', "ann@example.test", []byte(`{"v":1}`), 4), putTagged(st, 'm', "example.test", []byte(`{"v":1}`), 5),
		writeSnapshot(path, st)); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	read := func() (string, error) {
		return ReadSnapshot(path, func(key string, value []byte) error { got[key] = string(value); return nil })
	}
	era, err := read()
	if err != nil || era != "era" || len(got) != 3 || got["location/ann@example.test"] != "1 b1 7 active" || got["account/ann@example.test"] != `{"v":1}` {
		t.Errorf("era %q, %v, %v", era, got, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := read(); err == nil {
			t.Fatalf("%d bytes of %d are taken for whole", n, len(whole))
		}
		bad := append([]byte(nil), whole...)
		bad[n] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := read(); err == nil {
			t.Fatalf("a flipped bit at %d is not seen", n)
		}
	}
}
