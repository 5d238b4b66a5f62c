package pop3

import (
	"errors"
	"fmt"
	"testing"

	"waypost/backend/mailbox"
)

// TestRenumberedInboxIsLeftAlone: the session's UIDs name other messages by now.
func TestRenumberedInboxIsLeftAlone(t *testing.T) {
	for _, command := range []string{"RETR 1", "TOP 1 0", "QUIT"} {
		t.Run(command, func(t *testing.T) {
			store := drop(t, m1, m2)
			box := open(t, store, 7)
			d := serve(t, Options{}, box)
			d.Play("C: DELE 2\nS: +OK message 2 deleted\n")
			store.Renumber(ann, mailbox.Inbox)
			d.Play("C: " + command + "\nEOF")
			if err := d.end(); !errors.Is(err, ErrMoved) || !errors.Is(err, mailbox.ErrRenumbered) {
				t.Error(err)
			}
			if got := inbox(t, box); got != "A: one B: two" {
				t.Error(got)
			}
		})
	}
}

func TestClosedMailboxEndsTheSession(t *testing.T) {
	for _, command := range []string{"RETR 1", "QUIT"} {
		t.Run(command, func(t *testing.T) {
			store := drop(t, m1, m2)
			d := serve(t, Options{}, open(t, store, 7))
			d.Play("C: DELE 2\nS: +OK message 2 deleted\n")
			store.Fail(ann, fmt.Errorf("%s: %w", ann, mailbox.ErrClosed))
			d.Play("C: " + command + "\nEOF")
			if err := d.end(); !errors.Is(err, ErrMoved) {
				t.Error(err)
			}
		})
	}
}
