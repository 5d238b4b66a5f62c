package admin

import "waypost/backend/control"

// Maildir is a mailbox of another server, on the machine of the new user's home.
type Maildir struct {
	// Path is absolute: the Maildir++ itself, or a home with Maildir in it.
	Path string `json:"path"`
	// Mode is what becomes of it; empty: copy.
	Mode control.AdoptMode `json:"mode,omitempty"`
	// POP3UIDL is the pop3_uidl_format of the Dovecot that served it; empty:
	// that server's default.
	POP3UIDL string `json:"pop3_uidl,omitempty"`
}
