package director

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The values beside the location record are JSON with a version field; they
// are read far less often, and operators may want to look.

// Account is account/<user>: who may log in, and what the user may use.
type Account struct {
	Version int `json:"v"`
	// Hash is the password hash: argon2id in PHC form, crypt(3), or Dovecot's
	// {SCHEME} form. Empty: nobody can log in.
	Hash string `json:"hash,omitempty"`
	// QuotaBytes and QuotaMessages limit the mailbox; 0 is unlimited.
	QuotaBytes    int64 `json:"quota_bytes,omitempty"`
	QuotaMessages int64 `json:"quota_messages,omitempty"`
	// Disabled refuses logins and mail; what is stored stays.
	Disabled bool `json:"disabled,omitempty"`
	// Services that may be used: "imap", "pop3", "submission"; empty is all.
	Services []string  `json:"services,omitempty"`
	Created  time.Time `json:"created"`
}

// Address is address/<domain>/<local>: what an address means. A user's own
// address needs none: without a record, local@domain means the user of that
// name, and then the domain's catch-all.
type Address struct {
	Version int `json:"v"`
	// Members are the addresses that mail for this one goes to: one user for a
	// further address of a mailbox, several for an alias or a list. Members
	// that are addresses themselves are expanded; loops end.
	Members []string `json:"members"`
}

// Domain is domain/<domain>: a domain whose mail this cluster takes.
type Domain struct {
	Version int       `json:"v"`
	Created time.Time `json:"created"`
}

// BackendState says what new work a backend gets.
type BackendState string

const (
	// BackendActive takes new users and moves.
	BackendActive BackendState = "active"
	// BackendDraining serves what it has, and gets no new users.
	BackendDraining BackendState = "draining"
	// BackendOffline is known to be away.
	BackendOffline BackendState = "offline"
)

// Kinds of backend.
const (
	KindWaypost = "waypost"
	KindDovecot = "dovecot"
)

// Backend is backend/<id>: where a storage node is and what it may hold.
type Backend struct {
	Version int          `json:"v"`
	Kind    string       `json:"kind"`
	State   BackendState `json:"state"`
	// Weight is its share of new users; 100 is usual.
	Weight int `json:"weight"`
	// CapacityBytes is what may be filled with mail; 0: the disk's size.
	CapacityBytes int64 `json:"capacity_bytes,omitempty"`
	// Node is the host:port of a waypost backend's node listener.
	Node string `json:"node,omitempty"`
	// Dovecot is set for KindDovecot.
	Dovecot *Dovecot `json:"dovecot,omitempty"`
}

// Dovecot says how a foreign backend of kind dovecot is reached. A user there
// has no fence: I1 to I5 do not hold for it.
type Dovecot struct {
	IMAP string `json:"imap"` // host:port
	POP3 string `json:"pop3"`
	LMTP string `json:"lmtp"`
	// TLS is "none", "starttls" or "tls" toward IMAP and POP3.
	TLS string `json:"tls"`
	// CAFile on the proxies verifies the TLS certificate; empty: the system's.
	CAFile string `json:"ca_file,omitempty"`
	// MasterUser logs in as "<user>*<master>" with the password found in
	// MasterPasswordFile on the proxies; empty: with the user's own password.
	MasterUser         string `json:"master_user,omitempty"`
	MasterPasswordFile string `json:"master_password_file,omitempty"`
	// Trusted: the backend believes our word on the client's address (ID for
	// IMAP, XCLIENT for POP3 and LMTP).
	Trusted bool `json:"trusted,omitempty"`
}

// MovePhase is how far a move has come. Each phase says what has been done;
// rebalance's step table says what comes next.
type MovePhase string

