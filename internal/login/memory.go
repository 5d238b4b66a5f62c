package login

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// seal stands for a password of a version of an account. Without the sealer's
// key it tells nothing of the password.
type seal [sha256.Size]byte

type sealer struct{ key [32]byte }

func newSealer() sealer {
	var s sealer
	rand.Read(s.key[:])
	return s
}

func (s sealer) seal(known bool, user string, version int64, password string) seal {
	mac := hmac.New(sha256.New, s.key[:])
	// Lengths first: no two triples may give the same octets.
	head := binary.BigEndian.AppendUint64(nil, uint64(len(user)))
	head = binary.BigEndian.AppendUint64(head, uint64(version))
	if known {
		head = append(head, 1)
	} else {
		head = append(head, 0)
	}
	mac.Write(head)
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	return seal(mac.Sum(nil))
}

// maxTrusted bounds the addresses kept per user; a roaming telephone changes
// its address several times a day.
const maxTrusted = 16

// memory holds the verified logins, one entry per user: an account has one
// password, and what is remembered of an earlier version is worth nothing.
type memory struct {
	rememberFor time.Duration
	trustFor    time.Duration

	mu    sync.Mutex // guards users and its entries
	users *table[*remembered]
}

type remembered struct {
	seal    seal
	until   time.Time // of the seal
	trusted []trusted // latest last
}

type trusted struct {
	addr  netip.Prefix
	until time.Time
}

func (r *remembered) expired(now time.Time) bool {
	return !now.Before(r.until) && (len(r.trusted) == 0 || !now.Before(r.trusted[len(r.trusted)-1].until))
}

// recollection is what memory knows of a claim.
type recollection struct {
	password bool // it was verified lately
	address  bool // the user logged in from there lately
}

func newMemory(limit int, rememberFor, trustFor time.Duration) *memory {
	return &memory{rememberFor: rememberFor, trustFor: trustFor, users: newTable[*remembered](limit)}
}

func (m *memory) recall(user string, s seal, addr netip.Prefix, now time.Time) recollection {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, found := m.users.get(key{user: user}, now)
	if !found {
		return recollection{}
	}
	known := recollection{password: now.Before(r.until) && hmac.Equal(r.seal[:], s[:])}
	for _, t := range r.trusted {
		known.address = known.address || t.addr == addr && now.Before(t.until)
	}
	return known
}

// trusts reports whether the user logged in from the address lately.
func (m *memory) trusts(user string, addr netip.Prefix, now time.Time) bool {
	return m.recall(user, seal{}, addr, now).address
}

// verified remembers a login that was just verified by its hash.
func (m *memory) verified(user string, s seal, addr netip.Prefix, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, found := m.users.get(key{user: user}, now)
	if !found {
		r = &remembered{}
		m.users.put(key{user: user}, r, now)
	}
	r.seal, r.until = s, now.Add(m.rememberFor)
	r.trust(addr, now.Add(m.trustFor))
}

// trust notes a login by memory. It does not prolong the password's memory.
func (m *memory) trust(user string, addr netip.Prefix, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, found := m.users.get(key{user: user}, now); found {
		r.trust(addr, now.Add(m.trustFor))
	}
}

func (r *remembered) trust(addr netip.Prefix, until time.Time) {
	kept := r.trusted[:0]
	for _, t := range r.trusted {
		if t.addr != addr {
			kept = append(kept, t)
		}
	}
	if len(kept) == maxTrusted {
		kept = append(kept[:0], kept[1:]...)
	}
	r.trusted = append(kept, trusted{addr: addr, until: until})
}

func (m *memory) forget(user string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users.remove(key{user: user})
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.users.len()
}
