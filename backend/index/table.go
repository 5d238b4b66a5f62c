package index

// slot is a message's hash and the place of its record in units of 8 bytes:
// free and gone are no such places, because the header is there.
type slot struct{ hash, place uint32 }

const (
	free = 0
	gone = 1
)

// table is a hash table with linear probing. Several slots may have one hash;
// the records tell them apart.
type table struct {
	slots []slot // a power of two
	live  int
	used  int // live and gone
}

func newTable(n int) table {
	size := 16
	for size*7/8 <= n {
		size *= 2
	}
	return table{slots: make([]slot, size)}
}

// next gives the first index from i on, in the order of probing, that has the hash,
// or -1.
func (t *table) next(i int, hash uint32) int {
	mask := len(t.slots) - 1
	for i &= mask; t.slots[i].place != free; i = (i + 1) & mask {
		if t.slots[i].hash == hash && t.slots[i].place != gone {
			return i
		}
	}
	return -1
}

// first is where the probing of a hash starts.
func (t *table) first(hash uint32) int { return t.next(int(hash), hash) }

// place gives the byte where the record of slot i begins.
func (t *table) place(i int) int64 { return int64(t.slots[i].place) * 8 }

// add puts a record in without looking for others of its hash.
func (t *table) add(hash uint32, place int64) {
	if t.used+1 > len(t.slots)*7/8 {
		t.grow()
	}
	t.put(slot{hash, uint32(place / 8)})
}

func (t *table) put(s slot) {
	mask := len(t.slots) - 1
	i := int(s.hash) & mask
	for t.slots[i].place != free {
		i = (i + 1) & mask
	}
	t.slots[i] = s
	t.live++
	t.used++
}

func (t *table) grow() {
	bigger := newTable(t.live * 8 / 7)
	for _, s := range t.slots {
		if s.place > gone {
			bigger.put(s)
		}
	}
	*t = bigger
}

func (t *table) remove(i int) {
	t.slots[i].place = gone
	t.live--
}
