package state

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"waypost/internal/vfs"
)

// ModSeq is the mod-sequence of a message; it is never 0 nor above Highest.
func (s *State) ModSeq(uid uint32) uint64 {
	if modSeq, known := s.modSeqs.get(uid); known {
		return modSeq
	}
	if uint64(uid) < s.baseNext {
		return s.base
	}
	return s.atLoad
}

// ExpungedSince gives the UIDs that were expunged after modSeq, in ascending
// order. If they are not complete there were more, of which nothing is known but
// that they are not in the folder.
func (s *State) ExpungedSince(modSeq uint64) (uids []Range, complete bool) {
	from := sort.Search(len(s.history), func(i int) bool { return s.history[i].modSeq > modSeq })
	for _, x := range s.history[from:] {
		uids = append(uids, x.uids)
	}
	return union(uids), modSeq >= s.forgot
}

// SaveDate is when a message came into the folder, if that is known.
func (s *State) SaveDate(uid uint32) (date time.Time, ok bool) {
	seconds, ok := s.saves.get(uid)
	return time.Unix(seconds, 0), ok
}

// Attribute gives the value of an attribute of the folder.
func (s *State) Attribute(key string) (text string, ok bool) {
	v, ok := s.attributes[key]
	return v.text, ok && !v.removed
}

// Attributes gives the keys that have a value, in their order.
func (s *State) Attributes() []string { return present(s.attributes) }

// Mark gives the value of a mark of a message.
func (s *State) Mark(uid uint32, key string) (text string, ok bool) {
	v, ok := s.marks[key][uid]
	return v.text, ok && !v.removed
}

// Marks gives the marks that a message has, in their order. It looks at each
// mark of the folder.
func (s *State) Marks(uid uint32) (keys []string) {
	for key := range s.marks {
		if _, ok := s.Mark(uid, key); ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// EachMark visits all marks of all messages, in no order.
func (s *State) EachMark(visit func(key string, uid uint32, text string)) {
	for key, marks := range s.marks {
		for uid, v := range marks {
			if !v.removed {
				visit(key, uid, v.text)
			}
		}
	}
}

// Peek reads what value an attribute has in the file of a folder that nobody has
// loaded. It takes in nothing else: a listing asks this of many folders.
func Peek(fsys vfs.FS, dir, key string) (text string, ok bool, err error) {
	f, err := peek(fsys, dir, func(k string) bool { return k == key })
	if err != nil {
		return "", false, err
	}
	v, ok := f.attributes[key]
	return v.text, ok && !v.removed, nil
}

// PeekAll is Peek for all attributes whose keys have a prefix, which is taken off.
func PeekAll(fsys vfs.FS, dir, prefix string) (map[string]string, error) {
	f, err := peek(fsys, dir, func(k string) bool { return strings.HasPrefix(k, prefix) })
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for _, key := range present(f.attributes) {
		all[strings.TrimPrefix(key, prefix)] = f.attributes[key].text
	}
	return all, nil
}

// peek reads the attributes whose keys are wanted.
func peek(fsys vfs.FS, dir string, wanted func(key string) bool) (facts, error) {
	f := newFacts()
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read state of folder: %w", err)
	}
	for text := range strings.Lines(string(data)) {
		const sum = len("00000000 ")
		if len(text) <= sum || text[sum] != kindAttribute {
			continue
		}
		if l, ok := parseLine(strings.TrimSuffix(text, "\n")); ok && wanted(l.key) {
			f.merge(l.Record)
		}
	}
	return f, nil
}

func present(m map[string]value) (keys []string) {
	for key, v := range m {
		if !v.removed {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
