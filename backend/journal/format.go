package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	// blockSize is the unit of writing. A disk may tear a write between blocks and
	// may spoil a block it was writing; since no two batches share one, a torn
	// write never damages a batch that was acknowledged.
	blockSize = 4096
	// version is that of segments and of the checkpoint file.
	version = 1
	// maxBatch limits a batch in bytes, with its header, and so what is written at
	// once and the size of a record.
	maxBatch = 2 << 20

	segmentMagic  = "waypost-journal\n"
	segmentHead   = 68
	batchMagic    = 0x424a5057 // "WPJB"
	batchHead     = 64
	batchHeadSum  = 60 // where the header's own checksum lies
	recordHead    = 14
	maxUserBytes  = 1<<16 - 1
	segmentSuffix = ".wal"
)

// MaxRecord is how many bytes of data a record may have, its user's name counted
// in. With segments smaller than 2 MiB it is less: what fits into one.
const MaxRecord = maxBatch - batchHead - recordHead

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// blocks rounds a length up to whole blocks.
func blocks(n int) int { return (n + blockSize - 1) &^ (blockSize - 1) }

type journalID [16]byte

// segmentHeader is the first block of a segment.
type segmentHeader struct {
	id   journalID
	seq  uint64
	salt uint64
	size int64
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, blockSize)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[16:], version)
	copy(b[24:], h.id[:])
	binary.LittleEndian.PutUint64(b[40:], h.seq)
	binary.LittleEndian.PutUint64(b[48:], h.salt)
	binary.LittleEndian.PutUint64(b[56:], uint64(h.size))
	binary.LittleEndian.PutUint32(b[64:], checksum(b[:64]))
	return b
}

// decodeSegmentHeader tells ErrForeign, ErrVersion and ErrCorrupt apart. The
// version is looked at before the checksum, which another version may keep
// elsewhere.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	var h segmentHeader
	if len(b) < segmentHead || !bytes.HasPrefix(b, []byte(segmentMagic)) {
		return h, fmt.Errorf("%w: it does not begin as a segment does", ErrForeign)
	}
	if v := binary.LittleEndian.Uint32(b[16:]); v != version {
		return h, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, version)
	}
	if checksum(b[:64]) != binary.LittleEndian.Uint32(b[64:]) {
		return h, fmt.Errorf("%w: the checksum of the segment's header is wrong", ErrCorrupt)
	}
	copy(h.id[:], b[24:])
	h.seq = binary.LittleEndian.Uint64(b[40:])
	h.salt = binary.LittleEndian.Uint64(b[48:])
	h.size = int64(binary.LittleEndian.Uint64(b[56:]))
	if h.size < 2*blockSize || h.size%blockSize != 0 {
		return h, fmt.Errorf("%w: a segment of %d bytes", ErrCorrupt, h.size)
	}
	return h, nil
}

// batchHeader begins each batch.
type batchHeader struct {
	seq, salt uint64
	number    uint64
	first     LSN
	count     uint32
	length    uint32 // of the records, in bytes
	sum       uint32 // of the records
}

// last is the LSN of the batch's last record.
func (h batchHeader) last() LSN { return h.first + LSN(h.count) - 1 }

// size is what the batch takes on disk.
func (h batchHeader) size() int64 { return int64(blocks(batchHead + int(h.length))) }

func (h batchHeader) encode(b []byte) {
	clear(b[:batchHead])
	binary.LittleEndian.PutUint32(b, batchMagic)
	binary.LittleEndian.PutUint32(b[4:], h.count)
	binary.LittleEndian.PutUint64(b[8:], h.seq)
	binary.LittleEndian.PutUint64(b[16:], h.salt)
	binary.LittleEndian.PutUint64(b[24:], h.number)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.first))
	binary.LittleEndian.PutUint32(b[40:], h.length)
	binary.LittleEndian.PutUint32(b[44:], h.sum)
	binary.LittleEndian.PutUint32(b[batchHeadSum:], checksum(b[:batchHeadSum]))
}

// decodeBatchHeader answers false for everything but the header of a batch of the
// given segment.
func decodeBatchHeader(b []byte, seq, salt uint64) (batchHeader, bool) {
	if len(b) < batchHead || binary.LittleEndian.Uint32(b) != batchMagic {
		return batchHeader{}, false
	}
	if checksum(b[:batchHeadSum]) != binary.LittleEndian.Uint32(b[batchHeadSum:]) {
		return batchHeader{}, false
	}
	h := batchHeader{
		count:  binary.LittleEndian.Uint32(b[4:]),
		seq:    binary.LittleEndian.Uint64(b[8:]),
		salt:   binary.LittleEndian.Uint64(b[16:]),
		number: binary.LittleEndian.Uint64(b[24:]),
		first:  LSN(binary.LittleEndian.Uint64(b[32:])),
		length: binary.LittleEndian.Uint32(b[40:]),
		sum:    binary.LittleEndian.Uint32(b[44:]),
	}
	ok := h.seq == seq && h.salt == salt && h.count > 0 && h.first > 0 && h.number > 0 && h.length <= maxBatch-batchHead
	return h, ok
}

// recordSize is what a record takes in a batch.
func recordSize(user string, data int) int { return recordHead + len(user) + data }

// encodeRecord writes a record into b, which has room for exactly it.
func encodeRecord(b []byte, user string, epoch uint64, data [][]byte) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-recordHead-len(user)))
	binary.LittleEndian.PutUint16(b[4:], uint16(len(user)))
	binary.LittleEndian.PutUint64(b[6:], epoch)
	n := recordHead
	n += copy(b[n:], user)
	for _, part := range data {
		n += copy(b[n:], part)
	}
}

var errRecords = errors.New("the records of a batch do not fit its header")

// eachRecord visits the records of a batch; Data lies in payload.
func eachRecord(h batchHeader, payload []byte, visit func(Record) error) error {
	for i := range h.count {
		if len(payload) < recordHead {
			return errRecords
		}
		data := uint64(binary.LittleEndian.Uint32(payload))
		user := uint64(binary.LittleEndian.Uint16(payload[4:]))
		epoch := binary.LittleEndian.Uint64(payload[6:])
		payload = payload[recordHead:]
		if data+user > uint64(len(payload)) {
			return errRecords
		}
		r := Record{LSN: h.first + LSN(i), User: string(payload[:user]), Epoch: epoch, Data: payload[user : user+data : user+data]}
		if err := visit(r); err != nil {
			return err
		}
		payload = payload[user+data:]
	}
	if len(payload) > 0 {
		return errRecords
	}
	return nil
}
