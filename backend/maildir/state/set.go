package state

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Range is the UIDs from First to Last, both included.
type Range struct{ First, Last uint32 }

// ranges are ascending and have gaps between them.
func ranges(uids []uint32) []Range {
	if !slices.IsSorted(uids) {
		uids = slices.Sorted(slices.Values(uids))
	}
	var set []Range
	for _, uid := range uids {
		set = extend(set, Range{uid, uid})
	}
	return set
}

// union puts ranges, in any order, into their order, and joins what meets.
func union(all []Range) []Range {
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var set []Range
	for _, r := range all {
		set = extend(set, r)
	}
	return set
}

// extend adds a range that does not begin before the last one.
func extend(set []Range, r Range) []Range {
	if n := len(set); n > 0 && uint64(r.First) <= uint64(set[n-1].Last)+1 {
		set[n-1].Last = max(set[n-1].Last, r.Last)
		return set
	}
	return append(set, r)
}

// count is how many UIDs there are in set.
func count(set []Range) (n int64) {
	for _, r := range set {
		n += int64(r.Last) - int64(r.First) + 1
	}
	return n
}

func appendSet(b []byte, set []Range) []byte {
	for i, r := range set {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.First), 10)
		if r.Last > r.First {
			b = strconv.AppendUint(append(b, ':'), uint64(r.Last), 10)
		}
	}
	return b
}

func parseSet(text string) ([]Range, bool) {
	var set []Range
	for part := range strings.SplitSeq(text, ",") {
		from, to, two := strings.Cut(part, ":")
		first, err := strconv.ParseUint(from, 10, 32)
		last := first
		if two && err == nil {
			last, err = strconv.ParseUint(to, 10, 32)
		}
		if err != nil || first == 0 || last < first {
			return nil, false
		}
		set = append(set, Range{uint32(first), uint32(last)})
	}
	return union(set), true
}
