package dovecot

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"waypost/internal/bench"
)

// fill puts n read messages into a user's INBOX as Dovecot itself would have
// named them, with LF, for it to take up at the first login.
func (c settings) fill(user string, n int) error {
	box := filepath.Join(c.dir, "mail", user, "Maildir")
	for _, f := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(box, f), 0o700); err != nil {
			return err
		}
	}
	now := time.Now().Unix()
	text, wire := bench.StoredMessage()
	for i := range n {
		name := fmt.Sprintf("%d.M%dP1.bench,S=%d,W=%d:2,S", now, i, len(text), wire)
		if err := os.WriteFile(filepath.Join(box, "cur", name), text, 0o600); err != nil {
			return err
		}
	}
	return c.own(box)
}
