// Package mailbox is the contract between the protocols of a backend (LMTP,
// IMAP, POP3) and its store: what a mailbox is, without a word of Maildirs.
//
// Every handle is opened at the (user, epoch) that the front tier looked up.
// Each operation takes the user's lock and checks the fence there (R1): once
// the fence has left that epoch, every operation of the handle fails with
// ErrStale, ErrFrozen or ErrRefused, and Done is closed so that the session
// hands off, or says BYE. When the backend has closed the mailbox under the handle, it is
// ErrClosed, which means the same to a session. A write that returned nil is durable as its method promises; one
// that returned an error has changed nothing a client can see.
//
// backend/maildir is the implementation. Handles are safe for concurrent use.
package mailbox

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"waypost/backend/mime"
	"waypost/director"
)

// Errors a protocol turns into its own answers. ErrStale, ErrFrozen, ErrRefused,
// ErrClosed, ErrRenumbered, ErrAway, ErrMemory and ErrNoSpace are temporary, and so is
// every error that is none of these.
var (
	// ErrStale: the request's epoch is not the fence's. The sender re-reads
	// the directory.
	ErrStale = errors.New("stale: the user's home or epoch is another by now")
	// ErrFrozen: the user is being moved; wait for the directory to say active.
	ErrFrozen = errors.New("busy: the user is being moved")
	// ErrRefused: this backend cannot serve the user and must not guess.
	ErrRefused = errors.New("refused: the user cannot be served here now")
	// ErrClosed: the backend has closed the mailbox; end the session, the
	// client finds it again when it reconnects.
	ErrClosed = errors.New("mailbox closed")
	// ErrRenumbered: the folder has another UIDVALIDITY than in the handle's
	// last Snapshot, so that UIDs from there name other messages by now. Nothing
	// was done; end the session.
	ErrRenumbered = errors.New("the folder's messages were numbered anew")
	// ErrOverQuota: the write does not fit the user's quota.
	ErrOverQuota = errors.New("over quota")
	// ErrNoFolder: there is no such folder.
	ErrNoFolder = errors.New("no such folder")
	// ErrAway: the mailbox of another user, who shares the folder, is not served here
	// now: he is being moved. ErrNoFolder may be wrapped beside it.
	ErrAway = errors.New("the owner's mailbox is not served here now")
	// ErrFolderExists: there is such a folder already.
	ErrFolderExists = errors.New("folder exists already")
	// ErrTooManyFolders: the user has as many folders as are allowed.
	ErrTooManyFolders = errors.New("too many folders")
	// ErrBadName: a folder name that cannot be stored, or may not be changed.
	ErrBadName = errors.New("folder name not possible")
	// ErrNoMessage: the message has been expunged meanwhile.
	ErrNoMessage = errors.New("no such message")
	// ErrMemory: what a delivery assumed of the memory is not so any more.
	ErrMemory = errors.New("remembered meanwhile")
	// ErrNoSpace: the disk is full; temporary.
	ErrNoSpace = errors.New("no space on the disk")
	// ErrUse: a special use that the store does not take, or that another folder
	// has.
	ErrUse = errors.New("special use not possible")
	// ErrTooMuchMetadata: more metadata, or entries of an ACL, than a folder may
	// have, or one that is too long.
	ErrTooMuchMetadata = errors.New("too much metadata")
	// ErrBadRights: letters that are no rights of RFC 4314, or an identifier that
	// cannot be.
	ErrBadRights = errors.New("no such rights")
	// ErrReadOnly: the folder can be read only: an archive.
	ErrReadOnly = errors.New("read-only")
	// ErrNoRight: an ACL does not allow it.
	ErrNoRight = errors.New("no right")
)

// Store opens mailboxes. The backend implements it over fence and maildir.
type Store interface {
	// Open gives a handle for a user looked up at home, epoch. ErrStale,
	// ErrFrozen and ErrRefused as in the package comment. who names the
	// session for logs and lists. The caller must Close it.
	Open(ctx context.Context, u director.User, home director.BackendID, epoch director.Epoch) (Box, error)
	// Stage takes a message in, once, before it is known whose it will be, with
	// line ends made LF: a short one into memory, a long one to the disk, synced.
	// header is put in front (LF line ends; trace lines). max > 0 bounds the result
	// in bytes: ErrTooLarge beyond.
	Stage(ctx context.Context, header string, r io.Reader, max int64) (Staged, error)
}

// ErrTooLarge: a message over the limit.
var ErrTooLarge = errors.New("message too large")

