package cli

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waypost/internal/bench"
	"waypost/internal/bench/access"
	"waypost/internal/bench/dovecot"
	"waypost/internal/bench/hops"
)

func (a *app) benchIMAPCmd() *cobra.Command {
	var f benchFlags
	var s access.Suite
	c := &cobra.Command{
		Use:   "imap",
		Short: "Measure sessions of IMAP and POP3, beside Dovecot's",
		Long: `Measure what readers wait for, and what that costs, in large mailboxes: logins,
SELECT, FETCH, SEARCH, STORE, APPEND, COPY, MOVE, EXPUNGE, a client that comes
back, POP3, and the memory of an idle session; beside the Dovecot that is
installed, on copies of the same Maildirs. Waypost is a proxy and a backend,
and the CPU of both counts. Every answer is checked.

--peer limit is what sessions cost before anything is done for them: bare
processes of plain Go that say to each line what Waypost says; "one hop" is one,
"two hops" a proxy and a server. It has three rows: login, login-alone and
warm:pop3-retr.

It takes about two hours, and --quick five minutes; let nothing else run
meanwhile. As root it has the system forget what it read from disks, again and
again, which slows down whatever else this machine does; for other users "cold"
is missing, and there is "restarted" instead. Everything is removed at the end.

--only measures single rows, and does of the rest what they cannot be without:
` + onlyRows() + `
What reads is measured in three states, or with a prefix in one of them: new: (no
index), warm: and cold: (or restarted).`,
		Example: `  waypost bench imap --quick
  waypost bench imap --dir /srv/mail --markdown
  waypost bench imap --messages 10000 --peer waypost --profile /tmp/cpu
  waypost bench imap --quick --only expunge,new:fetch-envelope
  waypost bench imap --only login,login-alone,warm:pop3-retr --sessions 0`,
		Args: exactly(),
	}
	f.add(c)
	c.Flags().IntSliceVar(&s.Sizes, "messages", []int{10_000, 100_000}, "`number` of messages in the mailbox; may be repeated")
	c.Flags().IntVar(&s.Batch, "batch", 1000, "how many messages STORE, APPEND, COPY, MOVE, EXPUNGE and RETR are about")
	c.Flags().IntVar(&s.Singles, "operations", 200, "how many single APPENDs and STOREs are measured")
	c.Flags().IntVar(&s.Sessions, "sessions", 1000, "how many idle sessions to open for their memory; 0: none")
	c.Flags().IntVar(&s.Rounds, "rounds", 2, "how often each runs with each mailbox")
	c.Flags().DurationVar(&s.Duration, "duration", 5*time.Second, "how long what can be repeated is measured")
	c.Flags().StringSliceVar(&s.Only, "only", nil, "measure only this `ROW`; may be repeated")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.quick {
			quickIMAP(c, &s)
		}
		peers, err := f.parse(0)
		if err != nil {
			return err
		}
		s.Peers, s.Forget, s.Profile, s.Progress = a.withPOP3(peers), bench.DropCaches, f.profile, a.progress()
		if err := s.Check(); err != nil {
			return &usageError{err}
		}
		return a.inFolder(&f, func(dir string) error {
			s.Dir = dir
			rep, err := s.Run(c.Context())
			if len(rep.Rows)+len(rep.Idle) == 0 {
				return err
			}
			return errors.Join(out.tables(rep, f.markdown, rep.Table, rep.Markdown), err)
		})
	}
	return c
}

// onlyRows are the names of rows, in lines of a help text.
func onlyRows() string {
	var b strings.Builder
	width := 0
	for i, name := range access.RowNames() {
		if i > 0 {
			b.WriteByte(',')
			width++
		}
		if width+1+len(name) > 78 {
			b.WriteByte('\n')
			width = 0
		} else if i > 0 {
			b.WriteByte(' ')
			width++
		}
		b.WriteString(name)
		width += len(name)
	}
	return b.String() + "."
}

// quickIMAP shortens what no flag says.
func quickIMAP(c *cobra.Command, s *access.Suite) {
	unless := func(flag string, do func()) {
		if !c.Flags().Changed(flag) {
			do()
		}
	}
	unless("messages", func() { s.Sizes = []int{2000} })
	unless("batch", func() { s.Batch = 500 })
	unless("operations", func() { s.Singles = 50 })
	unless("sessions", func() { s.Sessions = 100 })
	unless("rounds", func() { s.Rounds = 1 })
	unless("duration", func() { s.Duration = time.Second })
}

// withPOP3 leaves out a Dovecot that is not there. The limit is not that of the disk here.
func (a *app) withPOP3(peers []bench.Peer) []bench.Peer {
	pop3 := dovecot.HasPOP3()
	var rest []bench.Peer
	for _, p := range a.withDovecot(peers, false) {
		if p.Name == "dovecot" && !pop3 {
			a.warn("%v (dovecot-pop3d): measuring without it", dovecot.ErrMissing)
			continue
		}
		if p.Start == nil {
			rest = append(rest, hops.Peers()...)
		} else {
			rest = append(rest, p)
		}
	}
	return rest
}

// benchHopCmd is what hops.Peers start.
func (a *app) benchHopCmd() *cobra.Command {
	return &cobra.Command{
		Use:     hops.Command()[1] + " server|linked|proxy MAILDIR|HOST:PORT",
		Short:   "A bare server or proxy, for waypost bench imap alone",
		Long:    "Be one of the processes of the limit in waypost bench imap, which starts it and leaves it its listeners. It is of no other use.",
		Hidden:  true,
		Example: `  waypost bench imap --quick --peer limit --peer waypost`,
		Args:    exactly("which process: server, linked or proxy", "the Maildir, or the server's HOST:PORT"),
		RunE: func(c *cobra.Command, args []string) error {
			return hops.Run(c.Context(), args[0], args[1])
		},
	}
}
