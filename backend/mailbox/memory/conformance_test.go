package memory

import (
	"testing"

	"waypost/backend/mailbox/mailboxtest"
)

func TestConformance(t *testing.T) {
	mailboxtest.Run(t, func(t *testing.T) mailboxtest.Fixture {
		s := New()
		s.Serve(user1, "b1", 1)
		return mailboxtest.Fixture{Box: open(t, s, 1), Stage: s.Stage}
	})
}
