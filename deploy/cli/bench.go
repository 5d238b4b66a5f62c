package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"waypost/deploy/benchmark"
	"waypost/internal/bench"
	"waypost/internal/bench/dovecot"
)

func (a *app) benchCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure delivery and mailbox operations",
		Long: `Measure how fast this machine takes mail durably, and at what cost, beside the
Dovecot that is installed and the bare limit of the disk, and what readers wait
for; or put a load on a server that runs already.`,
		Example: `  waypost bench deliver --quick
  waypost bench grow --quick
  waypost bench imap --quick
  waypost bench move --quick`,
	}
	c.AddCommand(a.benchDeliverCmd(), a.benchGrowCmd(), a.benchIMAPCmd(), a.benchMoveCmd(), a.benchHopCmd())
	return parent(c)
}

// benchFlags are those of both measurements.
type benchFlags struct {
	quick, markdown, keep bool
	dir                   string
	peers                 []string
	quota                 string
	profile               string
}

func (f *benchFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.quick, "quick", false, "a short run, under two minutes")
	c.Flags().BoolVar(&f.markdown, "markdown", false, "print a table for a document")
	c.Flags().BoolVar(&f.keep, "keep", false, "do not remove the folder")
	c.Flags().StringVar(&f.dir, "dir", "", "`folder` to work in, on the disk to measure; a new one is made below it (default the temporary folder)")
	c.Flags().StringSliceVar(&f.peers, "peer", []string{"dovecot-always", "dovecot-optimized", "waypost", "limit"}, "`NAME` of what runs; may be repeated")
	c.Flags().StringVar(&f.quota, "dovecot-quota", "maildir", "Dovecot's quota backend: maildir, which costs least, or count")
	c.Flags().StringVar(&f.profile, "profile", "", "`file` for a CPU profile of each backend under load; the run's name is added")
}

// parse makes the peers.
func (f *benchFlags) parse(d time.Duration) ([]bench.Peer, error) {
	if f.quota != "maildir" && f.quota != "count" {
		return nil, usagef("--dovecot-quota %q: want maildir or count", f.quota)
	}
	var peers []bench.Peer
	for _, name := range f.peers {
		switch name {
		case "dovecot-always", "dovecot-optimized":
			peers = append(peers, dovecot.Peer(dovecot.Options{Fsync: name[len("dovecot-"):], QuotaBackend: f.quota}))
		case "waypost":
			peers = append(peers, benchmark.Peer(benchmark.Options{Profile: f.profile, ProfileFor: d}))
		case "limit":
			peers = append(peers, bench.LimitPeer())
		default:
			return nil, usagef("--peer %q: want dovecot-always, dovecot-optimized, waypost or limit", name)
		}
	}
	return peers, nil
}

// withDovecot leaves Dovecot out, and says so, where it is not installed.
func (a *app) withDovecot(peers []bench.Peer, sieve bool) []bench.Peer {
	_, err := dovecot.Find()
	if err == nil && (!sieve || dovecot.HasSieve()) {
		return peers
	}
	a.warn("%v: measuring without it", dovecot.ErrMissing)
	var rest []bench.Peer
	for _, p := range peers {
		if p.Name != "dovecot" {
			rest = append(rest, p)
		}
	}
	return rest
}

