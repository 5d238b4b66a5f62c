package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// Kind says why a message leaves.
type Kind string

// The kinds.
const (
	Submission Kind = "submission" // a user's own
	Forward    Kind = "forward"    // by an address's members
	Redirect   Kind = "redirect"   // by a user's script
	Vacation   Kind = "vacation"
	Notify     Kind = "notify"
	Reject     Kind = "reject"
	Echo       Kind = "echo"
)

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool {
	switch k {
	case Submission, Forward, Redirect:
		return true
	}
	return k.Automatic()
}

// Automatic reports whether a program answers: such a message is sent by the
// null sender and nothing is ever sent back (RFC 3834, Section 3.3).
func (k Kind) Automatic() bool {
	switch k {
	case Vacation, Notify, Reject, Echo:
		return true
	}
	return false
}

// What a submitter wants to be told of (RFC 3461, Section 4.1).
const (
	NotifyNever   = "NEVER"
	NotifySuccess = "SUCCESS"
	NotifyFailure = "FAILURE"
	NotifyDelay   = "DELAY"
)

// Recipient is an address that an entry is still for.
type Recipient struct {
	To string `json:"to"`
	// Outside: known to be of another domain. Else it is found out.
	Outside bool `json:"outside,omitempty"`
	// Taken: it has the message, and only the report of success is due.
	Taken bool `json:"taken,omitempty"`
	// Original is the ORCPT parameter's address, with its type before a
	// semicolon; empty: none was given.
	Original string `json:"original,omitempty"`
	// Notify is the NOTIFY parameter; empty: none was given.
	Notify []string `json:"notify,omitempty"`
	// Warned: the sender was told of the delay.
	Warned bool `json:"warned,omitempty"`
	// Error is what the last attempt said, or why it is dead.
	Error string `json:"error,omitempty"`
}

func (r Recipient) wants(what string) bool {
	if len(r.Notify) == 0 {
		return what != NotifySuccess
	}
	return slices.Contains(r.Notify, what)
}

// Envelope is what is kept with a message.
type Envelope struct {
	Version int `json:"v"`
	// ID names the entry, and is what callers know it by: see EntryID.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// User is on whose behalf it is sent; empty for forwards.
	User director.User `json:"user,omitempty"`
	// UserCreated tells the user from a later one of that name (R12). Zero: not
	// known.
	UserCreated time.Time `json:"user_created,omitzero"`
	// Reports: From is an address of User, who is told of failures.
	Reports    bool        `json:"reports,omitempty"`
	From       string      `json:"from"` // empty: the null reverse-path
	Recipients []Recipient `json:"recipients"`
	Received   time.Time   `json:"received"`
	EightBit   bool        `json:"eight_bit,omitempty"`
	UTF8       bool        `json:"utf8,omitempty"`
	Size       int64       `json:"size"` // bytes of the message
	// Return and EnvelopeID are RET and ENVID (RFC 3461, Sections 4.3, 4.4).
	Return     string `json:"return,omitempty"`
	EnvelopeID string `json:"envelope_id,omitempty"`
	// Revived is when the operator brought it back from the dead.
	Revived time.Time `json:"revived,omitzero"`
	// Remember: the id is kept after the end, since the caller may come again.
	Remember bool `json:"remember,omitempty"`
}

const envelopeVersion = 1

// EntryID gives the name of an entry for an id of a caller's own making: the
// same for the same, and fit for a file.
func EntryID(callerID string) string {
	if entries.ValidID(callerID) && len(callerID) < 64 { // 64: could be one of those below
		return callerID
	}
	sum := sha256.Sum256([]byte(callerID))
	return hex.EncodeToString(sum[:])
}

func decodeEnvelope(id string, b []byte) (Envelope, error) {
	var e Envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return e, err
	}
	switch {
	case e.Version > envelopeVersion:
		return e, fmt.Errorf("version %d: %w", e.Version, entries.ErrNewer)
	case e.ID != id || len(e.Recipients) == 0 || !e.Kind.Valid():
		return e, errors.New("not the envelope of this entry")
	}
	return e, nil
}

func domainOf(address string) string {
	return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
