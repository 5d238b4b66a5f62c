package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"waypost/backend"
	"waypost/backend/control"
	wal "waypost/backend/journal"
	"waypost/director"
	"waypost/director/admin"
)

func (a *app) repairCmd() *cobra.Command {
	var offline, salvage, deep, rollback bool
	c := &cobra.Command{
		Use:   "repair USER | --journal --data DIR | --accept-rollback --data DIR",
		Short: "Mend what is derived: quota, uidlist, state, index; or replay a journal",
		Long: `Mend what is derived in a user's mailbox: the quota is counted, the uidlist is
rebuilt with every UID that is legible (else under a new UIDVALIDITY), the index is
dropped and made anew, a folder's state that is not legible is distrusted, the
keywords file is written anew, litter is removed. No message is touched, nor its
name. It says what it did, and what it leaves. A fence that contradicts the
directory, and a user on two backends, are refused: those need a human. The user's
sessions end with BYE.

With --journal, on the machine of a backend that is stopped: replay the journal in
its data folder into the mailboxes, as the backend's start would, and leave it
empty. A damaged journal is left as it is and told; with --salvage what is not
legible is skipped, and which records and users that may affect is told. Messages
that were answered with 250 may be among them.

With --accept-rollback, on the machine of a backend that does not start because its
disk is older than the directory's memory of it (an image was restored): accept that
what came after it is lost. The journal is replayed, and each mailbox is made fit to
be served: UIDNEXT and HIGHESTMODSEQ jump ahead. Then start the backend: it lets go
of users who had moved away since, and refuses those who had moved to it, who are
restored with waypost restore.`,
		Example: `  waypost repair alice@example.test
  waypost repair alice@example.test --deep --json
  waypost repair --journal --data /var/lib/waypost/backend-b1
  waypost repair --journal --data /var/lib/waypost/backend-b1 --salvage
  waypost repair --accept-rollback --data /var/lib/waypost/backend-b1`,
		Args: upToOne(wantUser),
	}
	c.Flags().BoolVar(&deep, "deep", false, "read the contents of messages, too")
	c.Flags().BoolVar(&offline, "journal", false, "replay the journal of the stopped backend whose data folder is --data")
	c.Flags().BoolVar(&salvage, "salvage", false, "skip what of the journal is not legible")
	c.Flags().BoolVar(&rollback, "accept-rollback", false, "accept the older disk of the stopped backend whose data folder is --data")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case rollback && (len(args) > 0 || deep || offline || salvage):
			return usagef("--accept-rollback is about a whole backend, and goes with --data only")
		case rollback && conn.data == "":
			return usagef("say the backend's data folder with --data DIR")
		case rollback:
			return a.acceptRollback(conn.data, out)
		case offline && (len(args) > 0 || deep):
			return usagef("--journal is about a whole backend: say no user, and no --deep")
		case offline && conn.data == "":
			return usagef("say the backend's data folder with --data DIR")
		case offline:
			return a.repairJournal(conn.data, salvage, out)
		case salvage:
			return usagef("--salvage goes with --journal")
		case len(args) == 0:
			return usagef("say %s, or --journal", wantUser)
		}
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error { return a.repair(c.Context(), client, u, deep, out) })
	}
	return c
}

// repaired is what repair prints in JSON.
type repaired struct {
	User     director.User     `json:"user"`
	Steps    []control.Step    `json:"steps"`
	Left     int               `json:"left"`
	NotAsked []admin.NodeError `json:"not_asked"`
}

func (a *app) repair(ctx context.Context, client *admin.Client, u director.User, deep bool, out *output) error {
	did := repaired{User: u, Steps: []control.Step{}, NotAsked: []admin.NodeError{}}
	err := client.Repair(ctx, u, deep, func(l admin.CheckLine) error {
		switch {
		case l.Step != nil:
			did.Steps = append(did.Steps, *l.Step)
			if l.Step.Left {
				did.Left++
			}
			if !out.json {
				_, err := fmt.Fprintln(out.w, stepText(u, *l.Step))
				return err
			}
		case l.Missing != nil:
			did.NotAsked = append(did.NotAsked, *l.Missing)
			a.warn("%s could not be asked whether it has the user, too: %s", l.Missing.Node, oneLine(l.Missing.Text))
		}
		return nil
	})
	if out.json && (err == nil || len(did.Steps) > 0) {
		b, jsonErr := json.MarshalIndent(did, "", "  ")
		if jsonErr == nil {
			_, jsonErr = fmt.Fprintf(out.w, "%s\n", b)
		}
		if jsonErr != nil {
			return jsonErr
		}
	}
	if err != nil {
		return err
	}
	if did.Left > 0 {
		return errTold
	}
	return nil
}

func stepText(u director.User, s control.Step) string {
	text := string(u) + "  "
	if s.Folder != "" {
		text += s.Folder + "  "
	}
	if s.Left {
		text += "LEFT: "
	}
	return text + oneLine(s.Text)
}

func (a *app) repairJournal(data string, salvage bool, out *output) error {
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	did, err := backend.RepairJournal(data, salvage, log)
	if err != nil {
		if !salvage && (errors.Is(err, wal.ErrCorrupt) || errors.Is(err, wal.ErrForeign)) {
			err = fmt.Errorf("%w; the journal is as it was; keep a copy of it, then --salvage skips what is not legible", err)
		}
		return err
	}
	if err := out.show(did, func(w io.Writer) { writeJournal(w, did) }); err != nil {
		return err
	}
	if len(did.Losses)+len(did.Failed) > 0 {
		return errTold
	}
	return nil
}

func writeJournal(w io.Writer, did backend.JournalRepair) {
	fmt.Fprintf(w, "replayed %d records of %d users; %d records of other epochs were left out; the journal is empty\n", did.Records, len(did.Users), did.OfOtherEpochs)
	for _, l := range did.Losses {
		fmt.Fprintf(w, "LOST: %s, from byte %d: %s: %s\n", l.File, l.Offset, lostRecords(l), oneLine(l.Reason))
	}
	for _, f := range did.Failed {
		fmt.Fprintf(w, "NOT WHOLE: %s: %s\n", f.User, oneLine(f.Text))
	}
	if len(did.Losses) == 0 {
		return
	}
	for _, u := range did.Affected {
		fmt.Fprintf(w, "MAY BE AFFECTED: %s: records of this user follow what is lost\n", u)
	}
	fmt.Fprintf(w, "Any of the %d users served here may have lost what was done in the last seconds before the stop and had not reached the files. Start the backend and run: waypost check\n", did.Served)
}

func lostRecords(l backend.JournalLoss) string {
	switch {
	case l.First == 0:
		return "records that are not known"
	case l.Last == 0:
		return fmt.Sprintf("all records from %d on", l.First)
	}
	return fmt.Sprintf("records %d to %d", l.First, l.Last)
}
