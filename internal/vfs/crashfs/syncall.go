package crashfs

// losses is what the kernel keeps of the writes that never reached the disk: how often
// that came to pass, and the last error. Of the two things that a kernel may do with a
// loss from before a file was opened it does the worse: somebody else has always been
// told of it already, so that this file never is.
type losses struct {
	n   uint64
	err error
}

func (l *losses) add(err error) { *l = losses{l.n + 1, err} }

// since gives the error that a file has not heard yet, if there is one.
func (l *losses) since(heard *uint64) error {
	if *heard == l.n {
		return nil
	}
	*heard = l.n
	return l.err
}

// SyncAll implements vfs.FS.
func (f *FS) SyncAll(name string) error {
	return f.do(SyncAll, name, func() error {
		if _, err := f.find(name); err != nil {
			return err
		}
		f.syncAll()
		return nil
	})
}

// SyncAll implements vfs.File.
func (h *file) SyncAll() error {
	return h.do(FileSyncAll, func() error {
		h.fs.syncAll()
		return h.fs.lost.since(&h.heard)
	})
}

func (f *FS) syncAll() {
	for _, c := range f.pending {
		c.apply()
		for _, s := range c.sets {
			s.dir.changes--
		}
	}
	f.pending = nil
	for n := range f.dirty {
		f.syncInode(n)
	}
}
