package check

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waypost/backend/control"
	"waypost/backend/index"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

const (
	keywordsName = "dovecot-keywords"
	// indexName is the file of package index; it is derived, and so may be removed
	// by whoever closes the mailbox first.
	indexName  = "waypost-index"
	viewName   = "waypost-index.view"
	brokenName = uidlist.FileName + ".broken"
	// manyStale is how many lines without a file are believed to be expunges that
	// the history has forgotten.
	manyStale = 7000
)

// uidlist looks at a folder's UIDs, and at what hangs on them.
func (s *scanner) uidlist(f *folder) error {
	list, entries, err := uidlist.Load(s.FS, f.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.unlisted(f)
	case errors.Is(err, uidlist.ErrCorrupt):
		s.r.problem(f, control.KindUIDList, repairIt, "the uidlist is not legible: %v", err)
		return nil
	case err != nil:
		return err
	}
	f.listed, f.header, f.entries = true, list.Header(), entries
	if list.Salvaged() {
		s.r.doubtful = true
		s.r.problem(f, control.KindUIDList, repairIt, "the end of the uidlist is damaged")
	}
	if _, err := s.FS.Lstat(f.path("cur")); errors.Is(err, fs.ErrNotExist) && len(entries) > 0 {
		s.r.problem(f, control.KindTree, "restore the folder: it is refused as it is", "cur is missing, though %d messages are numbered", len(entries))
		return nil
	}
	s.unnumbered(f)
	st, err := s.state(f)
	if err != nil {
		return err
	}
	if st != nil {
		s.vanished(f, st)
	}
	return s.index(f)
}

// unlisted is for a folder without a uidlist: nobody has opened it yet, or it is
// lost.
func (s *scanner) unlisted(f *folder) error {
	_, err := s.FS.Lstat(f.path(state.FileName))
	switch {
	case err == nil:
		s.r.problem(f, control.KindUIDList, repairIt, "the uidlist is missing: clients will load the folder anew")
	case errors.Is(err, fs.ErrNotExist):
		err = nil
		if len(f.files) > 0 {
			s.r.note(f, control.KindUIDList, "nothing: they are numbered when the folder is opened", "%d messages in a folder without a uidlist", len(f.files))
		}
	}
	return err
}

// unnumbered looks for messages that somebody else has put into cur. In new, and
// for what filters have put into cur, it is usual that the next opening numbers.
func (s *scanner) unnumbered(f *folder) {
	known := make(map[string]bool, len(f.entries))
	for _, e := range f.entries {
		known[e.Base] = true
	}
	n := 0
	for base, x := range f.files {
		if !known[base] && !x.isNew && !name.Generated(base) {
			n++
		}
	}
	if n > 0 {
		s.r.doubtful = true
		s.r.note(f, control.KindUnnumbered, "nothing: they are numbered when the folder is opened", "%d messages that others put into cur have no UID yet", n)
	}
}