const (
	// PhasePlanned: the journal exists; nothing else may.
	PhasePlanned MovePhase = "planned"
	// PhaseCopying: hot passes run into the target's staging.
	PhaseCopying MovePhase = "copying"
	// PhaseBusy: the record is busy at Epoch+1.
	PhaseBusy MovePhase = "busy"
	// PhaseFrozen: the source gave the manifest digest in Receipt.
	PhaseFrozen MovePhase = "frozen"
	// PhaseSealed: the target has sealed with that digest.
	PhaseSealed MovePhase = "sealed"
	// PhaseFlipped: the record is active at the target, Epoch+2.
	PhaseFlipped MovePhase = "flipped"
	// PhaseDone: the target serves and the source has let go.
	PhaseDone MovePhase = "done"
	// PhaseUndone: the user is where it was; Reason says why.
	PhaseUndone MovePhase = "undone"
)

// Finished reports whether the move needs nobody any more.
func (p MovePhase) Finished() bool { return p == PhaseDone || p == PhaseUndone }

// Move is move/<user>: the journal of a move. It has no lease (R8); its owner's
// claim, move-owner/<user>, has. A finished journal stays as the receipt until
// the next move of that user.
type Move struct {
	Version int       `json:"v"`
	ID      string    `json:"id"`
	User    User      `json:"user"`
	Source  BackendID `json:"source"`
	Target  BackendID `json:"target"`
	// Epoch is the record's epoch when the move was planned: busy is Epoch+1,
	// flipped or rolled back is Epoch+2.
	Epoch Epoch     `json:"epoch"`
	Phase MovePhase `json:"phase"`
	// Reason is why it was undone, in words for the operator.
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"`
	// Receipt is the digest of the manifest both sides agreed on, in hex.
	Receipt  string `json:"receipt,omitempty"`
	Messages int64  `json:"messages,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	// CopiedBytes and Passes tell how the hot copy went.
	CopiedBytes int64 `json:"copied_bytes,omitempty"`
	Passes      int   `json:"passes,omitempty"`
	// BusySince is the mover's clock at the busy transaction, BusyMS the time
	// from there to the end. They inform; they decide nothing (R7).
	BusySince time.Time `json:"busy_since,omitzero"`
	BusyMS    int64     `json:"busy_ms,omitempty"`
	Finished  time.Time `json:"finished,omitzero"`
}

// Incarnation is incarnation/<id>: the highest start count that a backend's
// disk has had. A lower one on disk is a rolled-back disk (R9).
type Incarnation struct {
	Count uint64 `json:"count"`
	// Disk is the random name the disk got when it was first used.
	Disk string `json:"disk"`
}

const valueVersion = 1

// encode writes a value that json can always write.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("director: " + err.Error()) // only our own plain structs come here
	}
	return b
}

func decode[T any](what string, b []byte) (T, error) {
	var v struct {
		Version int `json:"v"`
	}
	var t T
	if err := json.Unmarshal(b, &v); err != nil {
		return t, fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	if v.Version > valueVersion {
		return t, fmt.Errorf("%s: written by a newer waypost (version %d): %w", what, v.Version, ErrInvalid)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	return t, nil
}

// DecodeAccount and its like read a stored value; they refuse a newer version.
func DecodeAccount(b []byte) (Account, error) { return decode[Account]("account", b) }

// DecodeAddress reads a stored Address.
func DecodeAddress(b []byte) (Address, error) { return decode[Address]("address", b) }

// DecodeDomain reads a stored Domain.
func DecodeDomain(b []byte) (Domain, error) { return decode[Domain]("domain", b) }

// DecodeBackend reads a stored Backend.
func DecodeBackend(b []byte) (Backend, error) { return decode[Backend]("backend", b) }

// DecodeMove reads a stored Move.
func DecodeMove(b []byte) (Move, error) { return decode[Move]("move", b) }

// SplitSubaddress takes "local+folder@domain" apart (RFC 5233): the base
// address in lower case, and the folder as written.
func SplitSubaddress(address string) (base, folder string) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return strings.ToLower(address), ""
	}
	local, domain := address[:at], address[at:]
	if i := strings.IndexByte(local, '+'); i > 0 {
		folder, local = local[i+1:], local[:i]
	}
	return strings.ToLower(local + domain), folder
}
