package uidlist

import "hash/maphash"

// Places finds entries by their bases. Beside a map it is small and quick: it has 8 bytes for each
// place, and looks at an entry only where the hash is the same.
type Places struct {
	seed  maphash.Seed
	table []place // a power of two, at most half full
	n     int
}

// place is that of entry at-1; at is 0 where there is none.
type place struct{ hash, at uint32 }

// PlacesOf gives the places of entries, of which no two have one base.
func PlacesOf(entries []Entry) *Places {
	p := newPlaces(len(entries))
	for i := range entries {
		p.add(entries, i)
	}
	return p
}

func newPlaces(n int) *Places {
	size := 64
	for size < 2*n {
		size *= 2
	}
	return &Places{seed: maphash.MakeSeed(), table: make([]place, size)}
}

func (p *Places) hash(base string) uint32 { return uint32(maphash.String(p.seed, base)) }

// Find gives the index of the entry with a base. It may be called by several at once.
func (p *Places) Find(entries []Entry, base string) (i int, ok bool) {
	slot, ok := p.slot(entries, base, p.hash(base))
	return int(p.table[slot].at) - 1, ok
}

// slot is where a base is, or belongs.
func (p *Places) slot(entries []Entry, base string, hash uint32) (slot int, is bool) {
	mask := len(p.table) - 1
	for slot = int(hash) & mask; p.table[slot].at != 0; slot = (slot + 1) & mask {
		if p.table[slot].hash == hash && entries[p.table[slot].at-1].Base == base {
			return slot, true
		}
	}
	return slot, false
}

// add takes in entry i, and gives the one that had its base before, or -1.
func (p *Places) add(entries []Entry, i int) (old int) {
	if 2*(p.n+1) > len(p.table) {
		p.grow()
	}
	hash := p.hash(entries[i].Base)
	slot, twice := p.slot(entries, entries[i].Base, hash)
	old = int(p.table[slot].at) - 1
	p.table[slot] = place{hash, uint32(i) + 1}
	if !twice {
		p.n++
	}
	return old
}

func (p *Places) grow() {
	bigger := make([]place, 2*len(p.table))
	for _, x := range p.table {
		if x.at == 0 {
			continue
		}
		slot := int(x.hash) & (len(bigger) - 1)
		for bigger[slot].at != 0 {
			slot = (slot + 1) & (len(bigger) - 1)
		}
		bigger[slot] = x
	}
	p.table = bigger
}
