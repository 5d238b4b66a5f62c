package manifest

import (
	"slices"
	"strings"

	"waypost/backend/control"
)

// Mark is a moment of a Tracker, from which on it notes what changes.
type Mark struct {
	paths map[control.TreePath]struct{} // guarded by the Tracker's mu
}

// Change is what a path is now; Gone, with nothing but the path in Entry, if it is no more.
type Change struct {
	Entry control.ManifestEntry
	Gone  bool
}

// Mark gives all of the manifest, and a moment for Since. There is one at a time: the next
// Mark ends it.
func (t *Tracker) Mark() (control.Manifest, *Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mark = &Mark{paths: make(map[control.TreePath]struct{})}
	return t.manifest(), t.mark
}

// Since gives what may have changed since m, in the order of the paths, at a cost that does
// not depend on the size of the tree. ok is false if m is not the last Mark of this Tracker.
func (t *Tracker) Since(m *Mark) (changes []Change, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m == nil || t.mark != m {
		return nil, false
	}
	for path := range m.paths {
		e, there := t.entry(path)
		c := Change{Entry: e.control(), Gone: !there}
		c.Entry.Path = path
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(string(a.Entry.Path), string(b.Entry.Path)) })
	return changes, true
}
