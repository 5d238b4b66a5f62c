package imap

// ending is why a session ends.
type ending int

const (
	endNone      ending = iota
	endLogout           // the client said LOGOUT
	endGone             // the client is gone
	endMoving           // the mailbox is not served here any more, at this epoch
	endStopping         // the backend stops; until then it serves: see Options.Stops
	endIdle             // nothing came for too long
	endBug              // the client sends what are no commands
	endTooBig           // the client sends more than is read for nothing
	endFolder           // the selected folder is gone, or another one by its name
	endIO               // a message could not be read to its end
	endHandedOff        // the session goes on elsewhere
	endKicked           // an operator has ended it
)

// String is the metrics' and the log's word.
func (e ending) String() string {
	return [...]string{
		"none", "logout", "client_gone", "moving", "stopping", "idle", "client_bug", "too_big",
		"folder_gone", "io_error", "handed_off", "kicked",
	}[e]
}

// bye is the BYE's text with its response code (RFC 5530, Section 3).
func (e ending) bye() string {
	switch e {
	case endLogout:
		return "logging out"
	case endMoving:
		return "[UNAVAILABLE] mailbox is moving, please reconnect"
	case endIdle:
		return "Autologout; idle for too long"
	case endBug:
		return "[CLIENTBUG] too many malformed commands, closing the connection"
	case endTooBig:
		return "[TOOBIG] the command is too long, closing the connection"
	case endKicked:
		return "[UNAVAILABLE] the session was ended, please reconnect"
	case endFolder:
		return "[UNAVAILABLE] the selected mailbox was deleted or replaced, please reconnect"
	}
	return "[UNAVAILABLE] server is shutting down, please reconnect"
}