// Staged is a message that has no place yet. Discard it always, when no
// delivery or append of it is under way any more. It can be delivered to any
// number of users, all at once; its bytes are written once.
type Staged interface {
	// Size is its size in bytes on the disk (LF), WireSize with CRLF.
	Size() int64
	WireSize() int64
	// Open reads it, as often as need be.
	Open() (Body, error)
	Discard()
}

// Delivery is a message on its way to one user, and all that is to become
// durable with it.
type Delivery struct {
	// ID is the mx's delivery id: delivering an id again is a no-op.
	ID string
	// Message is what Places take that have none of their own.
	Message Staged
	// Places are where copies go; none: the message is dropped (filtered,
	// redirected), and its id remembered all the same.
	Places []Place
	// Force skips the quota (the message was accepted by an mx before).
	Force bool
	// Outbound are messages that leave: redirects, replies, notices.
	Outbound []Outbound
	// Memories are remembered, each until its time.
	Memories []Memory
	// Assumes are keys that the plan took for not remembered. If one is by now,
	// nothing is done and the error is ErrMemory: plan again.
	Assumes []string
}

// Place is one copy of a delivered message.
type Place struct {
	// Folder is a name, or "" for INBOX. One that does not exist is made if
	// Create says so; otherwise the copy goes to INBOX.
	Folder string
	Create bool
	// Use is the special use that the folder gets if it is made for this, and no
	// other folder has it (RFC 8579, Section 5.1).
	Use   string
	Flags Flags
	// Message, if not nil, is the message as a filter has changed it.
	Message Staged
}

// Outbound is a message for the way out through an mx. Recipients are addresses
// without brackets; From may be empty (the null sender).
type Outbound struct {
	// ID tells it from all others, and is the same at a repetition.
	ID string
	// Kind is "redirect", "vacation", "notify", "reject" or "echo".
	Kind    string
	From    string
	To      []string
	Message Staged
	// UTF8: the addresses or the message need SMTPUTF8 (RFC 6531).
	UTF8 bool
}

// Memory is a fact that a filter wants to know again: that a correspondent has
// had a vacation reply, or a message was seen. Keys are at most 200 bytes.
type Memory struct {
	Key   string
	Until time.Time
}

// Box is one user's mailbox, opened at one epoch.
type Box interface {
	User() director.User
	// Done is closed when the fence has left the epoch or the backend stops:
	// hand off or say BYE, then Close.
	Done() <-chan struct{}
	Close()

	// Folders lists all folders, INBOX first, the rest by name. Reads names only.
	Folders() ([]FolderInfo, error)
	// CreateFolder makes a folder, with a special use (see ParseUse) or "":
	// ErrFolderExists, ErrBadName, ErrTooManyFolders, ErrUse. It is there with
	// its use, durably, or not at all.
	CreateFolder(name, use string) error
	// DeleteFolder removes a folder and its messages; INBOX cannot be.
	DeleteFolder(name string) error
	// RenameFolder renames a folder and its children, with all that is known of
	// them; INBOX's messages move into the new folder (RFC 9051, Section 6.3.6).
	RenameFolder(from, to string) error
	Subscribe(name string, on bool) error
	// Subscriptions may name folders that do not exist.
	Subscriptions() ([]string, error)
	// Folder opens a folder; ErrNoFolder.
	Folder(name string) (Folder, error)

	// Usage and Limit are the quota's; both read no message.
	Usage() (Usage, error)
	Limit() Limit
	// Fits tells whether one more message of size bytes is within the quota:
	// nil or ErrOverQuota.
	Fits(size int64) error

	// Deliver makes a Delivery durable as one step, and shows it to who has the
	// folders open. A second one of the same ID is a no-op that returns nil.
	// ErrOverQuota unless Force is set.
	Deliver(ctx context.Context, d Delivery) error
	// Remembers tells whether a Memory of that key was delivered and its time is
	// not over.
	Remembers(key string) (bool, error)
	// Append is IMAP's: into an existing folder, all messages or none, with rising
	// UIDs in the order given (RFC 3502). Durable in one step when it returns nil.
	Append(folder string, all []NewMessage) (AppendResult, error)

	// Metadata gives the entries of RFC 5464 that a folder has; folder "" has the
	// account's (server annotations). Names are in lower case, such as
	// "/private/comment". "/private/specialuse" is the special use. Never nil
	// without an error.
	Metadata(folder string) (map[string]string, error)
	// SetMetadata changes entries, all or none, durably; nil takes one away. Names
	// are taken in any case. ErrTooMuchMetadata beyond MaxMetadataEntries,
	// MaxMetadataName and MaxMetadataValue. "/private/specialuse" sets and clears
	// the special use (RFC 6154, Section 4): ErrUse.
	SetMetadata(folder string, change map[string]*string) error
	// ACL gives the entries of a folder's access control list (RFC 4314), without
	// the owner's own rights, which are implied. Never nil without an error.
	ACL(folder string) (ACL, error)
	// SetACL gives an identifier its rights, in place of those it had; "" removes
	// the entry. Durable. ErrBadRights, and ErrTooMuchMetadata beyond
	// MaxACLEntries.
	SetACL(folder, identifier string, r Rights) error
	// Rights are those of who opened the Box; the owner has AllRights.
	Rights(folder string) (Rights, error)
	// Namespaces lists where folders are, the personal one first (RFC 2342).
	Namespaces() []Namespace
	// Updates tells what changed in the account after the version since (0: all
	// that is known to have changed), and gives a channel that is closed at the
	// next change after that; who waits for it waits for Done as well. It knows of
	// what happens through this process, and within some seconds of what others do
	// to folders that are open, and may tell of changes that came to nothing. It
	// does not wait for the disk.
	Updates(since uint64) (Updates, <-chan struct{})
}

