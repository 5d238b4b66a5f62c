package managesieve

import (
	"waypost/backend/scripts"
	"waypost/director"
)

// Guarded is a user's Scripts over their store.
type Guarded struct {
	Name  director.User
	Ended <-chan struct{}
	// Do calls op with the user's lock held, after it has found there that the
	// fence is still at the session's epoch. write: op may change something. It
	// gives back op's error, or the fence's without calling op.
	Do func(write bool, op func(*scripts.Store) error) error
}

var _ Scripts = Guarded{}

// User is Scripts'.
func (g Guarded) User() director.User { return g.Name }

// Done is Scripts'.
func (g Guarded) Done() <-chan struct{} { return g.Ended }

// List is Scripts'.
func (g Guarded) List() (list []scripts.Script, err error) {
	err = g.Do(false, func(s *scripts.Store) error {
		list, err = s.List()
		return err
	})
	return list, err
}

// Get is Scripts'.
func (g Guarded) Get(name string) (src []byte, err error) {
	err = g.Do(false, func(s *scripts.Store) error {
		src, err = s.Get(name)
		return err
	})
	return src, err
}

// HaveSpace is Scripts'.
func (g Guarded) HaveSpace(name string, size int64) error {
	return g.Do(false, func(s *scripts.Store) error { return s.HaveSpace(name, size) })
}

// Put is Scripts'.
func (g Guarded) Put(name string, src []byte) error {
	return g.Do(true, func(s *scripts.Store) error { return s.Put(name, src) })
}

// Delete is Scripts'.
func (g Guarded) Delete(name string) error {
	return g.Do(true, func(s *scripts.Store) error { return s.Delete(name) })
}

// Rename is Scripts'.
func (g Guarded) Rename(from, to string) error {
	return g.Do(true, func(s *scripts.Store) error { return s.Rename(from, to) })
}

// SetActive is Scripts'.
func (g Guarded) SetActive(name string) error {
	return g.Do(true, func(s *scripts.Store) error { return s.SetActive(name) })
}
