package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waypost/director"
	"waypost/director/admin"
)

// ruling is a command that sets one rule of a user's account, or shows it when it
// is called with the user alone. change gives nil for that.
func (a *app) ruling(c *cobra.Command, show func(io.Writer, admin.User), change func(c *cobra.Command, args []string) (*admin.UpdateUser, error)) *cobra.Command {
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		req, err := change(c, args[1:])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			var user admin.User
			if req == nil {
				user, err = client.User(c.Context(), u)
			} else {
				user, err = client.UpdateUser(c.Context(), u, *req)
			}
			if err != nil {
				return err
			}
			return out.show(user, func(w io.Writer) { show(w, user) })
		})
	}
	return c
}

func (a *app) userForwardCmd() *cobra.Command {
	var only, off bool
	c := &cobra.Command{
		Use:   "forward USER [ADDRESS...]",
		Short: "Send a user's mail on, or show where it goes",
		Long: `Send on all mail that a user gets to the addresses, all of them at once: those of
before are replaced. The mailbox keeps a copy, unless --only says otherwise. With
the user alone, show what is set. Addresses of other domains need a smarthost at
the mx. What the user's Sieve script discards is not sent on; mail that has been
sent on before, and has come back, is kept.`,
		Example: `  waypost user forward alice@example.test bob@example.test carol@example.test
  waypost user forward alice@example.test bob@example.test --only
  waypost user forward alice@example.test
  waypost user forward alice@example.test --off`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("say %s", wantUser)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&only, "only", false, "keep no copy in the mailbox")
	c.Flags().BoolVar(&off, "off", false, "send nothing on any more")
	return a.ruling(c, func(w io.Writer, u admin.User) { fmt.Fprintf(w, "%s: forward: %s\n", u.User, forwardText(u)) },
		func(c *cobra.Command, to []string) (*admin.UpdateUser, error) {
			for _, address := range to {
				if !strings.Contains(address, "@") {
					return nil, usagef("%q is no address: want local@domain", address)
				}
			}
			switch {
			case off && (len(to) > 0 || c.Flags().Changed("only")):
				return nil, usagef("--off stands alone")
			case off:
				none, no := []string{}, false
				return &admin.UpdateUser{Forward: &none, ForwardOnly: &no}, nil
			case len(to) > 0:
				return &admin.UpdateUser{Forward: &to, ForwardOnly: &only}, nil
			case c.Flags().Changed("only"):
				return &admin.UpdateUser{ForwardOnly: &only}, nil
			}
			return nil, nil
		})
}

func forwardText(u admin.User) string {
	switch {
	case len(u.Forward) == 0:
		return "none"
	case u.ForwardOnly:
		return strings.Join(u.Forward, ", ") + "; no copy is kept"
	}
	return strings.Join(u.Forward, ", ") + "; a copy is kept"
}

func replyKinds() []string {
	return []string{director.ReplyVacation, director.ReplyAlways, director.ReplyEcho}
}

// replyFlags are the flags of user reply.
type replyFlags struct {
	reply       director.AutoReply
	from, until string
	off         bool
}

func (a *app) userReplyCmd() *cobra.Command {
	var f replyFlags
	c := &cobra.Command{
		Use:   "reply USER",
		Short: "Answer a user's mail automatically, or show how it is answered",
		Long: `Answer a user's mail automatically, for those who write no Sieve scripts:

  --kind vacation   each correspondent once in --days (7)
  --kind always     each message
  --kind echo       each message with itself, up to 64 KiB of it

Lists, machines and the null sender get no answer, nor does mail that does not
name the user in To or Cc, or that the user's script discards or answers itself.
The whole reply is replaced; with the user alone, what is set is shown. Without
--text the text is read from standard input. --from and --until name the first and
the last day, in this machine's time zone, or a time like 2026-08-01T18:00:00Z.`,
		Example: `  printf 'I am away until Monday.\nIn haste: bob@example.test\n' |
    waypost user reply alice@example.test --kind vacation --from 2026-08-01 --until 2026-08-14
  waypost user reply bob@example.test --kind always --subject Received --text Thanks!
  waypost user reply carol@example.test --kind echo
  waypost user reply alice@example.test
  waypost user reply alice@example.test --off`,
		Args: exactly(wantUser),
	}
	flags := c.Flags()
	flags.StringVar(&f.reply.Kind, "kind", "", "one of "+strings.Join(replyKinds(), ", "))
	flags.StringVar(&f.reply.Subject, "subject", "", `subject (default "Auto: " and that of the message)`)
	flags.StringVar(&f.reply.Text, "text", "", "the `text` (default from standard input)")
	flags.StringVar(&f.from, "from", "", "the first `day`, like 2026-08-01, or a time")
	flags.StringVar(&f.until, "until", "", "the last `day`, or a time at which it ends")
	flags.IntVar(&f.reply.Days, "days", 0, "days between two vacation replies to one correspondent (default 7)")
	flags.BoolVar(&f.off, "off", false, "answer nothing any more")
	return a.ruling(c, writeReply, func(c *cobra.Command, _ []string) (*admin.UpdateUser, error) {
		given := func(name string) bool { return c.Flags().Changed(name) }
		others := slices.ContainsFunc([]string{"subject", "text", "from", "until", "days"}, given)
		switch {
		case f.off && (others || given("kind")):
			return nil, usagef("--off stands alone")
		case f.off:
			return &admin.UpdateUser{Reply: &director.AutoReply{}}, nil
		case !others && !given("kind"):
			return nil, nil
		}
		if err := f.fill(given); err != nil {
			return nil, err
		}
		if f.reply.Kind != director.ReplyEcho && !given("text") {
			var err error
			if f.reply.Text, err = a.replyText(); err != nil {
				return nil, err
			}
		}
		return &admin.UpdateUser{Reply: &f.reply}, nil
	})
}

