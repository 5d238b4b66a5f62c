package handed

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

const path = "/handed"

func id(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

func open(t rapid.TB, f vfs.FS, now func() time.Time) *Log {
	t.Helper()
	l, err := Open(f, path, now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func accepts(t rapid.TB, l *Log, n int, want bool) {
	t.Helper()
	if got, err := l.Accept(id(n)); err != nil || got != want {
		t.Fatalf("id %d: %t, %v, want %t", n, got, err, want)
	}
}

func lines(t rapid.TB, f vfs.FS) int {
	t.Helper()
	data, err := vfs.ReadFile(f, path)
	if err != nil {
		t.Fatal(err)
	}
	if len(data)%entryBytes != 0 {
		t.Fatalf("%d bytes are no whole entries", len(data))
	}
	return len(data) / entryBytes
}

// TestOnce: an id is accepted once, also after the log was opened again.
func TestOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "handed")
	for round := range 3 {
		l, err := Open(vfs.OS, name, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 10 {
			accepts(t, l, n, n/3 == round && n < 9)
			accepts(t, l, n, false)
			if n/3 == round {
				break
			}
		}
		for n := 3 * round; n < 3*round+3; n++ {
			if _, err := l.Accept(id(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(id(99)); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
}

// TestAtOnce: of many who bring one id at the same time one has it accepted, and many ids
// at a time share their fsyncs.
func TestAtOnce(t *testing.T) {
	f := crashfs.New(1)
	l := open(t, f, time.Now)
	var syncs, accepted atomic.Int64
	f.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.Datasync {
			syncs.Add(1)
		}
		return nil
	})
	var wg sync.WaitGroup
	const ids, each = 200, 4
	for n := range ids * each {
		wg.Go(func() {
			ok, err := l.Accept(id(n % ids))
			if err != nil {
				t.Error(err)
			}
			if ok {
				accepted.Add(1)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != ids || lines(t, f) != ids {
		t.Errorf("%d accepted, %d written, of %d", accepted.Load(), lines(t, f), ids)
	}
	t.Logf("%d fsyncs", syncs.Load())
}

// TestOldOnesGo: what is older than Keep is forgotten, in memory and in the file.
func TestOldOnesGo(t *testing.T) {
	f := crashfs.New(1)
	now := time.Unix(1_000_000, 0)
	clock := func() time.Time { return now }
	l := open(t, f, clock)
	for n := range littleToGain {
		accepts(t, l, n, true)
	}
	now = now.Add(Keep / 2)
	accepts(t, l, -1, true)
	now = now.Add(Keep/2 + time.Minute)
	accepts(t, l, -2, true)
	if got := lines(t, f); got != 2 {
		t.Errorf("the file has %d", got)
	}
	accepts(t, l, -1, false)
	now = now.Add(Keep / 2)
	l = open(t, f, clock)
	if got := lines(t, f); got != 1 {
		t.Errorf("opened, the file has %d", got)
	}
	accepts(t, l, -2, false)
}

// TestAfterAFailure: an error promises nothing, and the next Accept finds a file that is
// whole.
func TestAfterAFailure(t *testing.T) {
	for _, kind := range []crashfs.Kind{crashfs.Write, crashfs.Datasync} {
		f := crashfs.New(1)
		l := open(t, f, time.Now)
		accepts(t, l, 1, true)
		f.Fail(func(op crashfs.Op) error {
			if op.Kind == kind && op.Name == path {
				return syscall.EIO
			}
			return nil
		})
		if ok, err := l.Accept(id(2)); ok || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %t, %v", kind, ok, err)
		}
		f.Fail(nil)
		accepts(t, l, 1, false)
		accepts(t, l, 2, true)
		l = open(t, f.Crash(rand.New(rand.NewPCG(1, 1))), time.Now)
		accepts(t, l, 1, false)
		accepts(t, l, 2, false)
	}
}

// TestTornEnd: what is no entry is cut off, and what came before it counts.
func TestTornEnd(t *testing.T) {
	whole := entry{id(1), time.Now().Unix()}.append(nil)
	for _, tail := range [][]byte{whole[:1], whole[:entryBytes-1], make([]byte, entryBytes), make([]byte, 3*entryBytes+5)} {
		f := crashfs.New(1)
		if err := vfs.CreateFile(f, path, append(whole[:entryBytes:entryBytes], tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, f, time.Now)
		accepts(t, l, 1, false)
		accepts(t, l, 2, true)
		if got := lines(t, f); got != 2 {
			t.Errorf("tail of %d: %d lines", len(tail), got)
		}
	}
	f := crashfs.New(1)
	f.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.Read || op.Kind == crashfs.Open {
			return fs.ErrPermission
		}
		return nil
	})
	if _, err := Open(f, path, time.Now); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

// TestAcceptedOnceWhateverCrashes pulls the plug at any operation, with several at work.
func TestAcceptedOnceWhateverCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		f := crashfs.New(rnd.Uint64())
		accepted := make(map[int]bool)
		for range rapid.IntRange(1, 5).Draw(t, "lives") {
			begun, after := f.Ops(), (*crashfs.FS)(nil)
			cut := begun + rapid.Int64Range(1, 60).Draw(t, "cut")
			kill := rapid.Bool().Draw(t, "kill")
			var once sync.Mutex
			f.Fail(func(crashfs.Op) error {
				once.Lock()
				defer once.Unlock()
				if after == nil && f.Ops() >= cut {
					if kill {
						after = f.Kill()
					} else {
						after = f.Crash(rnd)
					}
				}
				return nil
			})
			if l, err := Open(f, path, time.Now); err == nil {
				try(t, l, accepted, rapid.SliceOfN(rapid.IntRange(0, 40), 0, 60).Draw(t, "ids"))
			} else if !errors.Is(err, crashfs.ErrDown) {
				t.Fatal(err)
			}
			once.Lock()
			if after == nil {
				after = f.Crash(rnd)
			}
			f = after
			once.Unlock()
		}
		l := open(t, f, time.Now)
		for n := range accepted {
			accepts(t, l, n, false)
		}
	})
}

// try has some accept ids at once, and enters what was.
func try(t *rapid.T, l *Log, accepted map[int]bool, ids []int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := worker; i < len(ids); i += 4 {
				ok, err := l.Accept(id(ids[i]))
				if err != nil && (ok || !errors.Is(err, crashfs.ErrDown)) {
					t.Errorf("%t, %v", ok, err)
				}
				mu.Lock()
				if ok && accepted[ids[i]] {
					t.Errorf("%d was accepted twice", ids[i])
				}
				accepted[ids[i]] = accepted[ids[i]] || ok
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for n, ok := range accepted {
		if !ok {
			delete(accepted, n)
		}
	}
}
