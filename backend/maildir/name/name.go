// Package name reads and writes the file names of messages in a Maildir, as
// Dovecot 2.3 and Courier write them:
//
//	<unique>[,S=<bytes on disk>][,W=<bytes with CRLF>][:2,<flags>[,<extra>]]
//
// What stands before the colon is the base: it never changes while the message
// stays in its folder. The unique part names the message for life. Flags are
// letters; those that this package does not know are kept.
//
// It does no I/O. Values are safe for concurrent use; a Generator is as well.
package name

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Name is a file name in its parts.
type Name struct {
	// Base is everything before the colon.
	Base string
	// Flags are the letters behind ":2,", as they stand in the file name.
	Flags string
	// Extra is what follows the flags, from its comma on; mostly empty.
	Extra string
}

// Parse takes a file name apart. ok is false for what cannot be a message:
// hidden files, and names with control characters, which no uidlist can hold.
func Parse(file string) (n Name, ok bool) {
	if file == "" || file[0] == '.' || file[0] == ':' {
		return Name{}, false
	}
	for i := range len(file) {
		if c := file[i]; c < 0x20 || c == 0x7f || c == '/' {
			return Name{}, false
		}
	}
	base, info, _ := strings.Cut(file, ":")
	n.Base = base
	if letters, found := strings.CutPrefix(info, "2,"); found {
		end := strings.IndexByte(letters, ',')
		if end < 0 {
			end = len(letters)
		}
		n.Flags, n.Extra = letters[:end], letters[end:]
	}
	return n, true
}

// String is the name of the file in cur.
func (n Name) String() string { return n.Base + ":2," + n.Flags + n.Extra }

// Unique is the part of a base that names the message for life.
func Unique(base string) string {
	unique, _, _ := strings.Cut(base, ",")
	return unique
}

// Sizes are the sizes that a base tells: in bytes on the disk and with CRLF line
// ends. What it does not tell is -1.
func Sizes(base string) (size, wire int64) {
	size, wire = -1, -1
	_, rest, found := strings.Cut(base, ",")
	for found {
		var field string
		field, rest, found = strings.Cut(rest, ",")
		if digits, ok := strings.CutPrefix(field, "S="); ok {
			size = number(digits)
		} else if digits, ok := strings.CutPrefix(field, "W="); ok {
			wire = number(digits)
		}
	}
	return size, wire
}

func number(digits string) int64 {
	n, err := strconv.ParseUint(digits, 10, 62)
	if err != nil {
		return -1
	}
	return int64(n)
}

// WithSizes makes a base of a unique part and the two sizes.
func WithSizes(unique string, size, wire int64) string {
	return unique + ",S=" + strconv.FormatInt(size, 10) + ",W=" + strconv.FormatInt(wire, 10)
}

// Letters gives letters sorted and without repetition.
func Letters(letters string) string {
	b := []byte(letters)
	slices.Sort(b)
	return string(slices.Compact(b))
}

// Sort brings what has bases into the order in which new messages get their UIDs: by the time in
// the unique parts, then by name. What has one base stays in its order.
func Sort[T any](list []T, base func(T) string) {
	places := make([]place, len(list))
	for i, x := range list {
		places[i] = placeOf(base(x), i)
	}
	slices.SortFunc(places, place.compare)
	was := slices.Clone(list)
	for i, p := range places {
		list[i] = was[p.was]
	}
}

// place is a base's in that order; was is where it was before.
type place struct {
	base       string
	sec, micro int64
	was        int
}

func placeOf(base string, was int) place {
	sec, micro := arrived(base)
	return place{base, sec, micro, was}
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.sec, q.sec), cmp.Compare(p.micro, q.micro), strings.Compare(p.base, q.base), cmp.Compare(p.was, q.was))
}

// arrived reads "<seconds>.M<microseconds>"; names of other makes sort first
// by whatever of it they have.
func arrived(base string) (sec, micro int64) {
	sec, rest := leadingNumber(base)
	if rest, ok := strings.CutPrefix(rest, ".M"); ok {
		micro, _ = leadingNumber(rest)
	}
	return sec, micro
}

// Made is when a unique part of a Generator was made, in whole seconds; false for
// a base that is not Generated.
func Made(base string) (at time.Time, ok bool) {
	if !Generated(base) {
		return time.Time{}, false
	}
	seconds, _ := leadingNumber(base)
	return time.Unix(seconds, 0), true
}

func leadingNumber(s string) (n int64, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' && i < 18 {
		n = n*10 + int64(s[i]-'0')
		i++
	}
	return n, s[i:]
}

// Generator makes unique parts of the form Dovecot uses,
// "<seconds>.M<microseconds>P<process>Q<count>.<host>". Those of one Generator
// ascend in Sort's order as long as the clock does. The count starts
// at a random number, so that a clock set back, or a process number that comes
// again, does not repeat a name.
type Generator struct {
	host string
	pid  int
	now  func() time.Time

	mu    sync.Mutex // held for a few instructions
	count uint32
	last  int64 // microseconds since 1970 of the last name
}

// NewGenerator makes a Generator. host is made fit for a file name.
func NewGenerator(host string, pid int, now func() time.Time) *Generator {
	var seed [4]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	return &Generator{host: cleanHost(host), pid: pid, now: now, count: binary.BigEndian.Uint32(seed[:]) >> 1}
}

// Next gives the next unique part.
func (g *Generator) Next() string {
	micro := g.now().UnixMicro()
	g.mu.Lock()
	if micro <= g.last && g.last-micro < int64(time.Second/time.Microsecond) {
		micro = g.last + 1
	}
	g.last = micro
	g.count++
	count := g.count
	g.mu.Unlock()
	b := strconv.AppendInt(make([]byte, 0, 48+len(g.host)), micro/1e6, 10)
	b = strconv.AppendInt(append(b, ".M"...), micro%1e6, 10)
	b = strconv.AppendInt(append(b, 'P'), int64(g.pid), 10)
	b = strconv.AppendUint(append(b, 'Q'), uint64(count), 10)
	return string(append(append(b, '.'), g.host...))
}

// Generated tells whether a base is one that WithSizes makes of a Generator's unique
// part, on whichever host. Other programs' files get their sizes only after
// they have left tmp.
func Generated(base string) bool {
	rest := Unique(base)
	if size, wire := Sizes(base); size < 0 || wire < 0 || base != WithSizes(rest, size, wire) {
		return false
	}
	for _, mark := range []string{"", ".M", "P", "Q"} {
		after, ok := strings.CutPrefix(rest, mark)
		if !ok {
			return false
		}
		if _, rest = leadingNumber(after); rest == after {
			return false
		}
	}
	return len(rest) > 1 && rest[0] == '.'
}

// cleanHost writes the characters with a meaning in file names as Dovecot does.
func cleanHost(host string) string {
	var b strings.Builder
	for i := range len(host) {
		switch c := host[i]; {
		case c == '/' || c == ':' || c == ',':
			fmt.Fprintf(&b, "\\%03o", c)
		case c > 0x20 && c < 0x7f:
			b.WriteByte(c)
		}
	}
	if b.Len() == 0 {
		return "localhost"
	}
	return b.String()[:min(b.Len(), 64)]
}
