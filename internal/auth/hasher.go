package auth

import (
	"container/list"
	"context"
	"fmt"
	"sync"
)

// waitingPerSlot bounds the queue: 64 default hashes at some 30 ms each are
// about two seconds of waiting, after which a client's retry is no better.
const waitingPerSlot = 64

// Hasher verifies passwords while bounding how many verifications run at once
// and how much working memory they hold together. Those that must wait do so in
// the order they came, in a queue of bounded length. The bound counts live
// memory; until the garbage collector has run, as much again may be held.
type Hasher struct {
	dummy     secret // of the default costs; its salt and key are all zero
	slots     int
	maxMemory int64

	mu         sync.Mutex // guards what follows; never held while hashing
	freeSlots  int
	freeMemory int64
	waiting    list.List // of *turn, first come first
}

type turn struct {
	memory int64
	ready  chan struct{} // closed under mu when slot and memory are taken
}

// HasherStats is a moment's load of a Hasher.
type HasherStats struct {
	Running     int
	Waiting     int
	MemoryBytes int64 // held by those running
}

// NewHasher returns a Hasher that runs at most maxConcurrent verifications
// (at least one) in at most maxMemory bytes. maxMemory is raised to what one
// hash of the default costs needs; a stored hash that needs more than it gets
// ErrTooCostly, so MaxMemoryBytes is the value that accepts all that Supported
// does.
func NewHasher(maxConcurrent int, maxMemory int64) *Hasher {
	d := DefaultHashParams()
	dummy := argon2Hash{HashParams: d, id: true, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	maxConcurrent = max(maxConcurrent, 1)
	maxMemory = max(maxMemory, dummy.memory())
	return &Hasher{
		dummy: dummy, slots: maxConcurrent, maxMemory: maxMemory,
		freeSlots: maxConcurrent, freeMemory: maxMemory,
	}
}

// Verify is the package's Verify, in turn. Besides the errors there it returns
// ErrOverloaded at once when the queue is full, ErrTooCostly when stored needs
// more memory than the Hasher has, and ctx's error when that ends the waiting.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (bool, error) {
	s, err := parse(stored)
	if err != nil {
		return false, err
	}
	return h.inTurn(ctx, s, password)
}

// Burn spends what verifying password against a hash of the default costs
// spends, in turn, so that the answer for a user who does not exist takes as
// long as for one who does. (An imported user with a hash of other costs can
// still be told apart until the password is set anew.) Errors are as Verify's.
func (h *Hasher) Burn(ctx context.Context, password string) error {
	_, err := h.inTurn(ctx, h.dummy, password)
	return err
}

// Stats returns the present load.
func (h *Hasher) Stats() HasherStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HasherStats{Running: h.slots - h.freeSlots, Waiting: h.waiting.Len(), MemoryBytes: h.maxMemory - h.freeMemory}
}

func (h *Hasher) inTurn(ctx context.Context, s secret, password string) (bool, error) {
	need := s.memory()
	if need > h.maxMemory {
		return false, fmt.Errorf("%w: needs %d bytes of %d", ErrTooCostly, need, h.maxMemory)
	}
	if err := h.acquire(ctx, need); err != nil {
		return false, err
	}
	defer h.release(need)
	return verify(ctx, s, password)
}

func (h *Hasher) acquire(ctx context.Context, need int64) error {
	h.mu.Lock()
	if h.waiting.Len() == 0 && h.fits(need) {
		h.take(need)
		h.mu.Unlock()
		return nil
	}
	if h.waiting.Len() >= waitingPerSlot*h.slots {
		h.mu.Unlock()
		return ErrOverloaded
	}
	t := &turn{memory: need, ready: make(chan struct{})}
	place := h.waiting.PushBack(t)
	h.mu.Unlock()

	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-t.ready: // granted meanwhile: hand it back
		h.giveBack(need)
	default:
		h.waiting.Remove(place)
	}
	h.grant()
	return fmt.Errorf("auth: waiting to verify: %w", ctx.Err())
}

func (h *Hasher) release(need int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.giveBack(need)
	h.grant()
}

func (h *Hasher) fits(need int64) bool { return h.freeSlots > 0 && h.freeMemory >= need }

func (h *Hasher) take(need int64) {
	h.freeSlots--
	h.freeMemory -= need
}

func (h *Hasher) giveBack(need int64) {
	h.freeSlots++
	h.freeMemory += need
}

// grant serves the queue from its head only: a small hash must not overtake a
// big one for ever.
func (h *Hasher) grant() {
	for place := h.waiting.Front(); place != nil; place = h.waiting.Front() {
		t := place.Value.(*turn)
		if !h.fits(t.memory) {
			return
		}
		h.waiting.Remove(place)
		h.take(t.memory)
		close(t.ready)
	}
}
