package memory

import "fmt"

// SetDown makes every call fail with ErrUnavailable, and watches stand still,
// until it is undone. Leases that it outlasts are lost.
func (s *Store) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.wakeAll()
}

// PauseWatches makes watches stand still while calls go on being served.
func (s *Store) PauseWatches(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	s.wakeAll()
}

// BreakWatches ends every watch there is with an error.
func (s *Store) BreakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakGen++
	s.breakErr = fmt.Errorf("watch broken off")
	s.wakeAll()
}

// Compact forgets all history: a watch that is behind ends with an error.
func (s *Store) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = nil
	s.compacted = s.rev
	s.wakeAll()
}

// SetCommitHook sets what decides the outcome of commits; nil is Normal.
func (s *Store) SetCommitHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// Revision is the revision of the last change.
func (s *Store) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}