// fill checks the flags and reads the days.
func (f *replyFlags) fill(given func(string) bool) (err error) {
	r := &f.reply
	switch {
	case !slices.Contains(replyKinds(), r.Kind):
		return usagef("--kind %q: want one of %s", r.Kind, strings.Join(replyKinds(), ", "))
	case r.Kind != director.ReplyVacation && given("days"):
		return usagef("--days is for --kind vacation: the others answer each message")
	case given("days") && (r.Days < 1 || r.Days > 365):
		return usagef("--days %d: want 1 to 365", r.Days)
	case r.Kind == director.ReplyEcho && given("text"):
		return usagef("--text: an echo has no text of its own")
	}
	if r.From, err = parseDay("--from", f.from, 0); err != nil {
		return err
	}
	if r.Until, err = parseDay("--until", f.until, 1); err != nil {
		return err
	}
	if !r.From.IsZero() && !r.Until.IsZero() && !r.From.Before(r.Until) {
		return usagef("--until %s is before --from %s", f.until, f.from)
	}
	return nil
}

// parseDay reads a time, or a day: the midnight that many days after the one it
// begins with. Empty is zero.
func parseDay(flag, s string, after int) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	t, err := time.ParseInLocation(time.DateOnly, s, time.Local)
	if err != nil {
		return t, usagef("%s %q: want a day like 2026-08-01, or a time like 2026-08-01T18:00:00Z", flag, s)
	}
	return t.AddDate(0, 0, after), nil
}

// replyText reads the text of a reply from standard input.
func (a *app) replyText() (string, error) {
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "", usagef("say --text, or send the text on standard input")
	}
	b, err := io.ReadAll(io.LimitReader(a.stdin, director.MaxReplyText+1))
	switch {
	case err != nil:
		return "", &localError{fmt.Errorf("read the text from standard input: %w", err)}
	case len(b) > director.MaxReplyText:
		return "", &localError{fmt.Errorf("the text is longer than %d bytes: write a shorter one", director.MaxReplyText)}
	case strings.TrimSpace(string(b)) == "":
		return "", &localError{errors.New("the text is empty: say --text, or send the text on standard input")}
	}
	return string(b), nil
}

func replyText(r *director.AutoReply) string {
	if r == nil {
		return "none"
	}
	text := map[string]string{director.ReplyAlways: "always", director.ReplyEcho: "echo"}[r.Kind]
	if r.Kind == director.ReplyVacation {
		days := r.Days
		if days == 0 {
			days = 7
		}
		text = fmt.Sprintf("vacation, once in %d days", days)
	}
	if !r.From.IsZero() {
		text += ", from " + when(r.From)
	}
	if !r.Until.IsZero() {
		text += ", until " + when(r.Until)
	}
	return text
}

// writeReply shows a reply with its text.
func writeReply(w io.Writer, u admin.User) {
	fmt.Fprintf(w, "%s: reply: %s\n", u.User, replyText(u.Reply))
	if u.Reply == nil || u.Reply.Kind == director.ReplyEcho {
		return
	}
	if u.Reply.Subject != "" {
		fmt.Fprintf(w, "Subject: %s\n", u.Reply.Subject)
	}
	fmt.Fprintf(w, "\n%s\n", strings.TrimRight(u.Reply.Text, "\r\n"))
}
