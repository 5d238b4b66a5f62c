package check

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// uidGap is how many UIDs are skipped at least behind lines that are lost, as the
// store does: what they gave must not be given again.
const uidGap = 1000

// maxLines bounds how much of a broken list is believed.
const maxLines = 64 << 20

// salvaged is what can be kept of a list that is not legible as a whole.
type salvaged struct {
	header  uidlist.Header
	entries []uidlist.Entry
	lost    int
}

// errNoHeader: without UIDVALIDITY no UID means anything.
var errNoHeader = errors.New("the header is not legible")

// salvage takes the lines of a broken uidlist that are legible, in the order of
// their UIDs. A UID that stands for two files is given up: which of them clients
// know by it nobody can tell. Of two UIDs of one file the higher counts.
func salvage(data []byte) (salvaged, error) {
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	head, err := uidlist.Parse(bytes.NewReader(append(bytes.Clone(first), '\n')))
	if err != nil {
		return salvaged{}, fmt.Errorf("%w: %w", errNoHeader, err)
	}
	s := salvaged{header: head.Header}
	byUID, doubled := map[uint32]uidlist.Entry{}, map[uint32]bool{}
	header := append(bytes.Clone(first), '\n')
	for len(rest) > 0 {
		line, tail, whole := bytes.Cut(rest, []byte("\n"))
		rest = tail
		e, ok := legible(header, line)
		if !ok || !whole {
			s.lost++
			continue
		}
		if old, twice := byUID[e.UID]; twice && old.Base != e.Base {
			doubled[e.UID] = true
			s.lost++
		}
		byUID[e.UID] = e
		s.header.Next = max(s.header.Next, e.UID+1)
	}
	s.keep(byUID, doubled)
	return s, nil
}

// legible reads one line as package uidlist does.
func legible(header, line []byte) (uidlist.Entry, bool) {
	if len(line) == 0 {
		return uidlist.Entry{}, false
	}
	p, err := uidlist.Parse(strings.NewReader(string(header) + string(line) + "\n"))
	if err != nil || p.Salvaged || len(p.Entries) != 1 || p.Entries[0].UID >= math.MaxUint32-1<<20 {
		return uidlist.Entry{}, false
	}
	return p.Entries[0], true
}

func (s *salvaged) keep(byUID map[uint32]uidlist.Entry, doubled map[uint32]bool) {
	highest := map[string]uint32{}
	for uid, e := range byUID {
		if !doubled[uid] {
			highest[e.Base] = max(highest[e.Base], uid)
		}
	}
	for uid, e := range byUID {
		if !doubled[uid] && highest[e.Base] == uid {
			s.entries = append(s.entries, e)
		}
	}
	slices.SortFunc(s.entries, func(a, b uidlist.Entry) int { return cmp.Compare(a.UID, b.UID) })
}

// mendUIDs mends a folder's uidlist, and says what it did. A list whose header is
// lost, or that is missing, is left to the store, which begins a new one under a
// higher UIDVALIDITY when the folder is opened.
func (m *mender) mendUIDs(f *folder) (did string, err error) {
	list, entries, err := uidlist.Load(m.FS, f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil && !errors.Is(err, uidlist.ErrCorrupt) {
		return "", err
	}
	next, lost := list.Header().Next, 0
	if errors.Is(err, uidlist.ErrCorrupt) {
		data, err := vfs.ReadFile(m.FS, f.path(uidlist.FileName))
		if err != nil {
			return "", err
		}
		s, err := salvage(data[:min(len(data), maxLines)])
		if errors.Is(err, errNoHeader) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		// For the operator to look at, as the store does it.
		if err := vfs.ReplaceFile(m.FS, f.path(brokenName), data, 0o600); err != nil {
			return "", err
		}
		entries, lost, next = s.entries, s.lost, gapped(s.header.Next, s.lost)
	} else if list.Salvaged() {
		next = gapped(next, 0)
	}
	top, err := m.knownTop(f)
	if err != nil {
		return "", err
	}
	next = max(next, top)
	if next == list.Header().Next {
		return "", nil
	}
	if _, err := list.Ensure(entries, nil, next); err != nil {
		return "", err
	}
	return fmt.Sprintf("uidlist rebuilt: %d UIDs kept, %d lines lost, UIDNEXT is %d", len(entries), lost, next), nil
}

// gapped skips UIDs that lost lines may have given.
func gapped(next uint32, lost int) uint32 {
	return uint32(min(uint64(next)+uint64(max(uidGap, lost)), math.MaxUint32-1<<20))
}

// knownTop is the lowest UIDNEXT that the folder's state leaves possible; 0 if it
// says nothing.
func (m *mender) knownTop(f *folder) (uint32, error) {
	data, err := vfs.ReadFile(m.FS, f.path(state.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	top := topUID(string(data))
	if err != nil || top == 0 || top >= math.MaxUint32-1<<20 {
		return 0, err
	}
	return uint32(top) + 1, nil
}
