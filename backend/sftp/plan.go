package sftp

import (
	"path/filepath"
	"strings"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// plan is what makes have equal to want.
type plan struct {
	mkdir  []control.TreePath
	rename []renaming
	fetch  []control.ManifestEntry
	// remove comes last, deepest first.
	remove []control.TreePath
}

type renaming struct{ from, to control.TreePath }

// makePlan compares two manifests. A message that is there under another name
// (its flags changed, it went from new to cur, it moved between folders) is
// renamed and not sent again.
func makePlan(want, have control.Manifest) plan {
	var p plan
	old := make(map[control.TreePath]control.ManifestEntry, len(have.Entries))
	for _, e := range have.Entries {
		old[e.Path] = e
	}
	wanted := make(map[control.TreePath]bool, len(want.Entries))
	for _, e := range want.Entries {
		wanted[e.Path] = true
	}
	spare := spareMessages(have, wanted)
	for _, e := range want.Entries {
		h, ok := old[e.Path]
		switch {
		case strings.HasSuffix(string(e.Path), "/"):
			if !ok {
				p.mkdir = append(p.mkdir, e.Path)
			}
		case ok && h == e:
		case manifest.IsMessage(string(e.Path)):
			key := contents(e)
			if from := spare[key]; len(from) > 0 {
				spare[key] = from[1:]
				p.rename = append(p.rename, renaming{from[0], e.Path})
				delete(old, from[0])
				continue
			}
			p.fetch = append(p.fetch, e)
		default:
			p.fetch = append(p.fetch, e)
		}
	}
	for i := len(have.Entries) - 1; i >= 0; i-- {
		path := have.Entries[i].Path
		if _, still := old[path]; still && !wanted[path] {
			p.remove = append(p.remove, path)
		}
	}
	return p
}

// contents is equal for the same message under different names: the unique
// part of the name, and what is in it.
func contents(e control.ManifestEntry) control.ManifestEntry {
	base, _, _ := strings.Cut(filepath.Base(string(e.Path)), ":2,")
	e.Path = control.TreePath(base)
	return e
}

func spareMessages(have control.Manifest, wanted map[control.TreePath]bool) map[control.ManifestEntry][]control.TreePath {
	spare := make(map[control.ManifestEntry][]control.TreePath)
	for _, e := range have.Entries {
		if manifest.IsMessage(string(e.Path)) && !wanted[e.Path] {
			spare[contents(e)] = append(spare[contents(e)], e.Path)
		}
	}
	return spare
}