// inFolder calls do with a fresh folder, and removes it afterwards.
func (a *app) inFolder(f *benchFlags, do func(dir string) error) error {
	dir, err := os.MkdirTemp(f.dir, "waypost-bench-")
	if err != nil {
		return fmt.Errorf("%w: say another folder with --dir", err)
	}
	// Dovecot's mail is another user's.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	err = do(dir)
	if f.keep {
		a.warn("everything is in %s", dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// progress shows lines on stderr: those that are not final only where somebody
// watches, each over the last.
func (a *app) progress() func(line string, final bool) {
	f, ok := a.stderr.(*os.File)
	watched := false
	if ok {
		st, err := f.Stat()
		watched = err == nil && st.Mode()&os.ModeCharDevice != 0
	}
	return func(line string, final bool) {
		switch {
		case watched && final:
			fmt.Fprintf(a.stderr, "\r\x1b[K%s\n", line)
		case watched:
			fmt.Fprintf(a.stderr, "\r\x1b[K%s", line)
		case final:
			fmt.Fprintln(a.stderr, line)
		}
	}
}

// tables prints a report in one of three ways.
func (o *output) tables(v any, markdown bool, text, md func(io.Writer) error) error {
	if markdown && !o.json {
		return md(o.w)
	}
	var err error
	shown := o.show(v, func(w io.Writer) { err = text(w) })
	return errors.Join(shown, err)
}

func (a *app) benchDeliverCmd() *cobra.Command {
	var f benchFlags
	var t targetFlags
	s := bench.Suite{}
	var sizes []int
	var conns []int
	var filters string
	c := &cobra.Command{
		Use:   "deliver",
		Short: "Measure durable delivery, beside Dovecot's",
		Long: `Measure durable delivery: how many messages a second a backend acknowledges, at
what CPU, and how late, beside the Dovecot that is installed (mail_fsync=always
and =optimized) and the bare limit of the disk. All run by turns, each time in a
fresh folder, on this machine; every answer is checked, and after each run the
messages on the disk are counted. It takes about half an hour, and --quick two
minutes; let nothing else run meanwhile. As root it has the system forget, before
each run, what earlier ones wrote. Everything is removed at the end.

With --target it puts the same load on a server that runs already, and tells
its rate and latency. That delivers real messages to real users, and they stay:
use users made for it. Where the server is not on this machine, --yes-really
says that you mean it.`,
		Example: `  # A first impression, then figures to publish.
  waypost bench deliver --quick
  waypost bench deliver --dir /srv/mail --markdown

  # A server that runs: 10 connections for 20 s, to two users.
  waypost bench deliver --target 127.0.0.1:2525 --protocol smtp \
      --to alice@example.test --to bob@example.test --duration 20s`,
		Args: exactly(),
	}
	f.add(c)
	t.add(c)
	c.Flags().IntSliceVar(&sizes, "size", []int{4096, 102400}, "`bytes` of a message; may be repeated")
	c.Flags().IntSliceVar(&conns, "connections", []int{1, 10, 50}, "how many at once; may be repeated")
	c.Flags().StringVar(&filters, "filters", "both", "plain, sieve+quota, or both one after the other")
	c.Flags().IntVar(&s.Users, "users", 100, "how many users get the messages")
	c.Flags().IntVar(&s.Rounds, "rounds", 2, "how often each runs in each case")
	c.Flags().DurationVar(&s.Duration, "duration", 10*time.Second, "how long a run measures at most")
	c.Flags().DurationVar(&s.WarmUp, "warm-up", 8*time.Second, "how long the same load is on before a run measures, longer than servers put work off; not with --target")
	c.Flags().BoolVar(&s.BDAT, "bdat", false, "send each message by BDAT instead of DATA")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.quick {
			quick(c, &s, &sizes, &conns)
		}
		if t.target != "" {
			return a.benchTarget(c.Context(), out, t, &s, conns[0], sizes[0])
		}
		var err error
		if s.Cases, err = cases(sizes, conns, filters); err != nil {
			return err
		}
		if s.Peers, err = f.parse(s.Duration); err != nil {
			return err
		}
		s.Peers, s.Progress = a.withDovecot(s.Peers, filters != "plain"), a.progress()
		s.Bytes, s.WarmUpBytes, s.Forget = benchBytes, warmUpBytes, bench.DropCaches
		return a.inFolder(&f, func(dir string) error {
			s.Dir = dir
			rep, err := s.Run(c.Context())
			if rep == nil || len(rep.Rows) == 0 {
				return err
			}
			return errors.Join(out.tables(rep, f.markdown, rep.Table, rep.Markdown), err)
		})
	}
	return c
}

const (
	// benchBytes is what one run may deliver.
	benchBytes = 1 << 30
	// warmUpBytes is enough for each segment of a full journal to have been used once.
	warmUpBytes = 3 << 30
)

// quick shortens what no flag says.
func quick(c *cobra.Command, s *bench.Suite, sizes, conns *[]int) {
	unless := func(flag string, do func()) {
		if !c.Flags().Changed(flag) {
			do()
		}
	}
	unless("size", func() { *sizes = []int{4096} })
	unless("connections", func() { *conns = []int{10} })
	unless("rounds", func() { s.Rounds = 1 })
	unless("users", func() { s.Users = 20 })
	unless("duration", func() { s.Duration = 5 * time.Second })
	unless("warm-up", func() { s.WarmUp = 0 })
}

func cases(sizes, conns []int, filters string) ([]bench.Case, error) {
	var with []bool
	switch filters {
	case "plain":
		with = []bool{false}
	case "sieve+quota":
		with = []bool{true}
	case "both":
		with = []bool{false, true}
	default:
		return nil, usagef("--filters %q: want plain, sieve+quota or both", filters)
	}
	var list []bench.Case
	for _, size := range sizes {
		if size < bench.MinSize {
			return nil, usagef("--size %d: want at least %d", size, bench.MinSize)
		}
		for _, on := range with {
			for _, n := range conns {
				if n < 1 || n > 1000 {
					return nil, usagef("--connections %d: want 1 to 1000", n)
				}
				list = append(list, bench.Case{Size: size, Connections: n, Sieve: on, Quota: on})
			}
		}
	}
	return list, nil
}

// targetFlags name a server that runs already.
type targetFlags struct {
	target, protocol, from string
	to                     []string
	really                 bool
}

func (t *targetFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&t.target, "target", "", "`HOST:PORT`, or the path of a socket, of a server that runs: measure that")
	c.Flags().StringVar(&t.protocol, "protocol", "smtp", "what the target speaks: smtp or lmtp")
	c.Flags().StringVar(&t.from, "from", "", "the sender's `address` (default the null sender)")
	c.Flags().StringArrayVar(&t.to, "to", nil, "`USER@DOMAIN` who gets messages; may be repeated")
	c.Flags().BoolVar(&t.really, "yes-really", false, "also where the target is another machine")
}

func (a *app) benchTarget(ctx context.Context, out *output, t targetFlags, s *bench.Suite, conns, size int) error {
	target, err := bench.ParseTarget(t.target, t.protocol, t.from, t.to)
	if err != nil {
		return &usageError{err}
	}
	if !target.Local() && !t.really {
		return usagef("%s is not this machine: this delivers thousands of messages there, which stay; say --yes-really if it is yours and you mean it", t.target)
	}
	show := a.progress()
	l := bench.Load{Target: target, Connections: conns, Size: size, Duration: s.Duration, BDAT: s.BDAT, Progress: func(p bench.Progress) {
		show(fmt.Sprintf("%d messages, %d errors, %.0f s", p.Messages, p.Errors, p.Elapsed.Seconds()), false)
	}}
	res, err := l.Run(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", t.target, err)
	}
	sum := bench.Summarize(res)
	show(fmt.Sprintf("%d messages to %s", res.Acknowledged, t.target), true)
	if err := out.show(sum, func(w io.Writer) { sum.Print(w) }); err != nil {
		return err
	}
	if res.Errors > 0 {
		return fmt.Errorf("%d messages failed, the first because %s", res.Errors, res.Samples[0])
	}
	return nil
}
