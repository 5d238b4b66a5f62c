package lmtp

import (
	"context"

	"waypost/backend/mailbox"
)

// Filter decides what becomes of a message: a user's scripts, replies and
// forwards.
type Filter interface {
	// MayReject tells at RCPT whether Run may reject a message for the user of
	// box. The mx gives such a recipient a transaction of its own, so that the
	// rejection is said in the session and never bounced.
	MayReject(box mailbox.Box) bool
	// Run plans a delivery; its ID, Message and Force are set by the caller. It
	// must not fail for what a user's script does. An error is temporary.
	Run(ctx context.Context, in Incoming) (Plan, error)
}

// Incoming is a message for one recipient.
type Incoming struct {
	Box mailbox.Box
	// ID is the delivery id, From and To the envelope as it came: To with its
	// subaddress.
	ID, From, To string
	// Folder is what the subaddress asks for, "" for none.
	Folder  string
	Message mailbox.Staged
	// Accepted says that the message cannot be rejected in the session any more:
	// an mx has said 250 for it, or the user is one of several of an address.
	Accepted bool
	UTF8     bool
}

// Plan is what is to be done.
type Plan struct {
	mailbox.Delivery
	// Reject, if not empty, is why the message is refused; nothing else counts.
	Reject string
	// Discard gives back what the plan has staged; may be nil.
	Discard func()
}

// keepAll is the plan without a filter.
func keepAll(in Incoming) Plan {
	return Plan{Delivery: mailbox.Delivery{Places: []mailbox.Place{{Folder: in.Folder}}}}
}
