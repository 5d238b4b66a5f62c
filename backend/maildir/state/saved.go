package state

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"syscall"

	"waypost/backend/maildir/packed"
	"waypost/internal/vfs"
)

// ErrChanged: the file is not the one of which Save told.
var ErrChanged = errors.New("the state of the folder is another by now")

// fileStamp identifies the file as it is.
type fileStamp struct {
	inode          uint64
	size, modified int64
}

func (s *State) stamp() (fileStamp, error) {
	info, err := s.fsys.Lstat(s.path)
	if err != nil {
		return fileStamp{}, err
	}
	at := fileStamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		at.inode = st.Ino
	}
	return at, nil
}

// Save appends what the State knows, for one that goes on without reading the file: much
// quicker, and true for as long as the file is as it was. It reports false for one that
// has not all of it in the file.
func (s *State) Save(w *packed.Writer) bool {
	at, err := s.stamp()
	if err != nil || s.damaged || at.size != s.size {
		return false
	}
	w.Uint(at.inode)
	w.Int(at.size)
	w.Int(at.modified)
	w.Uint(s.ceiling)
	w.Int(s.compact)
	w.Uint(s.highest)
	w.Uint(s.base)
	w.Uint(s.baseNext)
	w.Uint(s.forgot)
	saveTable(w, &s.modSeqs)
	saveTable(w, &s.saves)
	w.Uint(uint64(len(s.history)))
	for _, e := range s.history {
		w.Uint(e.modSeq)
		w.Uint(uint64(e.uids.First))
		w.Uint(uint64(e.uids.Last))
	}
	w.Uint(uint64(len(s.attributes)))
	for key, v := range s.attributes {
		w.Text(key)
		v.save(w)
	}
	w.Uint(uint64(len(s.marks)))
	for key, marks := range s.marks {
		w.Text(key)
		w.Uint(uint64(len(marks)))
		for uid, v := range marks {
			w.Uint(uint64(uid))
			v.save(w)
		}
	}
	return true
}

func saveTable[V ~int64 | ~uint64](w *packed.Writer, t *table[V]) {
	w.Uint(uint64(t.len() * lineSize))
	w.Bytes = t.save(w.Bytes)
}

func readTable[V ~int64 | ~uint64](r *packed.Reader) table[V] {
	t, ok := tableOf[V](r.Text())
	r.Failed = r.Failed || !ok
	return t
}

func (v value) save(w *packed.Writer) {
	w.Uint(v.modSeq)
	w.Text(v.text)
	w.Bool(v.removed)
}

func readValue(r *packed.Reader) value { return value{r.Uint(), r.Text(), r.Bool()} }

// Resume gives the State that Save told of: ErrChanged if the file is another, or r has no
// State.
func Resume(fsys vfs.FS, folder Folder, r *packed.Reader) (*State, error) {
	folder.GUID = url.PathEscape(folder.GUID)
	s := &State{fsys: fsys, path: filepath.Join(folder.Dir, FileName), folder: folder, facts: newFacts()}
	was := fileStamp{r.Uint(), r.Int(), r.Int()}
	now, err := s.stamp()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state of folder: %w", err)
	}
	if err != nil || now != was {
		return nil, fmt.Errorf("%s: %w", s.path, ErrChanged)
	}
	s.size, s.ceiling, s.compact = was.size, r.Uint(), r.Int()
	s.highest, s.base, s.baseNext, s.forgot = r.Uint(), r.Uint(), r.Uint(), r.Uint()
	s.modSeqs, s.saves = readTable[uint64](r), readTable[int64](r)
	for range r.Len() {
		s.history = append(s.history, expunge{r.Uint(), Range{uint32(r.Uint()), uint32(r.Uint())}})
	}
	for range r.Len() {
		key := r.Text()
		s.attributes[key] = readValue(r)
	}
	for range r.Len() {
		key := r.Text()
		marks := map[uint32]value{}
		for range r.Len() {
			uid := uint32(r.Uint())
			marks[uid] = readValue(r)
		}
		s.marks[key] = marks
	}
	if r.Failed {
		return nil, fmt.Errorf("%s: %w", s.path, ErrChanged)
	}
	s.given, s.atLoad = s.highest, s.highest
	return s, nil
}
