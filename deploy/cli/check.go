package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

func (a *app) checkCmd() *cobra.Command {
	var home string
	var deep bool
	c := &cobra.Command{
		Use:   "check [USER]",
		Short: "Look for inconsistencies, and change nothing",
		Long: `Look for inconsistencies of one user at all backends, or of all users: fences
against the directory, users on two backends, left-over staging and trash, quota
totals, uidlists, folder states, keywords, delivery logs, indexes, sizes in names,
litter, foreign files and locks. Nothing is changed. With --deep the contents of
messages are read, too: that reads all mail there is.

One line each: user, folder, what, and what to do; lines that begin with "info"
do no harm. The exit code is 0 if there is no problem, and 1 if there are any, or
not all could be checked. A check of all users leaves half of each disk's time to
others; Ctrl-C ends it. With --json each line is an object: a finding (level
"problem" or "info"), how far a backend is, a node that did not answer, or, the
last one, the summary.`,
		Example: `  waypost check alice@example.test
  waypost check
  waypost check --backend b2 --deep --json > found.jsonl`,
		Args: upToOne(wantUser),
	}
	c.Flags().StringVar(&home, "backend", "", "only at this `backend`")
	c.Flags().BoolVar(&deep, "deep", false, "read the contents of messages, too")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "backend")
	c.RunE = func(c *cobra.Command, args []string) error {
		filter := admin.CheckFilter{Deep: deep}
		var err error
		if len(args) == 1 {
			if filter.User, err = parseUser(args[0]); err != nil {
				return err
			}
		}
		if home != "" {
			if filter.Backend, err = parseBackend(home); err != nil {
				return err
			}
		}
		return conn.with(func(client *admin.Client) error { return a.check(c.Context(), client, filter, out) })
	}
	return c
}

// upToOne takes one argument or none.
func upToOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%q is too much: want %s, or nothing", args[1], what)
		}
		return nil
	}
}

// checked is what a check came to; its JSON is the last line.
type checked struct {
	Users    int64 `json:"checked_users"`
	Problems int   `json:"problems"`
	Infos    int   `json:"infos"`
	// Missing counts the backends that were not checked, or not to the end.
	Missing     int  `json:"missing_backends"`
	Interrupted bool `json:"interrupted"`
}

func (a *app) check(ctx context.Context, client *admin.Client, filter admin.CheckFilter, out *output) error {
	t := &checkTold{app: a, out: out, bar: a.progressLine(), far: map[director.BackendID]admin.CheckProgress{}}
	err := client.Check(ctx, filter, t.line)
	t.bar.clear()
	for _, p := range t.far {
		t.sum.Users += p.Checked
	}
	if filter.User != "" {
		t.sum.Users = min(t.sum.Users, 1) // each backend looked for this one
	}
	t.sum.Interrupted = ctx.Err() != nil
	if err != nil && !t.sum.Interrupted {
		return err
	}
	if err := t.end(); err != nil {
		return err
	}
	if t.sum.Problems > 0 || t.sum.Missing > 0 || t.sum.Interrupted {
		return errTold
	}
	return nil
}

// checkTold prints lines as they come.
type checkTold struct {
	app *app
	out *output
	bar progressLine
	far map[director.BackendID]admin.CheckProgress
	sum checked
}

func (t *checkTold) line(l admin.CheckLine) error {
	switch {
	case l.Finding != nil:
		if l.Finding.Problem() {
			t.sum.Problems++
		} else {
			t.sum.Infos++
		}
		t.bar.clear()
		if !t.out.json {
			_, err := fmt.Fprintln(t.out.w, findingText(*l.Finding))
			return err
		}
	case l.Missing != nil:
		t.sum.Missing++
		t.bar.clear()
		t.app.warn("%s was not checked: %s", l.Missing.Node, oneLine(l.Missing.Text))
	case l.Progress != nil:
		t.far[l.Progress.Backend] = *l.Progress
		t.progress()
	}
	return t.json(l)
}

func (t *checkTold) json(v any) error {
	if !t.out.json {
		return nil
	}
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(t.out.w, "%s\n", b)
	}
	return err
}

// progress writes over the line on a terminal.
func (t *checkTold) progress() {
	var done, total int64
	for _, p := range t.far {
		done, total = done+p.Checked, total+p.Total
	}
	t.bar.show(fmt.Sprintf("%s%d of %d checked, %d problems", bar(done, total), done, total, t.sum.Problems))
}

func (t *checkTold) end() error {
	if t.out.json {
		return t.json(map[string]checked{"summary": t.sum})
	}
	how := "checked"
	if t.sum.Interrupted {
		how = "interrupted after"
	}
	_, err := fmt.Fprintf(t.out.w, "%s %d users: %d problems\n", how, t.sum.Users, t.sum.Problems)
	return err
}

// findingText is one line: whose, where, what, and what to do.
func findingText(f control.Finding) string {
	whose := string(f.User)
	if whose == "" {
		whose = "-"
	}
	where := string(f.Backend)
	if f.Folder != "" {
		where += " " + f.Folder
	}
	text := fmt.Sprintf("%s  %s  %s; %s", whose, where, oneLine(f.What), oneLine(f.Do))
	if !f.Problem() {
		return "info  " + text
	}
	return text
}
