package sftp

import (
	"waypost/backend/control"
	"waypost/backend/manifest"
)

// plan is what makes have equal to want.
type plan struct {
	mkdir  []control.TreePath
	rename []renaming
	fetch  []manifest.Entry
	// links are further names of files that are fetched.
	links []linking
	// remove comes last, deepest first.
	remove []control.TreePath
}

type renaming struct{ from, to control.TreePath }

type linking struct {
	from control.TreePath
	to   manifest.Entry
}

// makePlan compares the entries of two manifests, both in order. A message that is there
// under another name (its flags changed, it went from new to cur, it moved between
// folders) is renamed and not sent again; of a file with several names one is fetched.
func makePlan(want, have []manifest.Entry) plan {
	var p plan
	old := make(map[control.TreePath]manifest.Entry, len(have))
	for _, e := range have {
		old[e.Path] = e
	}
	wanted := make(map[control.TreePath]bool, len(want))
	for _, e := range want {
		wanted[e.Path] = true
	}
	spare := spareMessages(have, wanted)
	fetched := make(map[uint64]control.TreePath)
	for _, e := range want {
		h, ok := old[e.Path]
		switch {
		case e.IsDir():
			if !ok {
				p.mkdir = append(p.mkdir, e.Path)
			}
			continue
		case ok && h.Same(e):
			continue
		}
		if from, ok := spare.take(e); ok {
			p.rename = append(p.rename, renaming{from, e.Path})
			delete(old, from)
			continue
		}
		if first, ok := fetched[e.Link]; ok {
			p.links = append(p.links, linking{first, e})
			continue
		}
		if e.Link != 0 {
			fetched[e.Link] = e.Path
		}
		p.fetch = append(p.fetch, e)
	}
	for i := len(have) - 1; i >= 0; i-- {
		path := have[i].Path
		if _, still := old[path]; still && !wanted[path] {
			p.remove = append(p.remove, path)
		}
	}
	return p
}

// spares are messages that are there under names that are not wanted, by what stays
// the same under all names.
type spares map[likeness][]manifest.Entry

type likeness struct {
	unique      string
	size, mtime int64
}

func likenessOf(e manifest.Entry) likeness {
	return likeness{manifest.Unique(e.Path), e.Size, e.MTime}
}

func spareMessages(have []manifest.Entry, wanted map[control.TreePath]bool) spares {
	s := make(spares)
	for _, e := range have {
		if manifest.IsMessage(string(e.Path)) && !wanted[e.Path] {
			s[likenessOf(e)] = append(s[likenessOf(e)], e)
		}
	}
	return s
}

// take gives the name of a message that is e. Where e's digest is not known yet a later
// pass compares it.
func (s spares) take(e manifest.Entry) (control.TreePath, bool) {
	if !manifest.IsMessage(string(e.Path)) {
		return "", false
	}
	like := likenessOf(e)
	for i, h := range s[like] {
		if h.Digest == e.Digest || !e.Digest.Known() {
			s[like] = append(s[like][:i:i], s[like][i+1:]...)
			return h.Path, true
		}
	}
	return "", false
}
