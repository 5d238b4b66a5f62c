package mailbox

// OlderID is what another server, whose mailbox this was, called a message.
type OlderID struct {
	// Kept is a POP3 unique id that was written down for the message; mostly
	// empty.
	Kept string
	// GUID names the message for life, File is its file's name without flags,
	// as that server has them.
	GUID, File string
}

// OlderIDs is implemented by Folders of stores that other servers write, too.
type OlderIDs interface {
	// OlderIDs gives those of all messages.
	OlderIDs() (map[UID]OlderID, error)
}
