package control

import (
	"context"

	"waypost/director"
)

// PathAdopt (AdoptRequest → stream of PullProgress, the last with Done): R12,
// from the director: take over a Maildir that another server has left on this
// machine. It becomes staging, sealed at Epoch, that is adopted when the record
// is published. Asked again once the record names this backend, it tells
// whether the mailbox is that Maildir, and ends what a move leaves to be done.
const PathAdopt = "/v1/adopt"

// AdoptMode says what becomes of the Maildir that is taken over. In each mode it
// is untouched until the record is published.
type AdoptMode string

const (
	// AdoptCopy leaves it as it is.
	AdoptCopy AdoptMode = "copy"
	// AdoptLink shares the messages' files with it, and copies the rest. Both
	// must lie on one file system.
	AdoptLink AdoptMode = "link"
	// AdoptMove is AdoptLink, and removes it after the record is published.
	AdoptMove AdoptMode = "move"
)

// Valid tells whether m is one of the above.
func (m AdoptMode) Valid() bool { return m == AdoptCopy || m == AdoptLink || m == AdoptMove }

// AdoptRequest asks for a new user's mailbox, made of a Maildir.
type AdoptRequest struct {
	User  director.User  `json:"user"`
	Epoch director.Epoch `json:"epoch"` // the tombstone's, 0 without one
	// Path is absolute: the Maildir++ itself, or a home with Maildir in it.
	Path string    `json:"path"`
	Mode AdoptMode `json:"mode"`
	// POP3UIDL is the other server's form of unique ids, in the language of
	// Dovecot's pop3_uidl_format; empty: that server's default.
	POP3UIDL string `json:"pop3_uidl"`
}

// Adopt calls PathAdopt, and progress with each report, the last included.
func (c *Client) Adopt(ctx context.Context, req AdoptRequest, progress func(PullProgress)) (PullProgress, error) {
	return c.watched(ctx, PathAdopt, req, progress)
}
