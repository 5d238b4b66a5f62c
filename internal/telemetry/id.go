package telemetry

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// idAlphabet has 32 signs in the order of their codes, so that identifiers sort
// as text in the order of their times; without i, l, o and u, which people
// misread.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	// IDChars is the length of an identifier of NewID.
	IDChars     = 20
	idTimeChars = 9 // 45 bits of milliseconds: until the year 3084

)

// NewID gives a new identifier for a session, a connection or a delivery: 20
// lower-case letters and digits. It sorts by time to the millisecond. Two calls
// anywhere give the same one with a chance of 1 in 2^55, and only within one
// millisecond: delivery ids may be compared across the whole cluster.
func NewID() string {
	var random [8]byte
	rand.Read(random[:]) // never fails; see its documentation
	return formatID(time.Now(), binary.BigEndian.Uint64(random[:]))
}

func formatID(at time.Time, random uint64) string {
	var id [IDChars]byte
	base32(id[:idTimeChars], uint64(at.UnixMilli()))
	base32(id[idTimeChars:], random)
	return string(id[:])
}

// base32 fills dst with the low bits of v, the highest first.
func base32(dst []byte, v uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = idAlphabet[v&31]
		v >>= 5
	}
}
