package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waypost/director/admin"
)

// maxFailuresKept bounds the failures that --json repeats; all go to stderr.
const maxFailuresKept = 1000

func (a *app) userImportCmd() *cobra.Command {
	var format string
	one := importOne{}
	c := &cobra.Command{
		Use:   "import FILE|-|USER --maildir PATH",
		Short: "Add users from JSON lines or CSV, with password hashes and mailboxes",
		Long: `Add many users from a file, or from standard input (-). The file is either JSON
lines, an object a line, or CSV whose first line names the columns. The names:

  user            local@domain; required, its domain must exist
  password_hash   crypt(3), argon2id, or Dovecot's {SCHEME} form; also "hash"
  quota_bytes, quota_messages      0 or absent: unlimited
  services        of imap, managesieve, pop3, submission; absent: all. In CSV
                  separated by spaces
  disabled        true or false
  forward         addresses that get all mail as well; in CSV separated by spaces
  forward_only    true: and the mailbox gets none of it
  reply           JSON only: {"kind":"vacation","text":"…"}, as user show prints it
  tags            where the user may live: on backends that have all of these; in
                  CSV separated by spaces
  home            a backend; absent: the one with the most room, of those
  maildir         absolute path, on the home's machine, of a Maildir++ (or of a
                  folder that has it as Maildir) of Dovecot or Courier, which is
                  taken over as the mailbox: the same UIDs, flags, folders and
                  POP3 ids. Its server must not serve it any more
  maildir_mode    copy (if absent), link (message files are shared with it; same
                  file system), or move (link, and it is removed in the end)
  pop3_uidl       the pop3_uidl_format of the Dovecot that served it; absent:
                  Dovecot's default, %08Xu%08Xv, and for Courier its own

With --maildir the argument is one user, and flags say the rest.

An import may be run again, after an interruption or with failed lines mended:
users who are there already just as the line has them are counted and left
alone. Failed lines are told on stderr with their number; if there are any,
the exit code is 1, and all other lines are done.`,
		Example: `  printf '{"user":"ann@example.test","hash":"%s","quota_bytes":1073741824}\n' \
      "$(openssl passwd -6 'a long secret')" | waypost user import -
  printf 'user,password_hash,services\nben@example.test,,imap pop3\n' | waypost user import - --format csv
  waypost user import accounts.csv --json   # and again, until nothing fails
  waypost user import ann@example.test --maildir /var/vmail/example.test/ann --home b1 --link`,
		Args: exactly("the file, or - for standard input, or with --maildir the user"),
	}
	one.flags(c)
	c.Flags().StringVar(&format, "format", "", "json or csv (default: by the file's name or first character)")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if format != "" && format != formatJSON && format != formatCSV {
			return usagef("--format %q: want json or csv", format)
		}
		in := a.stdin
		if one.u.Maildir != "" {
			line, err := one.line(args[0])
			if err != nil {
				return err
			}
			in, format = bytes.NewReader(line), formatJSON
		} else if err := one.unused(c); err != nil {
			return err
		} else if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
			if format == "" {
				format = formatOf(args[0])
			}
		}
		return conn.with(func(client *admin.Client) error { return a.importUsers(c.Context(), client, in, format, out) })
	}
	return c
}

// imported counts what became of the lines; its JSON is what import prints.
type imported struct {
	mu  sync.Mutex // the reader of lines and the reader of answers run at once
	app *app
	bar progressLine

	Created  int                  `json:"created"`
	Exists   int                  `json:"exists"`
	Failed   int                  `json:"failed"`
	Failures []admin.ImportResult `json:"failures"`
	// FailuresLeftOut counts failures that are not in Failures, for their number.
	FailuresLeftOut int `json:"failures_left_out"`
}

func (a *app) importUsers(ctx context.Context, client *admin.Client, in io.Reader, format string, out *output) error {
	t := &imported{app: a, Failures: []admin.ImportResult{}, bar: a.progressLine()}
	src, err := openLines(in, format, t.count)
	if err != nil {
		return &localError{err}
	}
	err = client.Import(ctx, &lineReader{next: src}, func(r admin.ImportResult) error {
		t.count(r)
		return nil
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bar.clear()
	if err != nil {
		a.warn("so far %d created, %d there already, %d failed; run the same import again, it goes on from there", t.Created, t.Exists, t.Failed)
		return err
	}
	if err := out.say(t, "%d created, %d there already, %d failed", t.Created, t.Exists, t.Failed); err != nil {
		return err
	}
	if t.Failed > 0 {
		return errTold
	}
	return nil
}

func (t *imported) count(r admin.ImportResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r.Result {
	case admin.ImportCreated:
		t.Created++
	case admin.ImportExists:
		t.Exists++
	default:
		t.Failed++
		t.bar.clear()
		t.app.warn("line %d: %s: %s", r.Line, orDash(r.User), oneLine(r.Text))
		if len(t.Failures) < maxFailuresKept {
			t.Failures = append(t.Failures, r)
		} else {
			t.FailuresLeftOut++
		}
	}
	if n := t.Created + t.Exists + t.Failed; n%100 == 0 {
		t.bar.show(fmt.Sprintf("%d lines: %d created, %d there already, %d failed", n, t.Created, t.Exists, t.Failed))
	}
}

// lineReader sends what next gives, as it is asked for.
type lineReader struct {
	next func() ([]byte, error)
	rest []byte
}

func (l *lineReader) Read(b []byte) (int, error) {
	for len(l.rest) == 0 {
		var err error
		if l.rest, err = l.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			return 0, err
		}
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// progressLine is one line on a terminal's stderr that is written over; on
// anything else it is nothing.
type progressLine struct {
	w     io.Writer // nil: no terminal
	shown *bool
}

func (a *app) progressLine() progressLine {
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return progressLine{f, new(bool)}
	}
	return progressLine{}
}

func (p progressLine) terminal() bool { return p.w != nil }

// show writes over the line. "\x1b[K" clears what the former left behind.
func (p progressLine) show(text string) {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r%s\x1b[K", text)
		*p.shown = true
	}
}

func (p progressLine) clear() {
	if p.w != nil && *p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		*p.shown = false
	}
}
