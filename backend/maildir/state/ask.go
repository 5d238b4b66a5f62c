package state

import (
	"slices"
	"sort"
	"time"
)

// ModSeq is the mod-sequence of a message; it is never 0 nor above Highest.
func (s *State) ModSeq(uid uint32) uint64 {
	if modSeq, known := s.modSeqs[uid]; known {
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
	seconds, ok := s.saves[uid]
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

func present(m map[string]value) (keys []string) {
	for key, v := range m {
		if !v.removed {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
