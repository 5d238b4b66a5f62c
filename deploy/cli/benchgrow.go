package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"waypost/internal/bench"
)

func (a *app) benchGrowCmd() *cobra.Command {
	var f benchFlags
	var g bench.Growth
	c := &cobra.Command{
		Use:   "grow",
		Short: "Measure what operations cost in small and large mailboxes",
		Long: `Measure the CPU and the time of a delivery, an APPEND, a flag change and an
expunge in mailboxes of several sizes, beside the Dovecot that is installed. It
takes about ten minutes, and --quick one; let nothing else run meanwhile.`,
		Example: `  waypost bench grow --quick
  waypost bench grow --messages 1000 --messages 100000 --peer waypost --markdown`,
		Args: exactly(),
	}
	f.add(c)
	c.Flags().IntSliceVar(&g.Sizes, "messages", []int{1000, 100000}, "`number` of messages in the mailbox; may be repeated")
	c.Flags().IntVar(&g.Operations, "operations", 1000, "how many of each kind are measured")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.quick && !c.Flags().Changed("messages") {
			g.Sizes = []int{1000, 5000}
		}
		if f.quick && !c.Flags().Changed("operations") {
			g.Operations = 100
		}
		for _, n := range g.Sizes {
			if n < g.Operations || g.Operations < 1 {
				return usagef("%d operations need at least as many messages, not %d", g.Operations, n)
			}
		}
		peers, err := f.parse(0)
		if err != nil {
			return err
		}
		g.Peers, g.Progress = a.withDovecot(peers, false), a.progress()
		return a.inFolder(&f, func(dir string) error {
			g.Dir = dir
			rep, err := g.Run(c.Context())
			if rep == nil || len(rep.Rows) == 0 {
				return err
			}
			return errors.Join(out.tables(rep, f.markdown, rep.Table, rep.Markdown), err)
		})
	}
	return c
}
