package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The file, all numbers little endian:
//
//	  0  header: magic and formatVersion, salt, digest of the folder's id, checksum
//	 64  two slots, written in turn, each of which may name a table of contents
//	128  records, each at a multiple of 8
//
// A record is its size without padding, a checksum, a kind, the length of its
// key, the key and the payload. That of a message has its base name for key and a
// Meta for payload. That of a table of contents has no key, and of every message
// before it that was live a hash and a place. A table of contents only saves
// reading what is before it when the index is opened; whatever it says, a record
// is believed only for its own checksum and key.
const (
	fileName = "waypost-index"
	magic    = "WPINDEX"

	idStart      = 16 // of the id's digest
	identitySize = 32
	slotsStart   = 64
	slotSize     = 32
	recordsStart = 128

	recordHead = 10
	// MaxBase bounds base names, in bytes.
	MaxBase   = 255
	maxRecord = recordHead + MaxBase + maxPayload
	// maxFile is what places of 32 bits in units of 8 bytes can tell.
	maxFile = 8 << 32

	kindMessage  = 1
	kindContents = 2
	entrySize    = 8
)

// errRecord: no record here.
var errRecord = errors.New("damaged record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// identity is what a file's checksums and hashes start from: that of another
// file is different.
type identity struct {
	salt uint64
	seed uint32
}

// newHeader makes a file's first recordsStart bytes.
func newHeader(id string, salt uint64) []byte {
	h := make([]byte, recordsStart)
	copy(h, magic)
	h[len(magic)] = formatVersion
	binary.LittleEndian.PutUint64(h[8:], salt)
	digest := sha256.Sum256([]byte(id))
	copy(h[idStart:identitySize], digest[:])
	binary.LittleEndian.PutUint32(h[identitySize:], crc32.Checksum(h[:identitySize], castagnoli))
	return h
}

// readHeader checks a file's first bytes. reason says why they are of no use.
func readHeader(h []byte, id string) (ident identity, reason string) {
	digest := sha256.Sum256([]byte(id))
	sum := crc32.Checksum(h[:identitySize], castagnoli)
	switch {
	case string(h[:len(magic)]) != magic || binary.LittleEndian.Uint32(h[identitySize:]) != sum:
		return ident, "damaged header"
	case h[len(magic)] != formatVersion:
		return ident, "another version"
	case string(h[idStart:identitySize]) != string(digest[:identitySize-idStart]):
		return ident, "of another folder"
	}
	return identity{binary.LittleEndian.Uint64(h[8:]), sum}, ""
}

// hash is FNV-1a, salted, and mixed at the end.
func (d identity) hash(base string) uint32 {
	h := 14695981039346656037 ^ d.salt
	for i := range len(base) {
		h = (h ^ uint64(base[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return uint32(h >> 32)
}

func (d identity) sum(record []byte) uint32 {
	return crc32.Update(crc32.Update(d.seed, castagnoli, record[:4]), castagnoli, record[8:])
}

// beginRecord appends a record's head and key; endRecord, when the payload is there, fills
// in the rest and pads it.
func beginRecord(dst []byte, kind byte, key string) []byte {
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0, kind, byte(len(key)))
	return append(dst, key...)
}

func (d identity) endRecord(record []byte) []byte {
	binary.LittleEndian.PutUint32(record, uint32(len(record)))
	binary.LittleEndian.PutUint32(record[4:], d.sum(record))
	return append(record, make([]byte, padded(len(record))-len(record))...)
}

func padded(size int) int { return (size + 7) &^ 7 }

// sizeOf reads a record's size from its head, without any check.
func sizeOf(head []byte) int64 { return int64(binary.LittleEndian.Uint32(head)) }

// valid checks a record that is size bytes long.
func (d identity) valid(record []byte) bool {
	return len(record) >= recordHead && recordHead+int(record[9]) <= len(record) &&
		d.sum(record) == binary.LittleEndian.Uint32(record[4:])
}

// keyOf and payloadOf take a valid record apart.
func keyOf(record []byte) []byte     { return record[recordHead : recordHead+int(record[9])] }
func payloadOf(record []byte) []byte { return record[recordHead+int(record[9]):] }

// contents is what a slot says of a table of contents.
type contents struct {
	seq, at uint64
	// dead is how many records before it were of no use any more.
	dead uint64
}

func (c contents) slot(ident identity) []byte {
	b := make([]byte, slotSize)
	binary.LittleEndian.PutUint64(b, c.seq)
	binary.LittleEndian.PutUint64(b[8:], c.at)
	binary.LittleEndian.PutUint64(b[16:], c.dead)
	binary.LittleEndian.PutUint32(b[24:], crc32.Update(ident.seed, castagnoli, b[:24]))
	return b
}

// place is where the slot is written.
func (c contents) place() int64 { return slotsStart + int64(c.seq%2)*slotSize }

func readSlot(b []byte, ident identity) (c contents, ok bool) {
	c = contents{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
	ok = binary.LittleEndian.Uint32(b[24:]) == crc32.Update(ident.seed, castagnoli, b[:24]) &&
		c.at >= recordsStart && c.at%8 == 0 && c.at < maxFile
	return c, ok
}