// state looks at the folder's state; nil if there is none that can be read.
func (s *scanner) state(f *folder) (*state.State, error) {
	data, err := vfs.ReadFile(s.FS, f.path(state.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	of := state.Folder{Dir: f.dir, GUID: f.header.GUID, Validity: f.header.Validity, Next: f.header.Next}
	st, err := state.Load(s.ro, of, s.Now(), false)
	switch {
	case errors.Is(err, state.ErrVersion):
		s.r.problem(f, control.KindState, "run the version of waypost that wrote it", "the folder's state was written by a later version")
		return nil, nil
	case errors.Is(err, errReadOnly):
		s.r.doubtful = true // a line may be on its way
		s.r.problem(f, control.KindState, repairIt, "the folder's state is damaged, or of another GUID or UIDVALIDITY")
		return nil, nil
	case err != nil:
		return nil, err
	}
	if top := topUID(string(data)); top >= uint64(f.header.Next) {
		s.r.doubtful = true
		s.r.problem(f, control.KindUIDNext, repairIt, "UIDNEXT is %d, but the folder's state knows UID %d: was an old uidlist restored?", f.header.Next, top)
	}
	return st, nil
}

// topUID is the highest UID that the lines of a legible state name. The set of
// UIDs is a line's last field but for the value.
func topUID(data string) (top uint64) {
	for line := range strings.Lines(data) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.Contains("mxsk", fields[1]) {
			continue
		}
		set := fields[len(fields)-1]
		if strings.HasPrefix(set, "=") {
			set = fields[len(fields)-2]
		}
		_, last, found := cutLast(set, ",:")
		if !found {
			last = set
		}
		if n, err := strconv.ParseUint(last, 10, 32); err == nil {
			top = max(top, n)
		}
	}
	return top
}

func cutLast(s, any string) (before, after string, found bool) {
	i := strings.LastIndexAny(s, any)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// vanished looks for numbered messages that have no file, though nobody has
// expunged them here.
func (s *scanner) vanished(f *folder, st *state.State) {
	expunged, _ := st.ExpungedSince(0)
	stale, gone := 0, 0
	for _, e := range f.entries {
		if _, is := f.files[e.Base]; is {
			continue
		}
		stale++
		_, known := slices.BinarySearchFunc(expunged, e.UID, func(r state.Range, uid uint32) int {
			switch {
			case r.Last < uid:
				return -1
			case r.First > uid:
				return 1
			}
			return 0
		})
		if !known {
			gone++
		}
	}
	switch {
	case gone == 0:
	case stale > manyStale:
		s.r.note(f, control.KindVanished, "nothing, if so many were expunged here", "%d numbered messages have no file", gone)
	default:
		s.r.doubtful = true
		s.r.problem(f, control.KindVanished, "if nobody removed them by hand, restore them from a backup; then "+repairIt,
			"%d numbered messages have no file, and were not expunged here", gone)
	}
}

// index looks at the index as its owner would, which may be writing to it: only
// what is twice the same is said.
func (s *scanner) index(f *folder) error {
	const tries = 3
	var last string
	for range tries {
		info, err := s.FS.Lstat(f.path(indexName))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		x := index.Open(s.ro, f.dir, f.header.GUID)
		x.Get("") // reads it
		reason := x.Stats().Reason
		_ = x.Close() // it was only read
		if reason == "" {
			return nil
		}
		now := fmt.Sprint(reason, info.Size(), info.ModTime())
		if now == last {
			s.r.note(f, control.KindIndex, "nothing: it is made anew by itself", "the index is not usable: %s", reason)
			return nil
		}
		last = now
	}
	return nil
}

// keywords looks at what the letters in names mean.
func (s *scanner) keywords(f *folder) error {
	data, err := vfs.ReadFile(s.FS, f.path(keywordsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	words, bad := keywords.Parse(data)
	if bad > 0 {
		s.r.problem(f, control.KindKeywords, repairIt, "%d lines of the keywords file are not legible", bad)
	}
	var lost []byte
	for l := byte('a'); l <= 'z'; l++ {
		if f.letters[l] && words.Word(l) == "" {
			lost = append(lost, l)
		}
	}
	if len(lost) > 0 {
		s.r.doubtful = true
		s.r.note(f, control.KindKeywords, "restore dovecot-keywords from a backup, if there is one", "names have keyword letters without a meaning: %s", lost)
	}
	return nil
}

// beside looks at the files that are neither messages nor known.
func (s *scanner) beside(f *folder) error {
	return s.FS.ReadDir(f.dir, func(e fs.DirEntry) error {
		n := e.Name()
		switch {
		case e.IsDir():
			if f.rel != "" && n != "cur" && n != "new" && n != "tmp" {
				s.r.note(f, control.KindForeign, "move it away", "%s is not of a mailbox", filepath.Join(f.rel, n))
			}
		case strings.HasSuffix(n, ".lock"):
			s.r.problem(f, control.KindDotlock, "see whether Dovecot or another program uses this tree, end it, and remove the file", "a lock is held: %s", n)
		case !usual(n):
			s.r.note(f, control.KindForeign, "move it away if nobody knows it", "%s is not of a mailbox", filepath.Join(f.rel, n))
		}
		return nil
	})
}

// usual tells whether a file beside the messages is one that Waypost, Dovecot or
// Courier keeps there.
func usual(n string) bool {
	switch n {
	case uidlist.FileName, brokenName, keywordsName, state.FileName, indexName, viewName, quotaName, "subscriptions", "maildirfolder":
		return true
	}
	for _, prefix := range []string{"dovecot", ".dovecot", "courier", quotaTemp, vfs.TempPrefix} {
		if strings.HasPrefix(n, prefix) {
			return true
		}
	}
	return false
}
