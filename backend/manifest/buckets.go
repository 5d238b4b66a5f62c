package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"waypost/backend/control"
)

// maxBits is how many bits of a path's hash say which bucket it is in.
const maxBits = 16

// index has the entries of a manifest in buckets, with digests that are made anew
// only where something changed. The zero value is empty.
type index struct {
	buckets                    [1 << (maxBits / 2)]*[1 << (maxBits / 2)]*bucket
	entries                    int
	files, messages, mailBytes int64
	blank                      map[*file]struct{}
}

type bucket struct {
	all   []*file
	sum   Digest
	stale bool
}

// bucketOf is FNV-1a of the path without flags: a change of flags stays in a bucket.
func bucketOf(path control.TreePath) int {
	s := string(path)
	if IsMessage(s) {
		if at := strings.LastIndex(s, ":2,"); at >= 0 {
			s = s[:at]
		}
	}
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	// The last bytes have not reached the upper bits yet.
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return int(h >> (64 - maxBits))
}

func (x *index) at(path control.TreePath) **bucket {
	n := bucketOf(path)
	row := &x.buckets[n>>(maxBits/2)]
	if *row == nil {
		*row = new([1 << (maxBits / 2)]*bucket)
	}
	return &(*row)[n&(1<<(maxBits/2)-1)]
}

func (x *index) add(f *file) {
	b := x.at(f.Path)
	if *b == nil {
		*b = &bucket{}
	}
	(*b).all, (*b).stale = append((*b).all, f), true
	x.count(f, 1)
	if !f.IsDir() && !f.Digest.Known() {
		if x.blank == nil {
			x.blank = make(map[*file]struct{})
		}
		x.blank[f] = struct{}{}
	}
}

func (x *index) remove(f *file) {
	b := *x.at(f.Path)
	i := slices.Index(b.all, f)
	b.all[i] = b.all[len(b.all)-1]
	b.all, b.stale = b.all[:len(b.all)-1], true
	x.count(f, -1)
	delete(x.blank, f)
}

// changed notes other contents of a file, which set does.
func (x *index) changed(f *file, set func()) {
	x.remove(f)
	set()
	x.add(f)
}

func (x *index) count(f *file, n int) {
	x.entries += n
	if f.IsDir() {
		return
	}
	x.files += int64(n)
	if IsMessage(string(f.Path)) {
		x.messages += int64(n)
		x.mailBytes += int64(n) * f.Size
	}
}

// digest gives a bucket's.
func (b *bucket) digest() Digest {
	if !b.stale {
		return b.sum
	}
	slices.SortFunc(b.all, func(x, y *file) int { return strings.Compare(string(x.Path), string(y.Path)) })
	var buf [512]byte
	text := buf[:0]
	for _, f := range b.all {
		// Every field ends in a byte that cannot be in it, or has a length of its
		// own; a path may hold anything but NUL.
		text = append(append(text, f.Path...), 0)
		text = append(strconv.AppendInt(text, f.Size, 10), 0)
		text = append(strconv.AppendInt(text, f.MTime, 10), 0)
		text = append(text, f.Digest[:]...)
	}
	b.sum, b.stale = sha256.Sum256(text), false
	return b.sum
}

// each visits the buckets that hold something, in order.
func (x *index) each(visit func(n int, b *bucket)) {
	for hi, row := range x.buckets {
		if row == nil {
			continue
		}
		for lo, b := range row {
			if b != nil && len(b.all) > 0 {
				visit(hi<<(maxBits/2)|lo, b)
			}
		}
	}
}

func (x *index) summary() control.ManifestSummary {
	h := sha256.New()
	h.Write([]byte("waypost manifest 2\n"))
	x.each(func(n int, b *bucket) {
		sum := b.digest()
		h.Write([]byte{byte(n >> 8), byte(n)})
		h.Write(sum[:])
	})
	return control.ManifestSummary{Digest: HexDigest(h), Messages: x.messages, Bytes: x.mailBytes, Files: x.files}
}

// sums are short digests of 2^bits groups of buckets: equal where the groups are.
// They only say where to look; what is proven is the digest.
func (x *index) sums(bits int) []uint64 {
	out := make([]uint64, 1<<bits)
	x.each(func(n int, b *bucket) {
		sum := b.digest()
		out[n>>(maxBits-bits)] ^= binary.BigEndian.Uint64(sum[:])
	})
	return out
}

// bits is in how many groups a manifest of that size is compared: some 16 entries each.
func (x *index) bits() int {
	bits := 0
	for bits < maxBits && x.entries>>(bits+4) > 0 {
		bits++
	}
	return bits
}
