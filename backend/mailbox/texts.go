package mailbox

import "context"

// TextIndex knows in which messages of a user a string may be, for less than reading them
// all. It is derived: what it gives is verified by who asks.
type TextIndex interface {
	// Candidates gives UIDs, rising: at least all of those messages, which are of the folder,
	// in which needle may be found (body: without headers), as package imap/search has it;
	// needle is prepared by collate.Key. ok is false where the index cannot tell. It may use a
	// moment to take in messages that it does not have yet.
	Candidates(ctx context.Context, f Folder, all Messages, needle string, body bool) (uids []UID, ok bool)
}
