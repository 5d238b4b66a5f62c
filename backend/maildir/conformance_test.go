package maildir

import (
	"context"
	"io"
	"testing"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/mailboxtest"
)

func TestConformance(t *testing.T) {
	mailboxtest.Run(t, func(t *testing.T) mailboxtest.Fixture {
		s := newSetup(t, nil)
		return mailboxtest.Fixture{Box: s.b, Stage: s.stager.Stage, Reopen: func() mailbox.Box { s.reopen(); return s.b }}
	})
}

// TestConformanceReplayed is TestConformance with a crash of the machine wherever a
// mailbox is opened anew, with all on the disk and all in the journal.
func TestConformanceReplayed(t *testing.T) {
	mailboxtest.Run(t, func(t *testing.T) mailboxtest.Fixture {
		s := newSetup(t, nil)
		return mailboxtest.Fixture{
			Crashes: true, Box: s.b,
			Stage: func(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
				return s.stager.Stage(ctx, header, r, max)
			},
			Reopen: func() mailbox.Box { s.powerless(func() {}); return s.b },
		}
	})
}
