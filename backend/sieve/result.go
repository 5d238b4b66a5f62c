package sieve

import (
	"slices"
	"time"
)

// inbox is the folder of keep.
const inbox = "INBOX"

// Action is something to be done with the message: *Keep, *FileInto,
// *Redirect, *Discard, *Reject, *Vacation or *Notify.
type Action interface{ isAction() }

type (
	// Keep files the message into INBOX.
	Keep struct {
		Flags    []string // IMAP flags and keywords, each once
		Header   *Header  // the edited header; nil if it is as it came
		Implicit bool     // no script said so
	}
	// FileInto files it into another folder, named in UTF-8 as scripts name it.
	FileInto struct {
		Folder string
		// Create asks for a folder that does not exist to be made, with SpecialUse
		// if that is set. Without it, or if that fails, INBOX takes the message.
		Create     bool
		SpecialUse string
		Flags      []string
		Header     *Header
		Copy       bool // ":copy" was given: for the log
	}
	// Redirect sends it on, with the sender it came with. Loops are the caller's
	// matter: mark what is sent, and do not send on what bears the mark.
	Redirect struct {
		Address string
		Header  *Header
		Copy    bool
	}
	// Discard is the only action where nothing else is to be done: the message
	// is thrown away silently.
	Discard struct{}
	// Reject refuses it. Extended is ereject: rather with an SMTP or LMTP reply
	// than with a message. The one before may need a message (an MDN) if the
	// reason is not ASCII.
	Reject struct {
		Reason   string
		Extended bool
	}
	// Vacation answers it. The envelope sender of the reply is null.
	Vacation struct {
		To, From   string // From may have a display name
		Subject    string // UTF-8, not encoded
		Reason     string // text, or with MIME a whole MIME entity
		MIME       bool
		Handle     string // names the reply in logs; may be empty
		InReplyTo  string
		References string
	}
	// Notify tells somebody of it by mail.
	Notify struct {
		From       string   // author, may have a display name
		To         []string // envelope recipients
		HeaderTo   []string
		HeaderCc   []string
		Importance byte // '1' high, '2' normal, '3' low
		Subject    string
		Body       string
		Fields     []Field // further header fields from the URI, values not encoded
		References string  // Message-ID of what came
		Owner      string  // the address of the script's owner
		NullSender bool    // the envelope sender must be null (RFC 5436, Section 2.7)
	}
)

func (*Keep) isAction()     {}
func (*FileInto) isAction() {}
func (*Redirect) isAction() {}
func (*Discard) isAction()  {}
func (*Reject) isAction()   {}
func (*Vacation) isAction() {}
func (*Notify) isAction()   {}

// Memory is a key to be remembered until a time, once the actions are done.
type Memory struct {
	Key   string // at most 80 bytes of ASCII
	Until time.Time
}

// Result is what is to be done. Actions are in the order the scripts gave
// them, at most one per folder and per address, and never none.
type Result struct {
	Actions  []Action
	Memories []Memory
	// Failed tells that a script failed: what it asked for is left out, and the
	// message kept.
	Failed bool
	// Steps is how much work it was, as Limits.Steps counts.
	Steps int
}

// Keeps reports whether the message is filed anywhere.
func (r *Result) Keeps() bool {
	return slices.ContainsFunc(r.Actions, func(a Action) bool {
		switch a.(type) {
		case *Keep, *FileInto:
			return true
		}
		return false
	})
}