// Usage is what a mailbox holds; bytes as on disk (LF).
type Usage struct{ Bytes, Messages int64 }

// Limit is a quota; 0 is unlimited.
type Limit struct{ Bytes, Messages int64 }

// FolderInfo is a folder of a listing. Names are UTF-8, parts separated by
// Separator; "INBOX" is the inbox.
type FolderInfo struct {
	Name        string
	Subscribed  bool
	HasChildren bool
	// NoSelect: only a parent of others, without messages of its own.
	NoSelect bool
	// SpecialUse is what somebody has said that it is for, or what its name says (see
	// Uses): "\\Sent", "\\Drafts", "\\Trash", "\\Junk", "\\Archive", "\\Important" (RFC
	// 6154, RFC 8457), or "". No two folders have the same.
	SpecialUse string
}

// Separator stands between the parts of a folder name.
const Separator = '/'

// Inbox is the one folder that always exists.
const Inbox = "INBOX"

// UID is a message's number in a folder, never reused under one UIDVALIDITY.
type UID uint32

// System is a set of the system flags of RFC 9051, Section 2.3.2.
type System uint8

// The system flags.
const (
	Seen System = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// Flags are a message's flags. Keywords are sorted and without repetition.
type Flags struct {
	System   System
	Keywords []string
}

// Has reports whether all of s are set.
func (f Flags) Has(s System) bool { return f.System&s == s }

// Equal compares two sets.
func (f Flags) Equal(g Flags) bool {
	return f.System == g.System && slices.Equal(f.Keywords, g.Keywords)
}

// Message is what a listing knows of a message without opening it.
type Message struct {
	UID   UID
	Flags Flags
	// Size is the size in bytes on disk (LF), WireSize with CRLF: RFC822.SIZE
	// and POP3's octets.
	Size, WireSize int64
	// ModSeq is the mod-sequence of its last change (RFC 7162).
	ModSeq uint64
	// GUID names the message for life, over moves: POP3's UIDL where no older
	// one is kept.
	GUID string
	// Ref is the store's own: protocols leave it alone.
	Ref string
}

// Snapshot is a folder at one moment.
type Snapshot struct {
	// ID is the folder's MAILBOXID (RFC 8474): it stays over renames, and no other
	// folder has or had it; 1 to 255 of A-Z, a-z, 0-9, "_" and "-".
	ID            string
	UIDValidity   uint32
	UIDNext       UID
	HighestModSeq uint64
	Messages      Messages
	// Recent are the messages, rising, that no Snapshot of any handle has shown
	// before this one.
	Recent []UID
	// Unseen counts messages without Seen.
	Unseen int
	// Keywords are those that the messages have, sorted, and maybe some that messages had. The
	// slice is shared: nobody writes to it.
	Keywords []string
	// Version differs whenever anything else in the snapshot but Recent does.
	Version uint64
}

// Meta is what a folder's index knows of a message's contents.
type Meta struct {
	// Arrived is the internal date.
	Arrived time.Time
	// Root is the structure, with byte offsets in the message as Body gives it.
	Root *mime.Part
	// Fields are the header fields that lists and searches ask for (see package
	// index), in the order of the header, values unfolded and otherwise raw.
	Fields []mime.Field
	// Preview is the beginning of the text (RFC 8970), at most 200 characters.
	Preview string
	// Attachment marks a message with a part that is to be saved and not read.
	Attachment bool
}

// Status is Snapshot without the messages.
type Status struct {
	// ID is Snapshot's.
	ID                       string
	UIDValidity              uint32
	UIDNext                  UID
	HighestModSeq            uint64
	Messages, Unseen, Recent int
	Deleted                  int
	// Bytes is the sum of wire sizes, DeletedBytes that of messages with Deleted.
	Bytes, DeletedBytes int64
}

// FlagOp says how SetFlags changes flags.
type FlagOp int

// The three forms of STORE.
const (
	FlagsSet FlagOp = iota
	FlagsAdd
	FlagsRemove
)

// FlagChange is what SetFlags does.
type FlagChange struct {
	Op    FlagOp
	Flags Flags
	// Conditional leaves alone, and tells apart, messages whose ModSeq is above
	// UnchangedSince (RFC 7162, Section 3.1.3). It is decided under the lock,
	// message by message.
	Conditional    bool
	UnchangedSince uint64
}

// FlagResult is what SetFlags did.
type FlagResult struct {
	// Changed are the messages that are there and were not refused, as they are
	// now, also where that is as before.
	Changed []Message
	// Modified are those that were refused, rising.
	Modified []UID
}

// UIDRange is the UIDs from First to Last, both included.
type UIDRange struct{ First, Last UID }

// Folder is an open folder. All that takes UIDs fails with ErrRenumbered, and
// does nothing, when the UIDVALIDITY is another than in the last Snapshot of this
// handle; a handle that has had none takes UIDs as they are now.
type Folder interface {
	Name() string
	// Snapshot brings the folder up to date with the disk and gives it. New
	// messages have their UIDs durably before it returns. It is cheap when
	// nothing changed.
	Snapshot() (Snapshot, error)
	// Peek is Snapshot for who only looks: what is Recent stays so (RFC 3501, Section 6.3.2).
	Peek() (Snapshot, error)
	Status() (Status, error)
	// Changed gives a channel that is closed at the next change after version,
	// made by this process or, within some seconds, by others; at once if the
	// folder is past version already.
	Changed(version uint64) <-chan struct{}
	// InternalDate is when the message arrived.
	InternalDate(uid UID) (time.Time, error)
	// Meta is what is known of a message's contents: from the index, or, the
	// first time, by reading the message once. ErrNoMessage. It is shared: nobody
	// writes to it.
	Meta(uid UID) (*Meta, error)
	// Open opens a message's bytes. They stay readable, whatever happens to the
	// message, until Close. ErrNoMessage.
	Open(uid UID) (Body, error)
	// SaveDate is when the message came into the folder (RFC 8514), in whole
	// seconds; zero if that is not known. ErrNoMessage.
	SaveDate(uid UID) (time.Time, error)
	// EmailID names the message's content (RFC 8474): Copy and Move keep it; as
	// Snapshot.ID in form. ErrNoMessage.
	EmailID(uid UID) (string, error)
	// SetFlags changes flags; vanished messages are left out. Where flags stay as
	// they were the mod-sequence does, too. Durable when it returns nil.
	SetFlags(uids []UID, c FlagChange) (FlagResult, error)
	// ExpungedSince gives the UIDs that were expunged after modSeq, rising (RFC
	// 7162). If they are not complete there were more, of which nothing is known
	// but that they are not in the folder.
	ExpungedSince(modSeq uint64) (uids []UIDRange, complete bool, err error)
	// Expunge removes messages and returns those that were there. Durable.
	Expunge(uids []UID) ([]UID, error)
	// ExpungeDeleted is Expunge for those of uids that have Deleted at that very
	// moment: who took the flag away in time keeps the message.
	ExpungeDeleted(uids []UID) ([]UID, error)
	// Copy copies into an existing folder of the same user, all or none, and
	// returns the pairs in order. Move removes them here as well. Flags, the
	// internal date and EmailID go along.
	Copy(uids []UID, to string) (CopyResult, error)
	Move(uids []UID, to string) (CopyResult, error)
}

// CopyResult pairs Source[i] with Dest[i] (UIDPLUS).
type CopyResult struct {
	UIDValidity  uint32
	Source, Dest []UID
}

// Body reads a message with CRLF line ends. Seek goes to a byte of those that
// Read gives; it may have to read up to there.
type Body interface {
	io.ReadSeekCloser
	// WireSize is the number of bytes Read will give in all.
	WireSize() int64
}
