package imap

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"waypost/backend/imap/fetch"
	"waypost/backend/mailbox"
)

// Bounds of a NOTIFY. What is beyond is refused with NOTIFICATIONOVERFLOW (RFC 5465, Section
// 3.1), or ends the notifications with it (Section 5.8).
const (
	maxGroups = 64     // event groups in one command
	maxNames  = 2000   // mailbox names in them
	maxKnown  = 20_000 // folders that are remembered: some 100 bytes each
	maxNoted  = 1000   // folders whose metadata is watched: they are read whenever the listing changes
	// maxIDs is of how many folders the MAILBOXID is remembered, by which a rename is told from
	// a new folder; it must be read from each. Renames of others are told as what they look
	// like: one folder gone, one new.
	maxIDs = 1000
)

// event is a set of the events of RFC 5465, Section 5.
type event uint8

const (
	messageNew event = 1 << iota
	messageExpunge
	flagChange
	mailboxName
	subscriptionChange
	mailboxMetadata
	serverMetadata

	messageEvents = messageNew | messageExpunge | flagChange
)

// eventBit gives the event of a name in upper case, or 0. There is no AnnotationChange.
func eventBit(name string) event {
	switch name {
	case "MESSAGENEW":
		return messageNew
	case "MESSAGEEXPUNGE":
		return messageExpunge
	case "FLAGCHANGE":
		return flagChange
	case "MAILBOXNAME":
		return mailboxName
	case "SUBSCRIPTIONCHANGE":
		return subscriptionChange
	case "MAILBOXMETADATACHANGE":
		return mailboxMetadata
	case "SERVERMETADATACHANGE":
		return serverMetadata
	}
	return 0
}

// badEvent names all events that there are (RFC 5465, Section 3.1).
const badEvent = "BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange" +
	" MailboxMetadataChange ServerMetadataChange)"

// filter says which folders a group is about (RFC 5465, Section 6).
type filter uint8

const (
	filterPersonal filter = iota // also "inboxes": a filter may deliver into any folder (Section 6.3)
	filterSubscribed
	filterSubtree
	filterMailboxes
)

// group is an event group for folders that are not selected.
type group struct {
	filter filter
	names  map[string]struct{} // of subtree and mailboxes
	events event
}

// notify is what a session is notified of (RFC 5465). The session's lock guards it; its nil
// value is that of a session that has not used NOTIFY. What the client knows of each folder is
// kept, and compared with what there is: nothing is queued for a client that is slow, and a
// folder that changes often is told of once.
type notify struct {
	// selected are the events told of the selected folder, delayed that messages that are gone
	// are only told in a command; fetch is asked of new messages, or nil.
	selected event
	delayed  bool
	fetch    *fetch.Request
	idling   bool // an IDLE runs

	groups []group
	all    event // of all groups
	// others are the prefixes of what is not the user's own.
	others []string

	since   uint64 // the version of the account's last change that was looked at
	relist  bool   // the listing is to be looked at
	pending map[string]struct{}
	folders map[string]*known
	account map[string]uint64 // the account's metadata, as known.metadata
	ids     int               // how many of folders have an id
	touched bool              // what a state has of it is another than in the last checkpoint, perhaps
	pass    uint64            // counts looks at the listing; folders that are not there stay behind
}

// known is what the client knows of a folder that is not selected.
type known struct {
	// exists: it can be listed; access: and read. refused: that it cannot was told.
	exists, access, refused bool
	subscribed              bool
	// own: the session made it itself.
	own bool
	// counted: counts are what was told last.
	counted bool
	counts  counts
	id      string
	// metadata has the hashes of the entries' values; nil: not looked at.
	metadata map[string]uint64
	pass     uint64
}

// counts are a STATUS. unseen is −1 where it is not known.
type counts struct {
	uidValidity, uidNext uint32
	messages, unseen     int
	modSeq               uint64
}

func countsOf(st mailbox.Status) counts {
	return counts{st.UIDValidity, uint32(st.UIDNext), st.Messages, st.Unseen, st.HighestModSeq}
}

// matches reports that the group is about a folder of that name.
func (g *group) matches(n *notify, name string, subscribed bool) bool {
	switch g.filter {
	case filterPersonal:
		return n.personal(name)
	case filterSubscribed:
		return subscribed
	}
	for {
		if _, ok := g.names[name]; ok {
			return true
		}
		i := strings.LastIndexByte(name, mailbox.Separator)
		if g.filter == filterMailboxes || i < 0 {
			return false
		}
		name = name[:i]
	}
}

