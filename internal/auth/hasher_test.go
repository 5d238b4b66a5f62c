package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// gate is a secret whose verification lasts until the test opens it.
type gate struct {
	bytes   int64
	entered chan struct{}
	open    chan struct{}
}

func newGate(bytes int64) *gate {
	return &gate{bytes: bytes, entered: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) matches([]byte) (bool, error) {
	close(g.entered)
	<-g.open
	return true, nil
}

func (g *gate) memory() int64 { return g.bytes }

func TestHasherVerify(t *testing.T) {
	stored, err := cheap().Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(1, 0)
	if ok, err := h.Verify(t.Context(), stored, "secret"); err != nil || !ok {
		t.Errorf("right: %v, %v", ok, err)
	}
	if ok, err := h.Verify(t.Context(), stored, "wrong"); err != nil || ok {
		t.Errorf("wrong: %v, %v", ok, err)
	}
	if err := h.Burn(t.Context(), "secret"); err != nil {
		t.Errorf("Burn: %v", err)
	}
	if _, err := h.Verify(t.Context(), "{NTLM}x", "secret"); !errors.Is(err, ErrUnknownScheme) {
		t.Errorf("unknown scheme: %v", err)
	}
	big := strings.Replace(stored, "m=64,", "m=65536,", 1)
	if _, err := h.Verify(t.Context(), big, "secret"); !errors.Is(err, ErrTooCostly) {
		t.Errorf("more memory than the Hasher has: %v", err)
	}
	if s := h.Stats(); s != (HasherStats{}) {
		t.Errorf("stats at rest: %+v", s)
	}
}

// TestBurnCost: what Burn computes must be what verifying a new hash computes.
func TestBurnCost(t *testing.T) {
	dummy, ok := NewHasher(1, 0).dummy.(argon2Hash)
	if !ok || dummy.HashParams != DefaultHashParams() || !dummy.id || len(dummy.salt) != saltBytes || len(dummy.key) != keyBytes {
		t.Errorf("dummy is %+v", dummy)
	}
}

func TestHasherQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher(1, MaxMemoryBytes)
		first := newGate(1)
		var running sync.WaitGroup
		running.Go(func() { h.inTurn(t.Context(), first, "x") })
		<-first.entered
		var granted atomic.Int64
		for range waitingPerSlot {
			running.Go(func() {
				if err := h.acquire(t.Context(), 1); err == nil {
					granted.Add(1)
					h.release(1)
				}
			})
		}
		synctest.Wait()
		if _, err := h.inTurn(t.Context(), first, "x"); !errors.Is(err, ErrOverloaded) {
			t.Errorf("full queue: %v", err)
		}
		if s := h.Stats(); s != (HasherStats{Running: 1, Waiting: waitingPerSlot, MemoryBytes: 1}) {
			t.Errorf("stats: %+v", s)
		}
		close(first.open)
		running.Wait()
		if granted.Load() != waitingPerSlot {
			t.Errorf("%d of %d had their turn", granted.Load(), waitingPerSlot)
		}
	})
}

func TestHasherMemoryAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher(4, MaxMemoryBytes)
		first, big, small := newGate(MaxMemoryBytes/2), newGate(MaxMemoryBytes), newGate(1)
		var running sync.WaitGroup
		running.Go(func() { h.inTurn(t.Context(), first, "x") })
		<-first.entered
		running.Go(func() { h.inTurn(t.Context(), big, "x") })
		synctest.Wait()
		running.Go(func() { h.inTurn(t.Context(), small, "x") })
		synctest.Wait()
		if s := h.Stats(); s.Running != 1 || s.Waiting != 2 {
			t.Errorf("small overtook big: %+v", s)
		}
		close(first.open)
		<-big.entered
		if s := h.Stats(); s.Running != 1 || s.Waiting != 1 || s.MemoryBytes != MaxMemoryBytes {
			t.Errorf("big runs alone: %+v", s)
		}
		close(big.open)
		<-small.entered
		close(small.open)
		running.Wait()
	})
}

func TestHasherWaitingHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher(2, MaxMemoryBytes)
		first := newGate(MaxMemoryBytes / 2)
		var running sync.WaitGroup
		running.Go(func() { h.inTurn(t.Context(), first, "x") })
		<-first.entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var bigErr error
		running.Go(func() { _, bigErr = h.inTurn(ctx, newGate(MaxMemoryBytes), "x") })
		synctest.Wait()
		small := newGate(1)
		running.Go(func() { h.inTurn(t.Context(), small, "x") })
		<-small.entered // the big one gave up, and those behind it move on
		close(small.open)
		close(first.open)
		running.Wait()
		if !errors.Is(bigErr, context.DeadlineExceeded) {
			t.Errorf("error is %v", bigErr)
		}
		if s := h.Stats(); s != (HasherStats{}) {
			t.Errorf("stats at rest: %+v", s)
		}
	})
}

// TestHasherNeverExceedsBounds lets random verifications, some of them
// cancelled, pass through and watches both bounds.
func TestHasherNeverExceedsBounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slots := rapid.IntRange(1, 4).Draw(rt, "slots")
		needs := rapid.SliceOfN(rapid.Int64Range(1, MaxMemoryBytes), 1, 40).Draw(rt, "needs")
		cancelled := rapid.SliceOfN(rapid.Bool(), len(needs), len(needs)).Draw(rt, "cancelled")
		h := NewHasher(slots, MaxMemoryBytes)
		var running, memory atomic.Int64
		var all sync.WaitGroup
		for i, need := range needs {
			ctx, cancel := context.WithCancel(t.Context())
			all.Go(func() {
				if err := h.acquire(ctx, need); err != nil {
					return
				}
				if running.Add(1) > int64(slots) || memory.Add(need) > MaxMemoryBytes {
					t.Error("bounds exceeded")
				}
				memory.Add(-need)
				running.Add(-1)
				h.release(need)
			})
			if cancelled[i] {
				cancel()
			}
			defer cancel()
		}
		all.Wait()
		if s := h.Stats(); s != (HasherStats{}) {
			rt.Fatalf("stats at rest: %+v", s)
		}
	})
}
