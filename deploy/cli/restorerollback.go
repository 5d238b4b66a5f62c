package cli

import (
	"fmt"
	"io"
	"log/slog"

	"waypost/backend"
)

// acceptRollback is repair --accept-rollback.
func (a *app) acceptRollback(data string, out *output) error {
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	did, err := backend.AcceptRollback(data, log)
	if err != nil {
		return err
	}
	return out.show(did, func(w io.Writer) {
		fmt.Fprintf(w, "the disk is of %s; %d mailboxes were made fit to be served, %d records of the journal were replayed\n", when(did.Taken), len(did.Users), did.Journal.Records)
		fmt.Fprintln(w, "Start the backend, then run: waypost check. Users without a mailbox there: waypost restore")
	})
}
