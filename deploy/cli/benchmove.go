package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"waypost/internal/bench/move"
)

func (a *app) benchMoveCmd() *cobra.Command {
	var f benchFlags
	var s move.Suite
	var names []string
	c := &cobra.Command{
		Use:   "move",
		Short: "Measure moves of users, beside doveadm backup and rsync",
		Long: `Measure how long it takes to bring a user's mail from one backend to another: a
first pass, one with nothing changed, one after 100 changes; and how long the
user is busy, from the freeze to the seal, under light load. Beside it
"doveadm backup" over TCP between two Dovecots, and "rsync -a" to a daemon, as far
as they are installed. After each pass the target's messages are counted.

Both backends run in this process, over mutual TLS on the loopback, with a
directory in memory. It takes about half an hour, and --quick two minutes; let
nothing else run meanwhile. Everything is removed at the end.`,
		Example: `  waypost bench move --quick
  waypost bench move --dir /srv/mail --markdown`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&f.quick, "quick", false, "a short run, about two minutes")
	c.Flags().BoolVar(&f.markdown, "markdown", false, "print a table for a document")
	c.Flags().BoolVar(&f.keep, "keep", false, "do not remove the folder")
	c.Flags().StringVar(&f.dir, "dir", "", "`folder` to work in, on the disk to measure; a new one is made below it (default the temporary folder)")
	c.Flags().StringSliceVar(&names, "peer", []string{"waypost", "dovecot", "rsync"}, "`NAME` of what runs; may be repeated")
	c.Flags().IntSliceVar(&s.Sizes, "messages", []int{10_000, 100_000}, "`number` of messages of the user; may be repeated")
	c.Flags().IntVar(&s.Rounds, "rounds", 3, "how often each runs with each mailbox")
	c.Flags().IntVar(&s.Moves, "moves", 20, "how often the user is moved for the busy time")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		quickMove(c, &f, &s)
		for _, name := range names {
			p, err := movePeer(name)
			if err != nil {
				return err
			}
			if err := move.Missing(p); err != nil {
				a.warn("%v: measuring without it", err)
				continue
			}
			s.Peers = append(s.Peers, p)
		}
		if err := s.Check(); err != nil {
			return &usageError{err}
		}
		s.Progress = a.progress()
		return a.inFolder(&f, func(dir string) error {
			s.Dir = dir
			rep, err := s.Run(c.Context())
			if len(rep.Rows) == 0 {
				return err
			}
			return errors.Join(out.tables(rep, f.markdown, rep.Table, rep.Markdown), err)
		})
	}
	return c
}

// quickMove shortens what no flag says.
func quickMove(c *cobra.Command, f *benchFlags, s *move.Suite) {
	unless := func(flag string, do func()) {
		if f.quick && !c.Flags().Changed(flag) {
			do()
		}
	}
	unless("messages", func() { s.Sizes = []int{2000} })
	unless("rounds", func() { s.Rounds = 1 })
	unless("moves", func() { s.Moves = 5 })
}

func movePeer(name string) (move.Peer, error) {
	switch name {
	case "waypost":
		return movers(), nil
	case "dovecot":
		return move.Dovecot(), nil
	case "rsync":
		return move.Rsync(), nil
	}
	return move.Peer{}, usagef("--peer %q: want waypost, dovecot or rsync", name)
}
