// Package carried is what an IMAP session takes along when a backend hands it off (design,
// "Sessions that survive"), and the bytes that this becomes. Package imap fills in a State and makes
// a session of one; here nothing is known of mailboxes.
//
// The form is versioned: Decode refuses a version that it does not know, with handoff.Version, and
// what is not in the form. It is compact: UIDs are ranges, so that 100,000 messages without a gap
// take some bytes. What Decode allocates is in proportion to its input, whatever that says. The
// package keeps nothing; nothing survives a crash but what others keep.
package carried

import (
	"time"

	"waypost/backend/mailbox"
)

// State is a session. Ranges rise and do not touch each other.
type State struct {
	// Session is the session's name, Client the client's address, User whose session it is.
	Session, Client, User string
	Enabled               Enabled
	// Deflate: COMPRESS is on. The deflating itself is the proxy's.
	Deflate bool
	// Bads is how many commands in a row were malformed.
	Bads int
	// Waited is how long the client has been silent, in a session at rest; in milliseconds on the
	// wire.
	Waited   time.Duration
	Selected *Selected // nil: no mailbox is selected
	Saved    []mailbox.UIDRange
	Updates  *Updates // of the selected mailbox; nil: none
	Notify   *Notify  // nil: NOTIFY was not used
	UnderWay UnderWay
	// Pending is what the client has sent and was not executed: the command under way from its
	// first byte on, and what was read behind it.
	Pending []byte
}

// Enabled is a set of what ENABLE, or a command that implies it, has switched on.
type Enabled uint8

// What can be enabled.
const (
	Condstore Enabled = 1 << iota
	QResync
	UTF8
	Rev2
	UIDOnly
	Metadata

	// All is everything known here.
	All = Condstore | QResync | UTF8 | Rev2 | UIDOnly | Metadata
)

// UnderWay is how far the command came with which Pending begins.
type UnderWay struct {
	// Granted is how many continuation requests the client has had for it.
	Granted int
	// Answered: its tagged response was sent, and Pending begins behind what was read of it: Left
	// bytes of a literal, and then a line's rest, are to be passed over.
	Answered bool
	Left     int64
	// After is the last message that a FETCH has answered, 0: none; Lost: one up to it was gone.
	After mailbox.UID
	Lost  bool
}

// Selected is what the client knows of the selected folder.
type Selected struct {
	Name, ID    string // ID is its MAILBOXID
	UIDValidity uint32
	ReadOnly    bool
	// Dead: the session itself has deleted it.
	Dead bool
	// Told are the messages, in the order of their numbers.
	Told    []mailbox.UIDRange
	UIDNext mailbox.UID
	// Highest is HIGHESTMODSEQ as told: who asks what was expunged since then misses nothing.
	// Synced is that of the last look at the folder: the client knows the states of Told up to it,
	// but for those of Unsure.
	Highest, Synced uint64
	Unsure          []mailbox.UIDRange
	// Recent are those of Told that are \Recent in this session, Noted others that will be once
	// they are told.
	Recent, Noted []mailbox.UIDRange
	// Own are new messages that the session itself has put here, Unfetched are those of Told of
	// which NOTIFY's data items are still to be told.
	Own, Unfetched []mailbox.UIDRange
	// Keywords are those of the FLAGS response, sorted; Untold: one of them was not told yet.
	Keywords []string
	Untold   bool
}

// Updates are the searches that are kept up to date. Stale are messages that are to be looked at again.
type Updates struct {
	Stale []mailbox.UIDRange
	All   []Update
}

// Update is a search that is kept up to date: its keys as they are written in a command, and the
// messages that the client takes its result to be.
type Update struct {
	Tag   string
	ByUID bool
	Keys  string
	Hits  []mailbox.UIDRange
}

// Notify is what NOTIFY asked for, and what the client knows of the account. The events, filters
// and flags are numbers of package imap's.
type Notify struct {
	Selected uint8
	Delayed  bool
	// Fetch are the data items of new messages as they are written in a command, "": none.
	Fetch  string
	Groups []Group
	// Account has the account's metadata; nil: it was not looked at.
	Account []Entry
	Folders []Folder
}

// Group is an event group.
type Group struct {
	Filter, Events uint8
	Names          []string
}

// Entry is a metadata entry: its name and a hash of its value.
type Entry struct {
	Name string
	Hash uint64
}

// Folder is what the client knows of a folder that is not selected.
type Folder struct {
	Name  string
	Flags uint8
	ID    string
	// Counts: the numbers below were told.
	Counts                         bool
	UIDValidity, UIDNext, Messages uint32
	Unseen                         int64 // −1: not known
	ModSeq                         uint64
	// Metadata: nil: it was not looked at.
	Metadata []Entry
}