func (n *notify) personal(name string) bool {
	for _, prefix := range n.others {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// events are those that the client wants of a folder.
func (n *notify) events(name string, subscribed bool) event {
	var all event
	for i := range n.groups {
		if g := &n.groups[i]; all|g.events != all && g.matches(n, name, subscribed) {
			all |= g.events
		}
	}
	return all
}

// concerned reports that a folder of that name could be of interest at some time.
func (n *notify) concerned(name string) bool { return n.events(name, true)&^serverMetadata != 0 }

// telling is what of the selected folder's news may be told.
type telling struct{ fresh, flags, expunged bool }

// telling gives what NOTIFY leaves of the news; expunge: the moment allows it to tell what is
// gone (RFC 9051, Section 7.5.1).
func (n *notify) telling(expunge bool) telling {
	if n == nil {
		return telling{true, true, expunge}
	}
	return telling{n.selected&messageNew != 0, n.selected&flagChange != 0, n.selected&messageExpunge != 0 && expunge}
}

// fetches reports that new messages are told with data items.
func (n *notify) fetches() bool { return n != nil && n.fetch != nil }

// created notes that the session itself made a folder (RFC 5465, Section 5: nobody is notified
// of what he does himself).
func (n *notify) created(name string) {
	if n != nil && n.folders != nil && n.concerned(name) && n.folders[name] == nil {
		n.touched = true
		n.folders[name] = &known{exists: true, access: true, own: true}
	}
}

// deleted notes that the session itself deleted a folder.
func (n *notify) deleted(name string) {
	if n != nil && n.folders != nil {
		n.forget(name)
	}
}

// renamed notes that the session itself renamed a folder and those below it.
func (n *notify) renamed(from, to string) {
	if n == nil || n.folders == nil {
		return
	}
	if from == mailbox.Inbox {
		n.created(to)
		return
	}
	n.touched = true
	moved := make(map[string]*known)
	for name, w := range n.folders {
		if rest, ok := below(name, from); ok && w.exists {
			moved[to+rest] = w
			delete(n.folders, name)
			if w.subscribed {
				// The store decides whether the subscription goes along.
				n.folders[name] = &known{subscribed: true, own: true}
			}
		}
	}
	for name, w := range moved {
		if n.concerned(name) {
			w.own = true
			n.folders[name] = w
		} else {
			n.forgetID(w)
		}
	}
	n.created(to)
}

// below gives what name has behind top, "" for top itself, if it is that or is below it.
func below(name, top string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, top)
	return rest, ok && (rest == "" || rest[0] == mailbox.Separator)
}

func (n *notify) forget(name string) {
	n.touched = true
	if w := n.folders[name]; w != nil {
		n.forgetID(w)
	}
	delete(n.folders, name)
}

func (n *notify) forgetID(w *known) {
	if w.id != "" {
		w.id = ""
		n.ids--
	}
}

// subscribed notes the session's own SUBSCRIBE or UNSUBSCRIBE.
func (n *notify) subscribed(name string, on bool) {
	if n == nil || n.folders == nil || !n.concerned(name) {
		return
	}
	n.touched = true
	w := n.folders[name]
	switch {
	case w != nil:
		w.subscribed = on
	case on:
		n.folders[name] = &known{subscribed: true}
	}
}

// annotated notes the session's own SETMETADATA.
func (n *notify) annotated(name string, change map[string]*string) {
	if n == nil {
		return
	}
	all := n.account
	if name != "" {
		all = nil
		if w := n.folders[name]; w != nil {
			all = w.metadata
		}
	}
	if all == nil {
		return
	}
	n.touched = true
	for entry, value := range change {
		delete(all, entry)
		if value != nil && (entry != mailbox.UseEntry || *value != "") {
			all[entry] = hashOf(*value)
		}
	}
}

// hashOf tells values of metadata apart, alike wherever the session goes on.
func hashOf(value string) uint64 {
	sum := sha256.Sum256([]byte(value))
	return binary.BigEndian.Uint64(sum[:])
}

// kept gives what undoes a look at the folders that fails: what it has found is found again by the
// next one, and told then.
func (n *notify) kept() (undo func()) {
	folders, account, ids := make(map[string]known, len(n.folders)), n.account, n.ids
	for name, w := range n.folders {
		folders[name] = *w
	}
	return func() {
		n.account, n.ids = account, ids
		clear(n.folders)
		for name, w := range folders {
			n.folders[name] = &w
		}
	}
}

// added notes messages that the session itself put into another folder. If others came in
// between, the numbers do not fit, and the client is told.
func (n *notify) added(name string, uids []mailbox.UID) {
	if n == nil || len(uids) == 0 {
		return
	}
	w := n.folders[name]
	if w == nil || !w.counted || uint32(uids[0]) != w.counts.uidNext || int(uids[len(uids)-1]-uids[0])+1 != len(uids) {
		return
	}
	n.touched = true
	w.counts.uidNext += uint32(len(uids))
	w.counts.messages += len(uids)
}

// left notes that a folder is selected no more, and what the client knew of it: from here on it
// is told of it as of others.
func (n *notify) left(v *view) {
	if n == nil || v.dead {
		return
	}
	if w := n.folders[v.name]; w != nil {
		n.touched = true
		w.counted = true
		w.counts = counts{v.uidValidity, uint32(v.uidNext), v.told.Len(), -1, v.highest}
		n.pending[v.name] = struct{}{}
	}
}
