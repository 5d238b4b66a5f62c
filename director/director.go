// Package director is the contract of the routing directory: which backend is
// a user's home, at which epoch, and which changes of that are legal.
//
// It owns the records, their encodings, the pure transitions between them, and
// the typed operations (Directory) over a linearizable Store. It does no I/O of
// its own: director/etcd and director/memory implement Store, director/cache
// is the watch-fed client that every tier embeds.
//
// Promises:
//   - Every change is one guarded transaction: it compares the revision of what
//     it read and the era (R6). An unknown result is read again before
//     anything else is done.
//   - epoch rises by one at each change of home or state, never otherwise; by
//     two where a lost home's user is reassigned, and by what it takes to be above
//     every fence where the directory is restored (R10).
//   - A user key is never renamed, and never disappears: delete leaves a
//     tombstone from whose epoch a re-created user goes on (R12).
package director

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// User is a mailbox owner's key, "local@domain", lower case. Values come from
// ParseUser.
type User string

// BackendID names a storage node, like "b1".
type BackendID string

// Epoch counts the changes of a user's home or state. 0 means "before the
// first record".
type Epoch uint64

// State is what a location record says of its user.
type State string

const (
	// Active: the home serves the user.
	Active State = "active"
	// Busy: a move is between freeze and flip; new work for the user is held.
	Busy State = "busy"
	// Deleted is the tombstone of a user: nobody serves it.
	Deleted State = "deleted"
)

// Record is location/<user>: what every look-up needs and what moves change.
type Record struct {
	Home  BackendID
	Epoch Epoch
	State State
	// Peer is the target of the move while State is Busy, else empty.
	Peer BackendID
}

// Errors of the directory. Callers test them with errors.Is.
var (
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("not in the directory")
	// ErrExists: the record to be created is there already.
	ErrExists = errors.New("already in the directory")
	// ErrIllegal: the transition does not start from this record.
	ErrIllegal = errors.New("illegal transition")
	// ErrConflict: somebody else changed the record first; obey what is there now.
	ErrConflict = errors.New("the record was changed meanwhile")
	// ErrUnavailable: the directory cannot be reached; temporary.
	ErrUnavailable = errors.New("the directory cannot be reached")
	// ErrUnknown: it is not known whether the change was made, and it could
	// not be read back either; read before doing anything else.
	ErrUnknown = errors.New("the result of the change is not known")
	// ErrInvalid: a name or value that the directory does not take.
	ErrInvalid = errors.New("invalid")
)

// String writes the record in its stored form.
func (r Record) String() string { return string(r.Encode()) }

// Encode gives the stored form: "1 <home> <epoch> <state>[ <peer>]", where 1
// is the version. It stays this small because ten million are kept in memory.
func (r Record) Encode() []byte {
	b := make([]byte, 0, 40)
	b = append(b, "1 "...)
	b = append(b, r.Home...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(r.Epoch), 10)
	b = append(b, ' ')
	b = append(b, r.State...)
	if r.Peer != "" {
		b = append(b, ' ')
		b = append(b, r.Peer...)
	}
	return b
}

// DecodeRecord reads Encode's form. It refuses what no transition writes.
func DecodeRecord(b []byte) (Record, error) {
	f := strings.Fields(string(b))
	if len(f) < 4 || len(f) > 5 || f[0] != "1" {
		return Record{}, fmt.Errorf("location record %q: %w", b, ErrInvalid)
	}
	epoch, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("location record %q: %w", b, ErrInvalid)
	}
	r := Record{Home: BackendID(f[1]), Epoch: Epoch(epoch), State: State(f[3])}
	if len(f) == 5 {
		r.Peer = BackendID(f[4])
	}
	if string(r.Encode()) != string(b) {
		return Record{}, fmt.Errorf("location record %q: not as Encode writes it: %w", b, ErrInvalid)
	}
	return r, r.valid()
}

func (r Record) valid() error {
	bad := ""
	switch {
	case ValidBackendID(r.Home) != nil:
		bad = "home"
	case r.Epoch == 0:
		bad = "epoch"
	case r.State != Active && r.State != Busy && r.State != Deleted:
		bad = "state"
	case (r.State == Busy) != (r.Peer != ""):
		bad = "peer"
	case r.Peer != "" && (ValidBackendID(r.Peer) != nil || r.Peer == r.Home):
		bad = "peer"
	}
	if bad != "" {
		return fmt.Errorf("location record %q: %s: %w", r.Encode(), bad, ErrInvalid)
	}
	return nil
}

// MaxUser is a user key's longest length in bytes: it must fit, with an epoch
// behind it, into one file name of 255 bytes.
const MaxUser = 220

// ParseUser makes the canonical key of "local@domain": lower case, no
// sub-address. It refuses what cannot be a mailbox or a safe folder name.
func ParseUser(s string) (User, error) {
	local, domain, ok := strings.Cut(strings.ToLower(strings.TrimSpace(s)), "@")
	if !ok || local == "" {
		return "", fmt.Errorf("user %q: want local@domain: %w", s, ErrInvalid)
	}
	if err := validLocal(local); err != nil {
		return "", fmt.Errorf("user %q: %w", s, err)
	}
	if err := ValidDomain(domain); err != nil {
		return "", fmt.Errorf("user %q: %w", s, err)
	}
	if len(local)+1+len(domain) > MaxUser {
		return "", fmt.Errorf("user %q: longer than %d bytes: %w", s, MaxUser, ErrInvalid)
	}
	return User(local + "@" + domain), nil
}

// Local is the part before the @.
func (u User) Local() string { l, _, _ := strings.Cut(string(u), "@"); return l }

// Domain is the part after the @.
func (u User) Domain() string { _, d, _ := strings.Cut(string(u), "@"); return d }

// validLocal takes the dot-atom characters of RFC 5322, Section 3.2.3, and
// UTF-8 letters (RFC 6531), at most 64 bytes (RFC 5321, Section 4.5.3.1.1);
// '/' would be a folder separator in keys, and '+' starts the sub-address.
func validLocal(l string) error {
	if l == "" || len(l) > 64 || l[0] == '.' || l[len(l)-1] == '.' || strings.Contains(l, "..") {
		return fmt.Errorf("local part %q: %w", l, ErrInvalid)
	}
	for _, r := range l {
		if r >= 0x80 && printable(r) {
			continue
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune(".!#$%&'*=?^_`{|}~-", r) {
			continue
		}
		return fmt.Errorf("local part %q: character %q: %w", l, r, ErrInvalid)
	}
	return nil
}

// printable keeps spaces, controls and invalid UTF-8 out of names beyond ASCII.
func printable(r rune) bool { return unicode.IsPrint(r) && r != '\uFFFD' }

// ValidDomain takes a lower-case host name of RFC 1035 labels.
func ValidDomain(d string) error {
	if d == "" || len(d) > 253 {
		return fmt.Errorf("domain %q: %w", d, ErrInvalid)
	}
	for _, label := range strings.Split(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("domain %q: %w", d, ErrInvalid)
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r >= 0x80 && printable(r)) {
				return fmt.Errorf("domain %q: character %q: %w", d, r, ErrInvalid)
			}
		}
	}
	return nil
}

// ValidBackendID takes 1 to 32 characters of a-z, 0-9, '-' and '_'.
func ValidBackendID(id BackendID) error {
	if id == "" || len(id) > 32 {
		return fmt.Errorf("backend id %q: want 1 to 32 characters: %w", id, ErrInvalid)
	}
	for _, r := range id {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return fmt.Errorf("backend id %q: character %q: %w", id, r, ErrInvalid)
		}
	}
	return nil
}
