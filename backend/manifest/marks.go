package manifest

import (
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// marks are the change list: what has been noted of each folder since it was last
// looked at.
type marks struct {
	// mu is held for one operation on the file system, with the looks at its
	// folders' times before and after.
	mu   sync.Mutex
	dirs map[string]*mark
}

type mark struct {
	mtime int64 // of the folder, when it was last looked at or changed by us
	names map[string]struct{}
	// doubt: it has to be listed.
	doubt bool
}

// maxNames bounds what is noted of one folder; beyond that it is listed.
const maxNames = 10_000

// place is a name in a folder.
type place struct{ rel, dir, base string }

// look is what is to be looked at in a folder: all, or some names.
type look struct {
	ino   uint64
	all   bool
	names map[string]struct{}
}

// take gives what has been noted of a folder, and begins anew.
func (m *marks) take(rel, path string) (look, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, kind, err := lstat(path)
	if err == nil && kind != unix.S_IFDIR {
		err = &fs.PathError{Op: "list", Path: path, Err: unix.ENOTDIR}
	}
	if err != nil {
		return look{}, err
	}
	old := m.dirs[rel]
	foreign := old == nil || old.mtime != at.MTime
	now := &mark{mtime: at.MTime}
	// Who changed it may do so once more, and the time will not tell.
	now.doubt = foreign && recent(at.MTime)
	m.dirs[rel] = now
	if foreign || old.doubt {
		return look{ino: at.Ino, all: true}, nil
	}
	return look{ino: at.Ino, names: old.names}, nil
}

// note does an operation that changes names, and notes them.
func (m *marks) note(at []place, op func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range at {
		if k := m.dirs[p.rel]; k != nil && !k.doubt {
			st, _, err := lstat(p.dir)
			k.doubt = err != nil || st.MTime != k.mtime
		}
	}
	err := op()
	for _, p := range at {
		k := m.dirs[p.rel]
		if k == nil {
			continue // it is listed anyway
		}
		st, _, err := lstat(p.dir)
		if err != nil || len(k.names) >= maxNames {
			k.doubt = true
		}
		k.mtime = st.MTime
		if k.doubt {
			k.names = nil
			continue
		}
		if k.names == nil {
			k.names = make(map[string]struct{})
		}
		k.names[p.base] = struct{}{}
	}
	return err
}

// settle takes a folder as it is.
func (m *marks) settle(rel, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, _, err := lstat(path); err == nil {
		m.dirs[rel] = &mark{mtime: at.MTime}
	}
}

// doubt has a folder listed the next time.
func (m *marks) doubt(rel string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.dirs[rel]; k != nil {
		k.doubt, k.names = true, nil
	}
}

func (m *marks) forget(rel string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.dirs, rel)
}
