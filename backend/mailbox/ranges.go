package mailbox

import "slices"

// Within reports that a UID is in one of the ranges, which rise.
func (u UID) Within(ranges []UIDRange) bool {
	i, ok := slices.BinarySearchFunc(ranges, u, func(r UIDRange, u UID) int { return int(int64(r.Last) - int64(u)) })
	return ok || i < len(ranges) && ranges[i].First <= u
}

// Union gives the UIDs in a or b. Ranges rise and do not touch each other, in all that take or give them.
func Union(a, b []UIDRange) []UIDRange {
	if len(b) == 0 {
		return a
	}
	out := make([]UIDRange, 0, len(a)+len(b))
	for len(a)+len(b) > 0 {
		if len(a) == 0 || len(b) > 0 && b[0].First < a[0].First {
			a, b = b, a
		}
		r := a[0]
		a = a[1:]
		if n := len(out); n > 0 && uint64(out[n-1].Last)+1 >= uint64(r.First) {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Without gives the UIDs in a and not in b.
func Without(a, b []UIDRange) []UIDRange {
	if len(b) == 0 {
		return a
	}
	out := make([]UIDRange, 0, len(a)+len(b))
	for _, r := range a {
		for len(b) > 0 && b[0].Last < r.First {
			b = b[1:]
		}
		rest, whole := r, true
		for _, g := range b {
			if g.First > rest.Last {
				break
			}
			if g.First > rest.First {
				out = append(out, UIDRange{First: rest.First, Last: g.First - 1})
			}
			if g.Last >= rest.Last {
				whole = false
				break
			}
			rest.First = g.Last + 1
		}
		if whole {
			out = append(out, rest)
		}
	}
	return out
}
