package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waypost/internal/popclient"
)

func (a *app) mailboxCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "mailbox",
		Short:   "Look into a mailbox as its user",
		Long:    `Look into a mailbox as its user, by the user's own name and password.`,
		Example: `  waypost mailbox list --pop3 pop.example.test:995 --user alice@example.test`,
	}
	c.AddCommand(a.mailboxListCmd())
	return parent(c)
}

// listFlags are those of mailbox list.
type listFlags struct {
	addr, user, ca, cache                         string
	tls, starttls, plain, noCache, scan, complete bool
	timeout                                       time.Duration
}

func (a *app) mailboxListCmd() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:   "list --pop3 HOST:PORT --user USER",
		Short: "List the messages of a POP3 maildrop, on any server",
		Long: `List the messages of a POP3 maildrop: number, size, date, flags, attachment mark,
author and subject. Nothing is removed. Where whole messages are read, with
--complete or from a server that has no TOP, many servers, ours among them, mark
them as seen. The password is asked for at a terminal, and else read from
standard input, one line.

A Waypost gives the list in one answer from its index (docs/pop3-listing.md). On
any other server the headers of the messages are read, and kept in a cache, so
that the next list reads only those that are new. There an attachment mark with
"?" is a guess from the header, unless --complete reads the messages whole, and
flags are not known. The cache is one file for each server and user in --cache
DIR ($XDG_CACHE_HOME/waypost or ~/.cache/waypost), readable by you alone; it
holds authors and subjects. --no-cache neither reads nor writes one.

TLS comes first (port 995) unless --starttls or --insecure-plain says otherwise.
With --insecure-plain anybody on the way can read the password.

With --json: number, size_bytes, uidl, flags, date (missing if unknown), from,
subject, attachment, flags_known, attachment_guessed.`,
		Example: `  # In the cluster of "waypost up --demo".
  echo waypost | waypost mailbox list --pop3 localhost:1995 --user alice@example.test --ca waypost-data/tls/ca.crt
  echo waypost | waypost mailbox list --pop3 127.0.0.1:1110 --user alice@example.test --insecure-plain --json

  # On some other server, without the cache, by STLS.
  waypost mailbox list --pop3 pop.example.org:110 --starttls --user ann --no-cache`,
		Args: exactly(),
	}
	fl := c.Flags()
	fl.StringVar(&f.addr, "pop3", "", "the server, as `host:port`")
	fl.StringVar(&f.user, "user", "", "the `name` to log in with")
	fl.BoolVar(&f.tls, "tls", false, "TLS comes first (the default)")
	fl.BoolVar(&f.starttls, "starttls", false, "TLS by the command STLS, as on port 110")
	fl.BoolVar(&f.plain, "insecure-plain", false, "no TLS: the password can be read on the way")
	fl.StringVar(&f.ca, "ca", "", "`file` with the certificates, in PEM, that the server's must be signed by (default the system's)")
	fl.StringVar(&f.cache, "cache", "", "`folder` of the cache")
	fl.BoolVar(&f.noCache, "no-cache", false, "keep nothing of what is read")
	fl.BoolVar(&f.scan, "scan", false, "read headers also where the server can list")
	fl.BoolVar(&f.complete, "complete", false, "read whole messages where the server cannot list, so that no mark is a guess")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for the server each time")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		o, err := a.popOptions(f)
		if err != nil {
			return err
		}
		if o.Password, err = a.knownPassword(c.Context(), f.user); err != nil {
			return err
		}
		return a.listMaildrop(c.Context(), o, out)
	}
	return c
}

// popOptions checks the flags.
func (a *app) popOptions(f listFlags) (popclient.Options, error) {
	o := popclient.Options{Addr: f.addr, User: f.user, Scan: f.scan, Whole: f.complete, Timeout: f.timeout}
	if _, _, err := net.SplitHostPort(f.addr); err != nil {
		return o, usagef("--pop3 %q: want host:port", f.addr)
	}
	ways := 0
	for _, way := range []struct {
		on bool
		is popclient.Security
	}{{f.tls, popclient.TLS}, {f.starttls, popclient.STLS}, {f.plain, popclient.Plain}} {
		if way.on {
			o.Security = way.is
			ways++
		}
	}
	switch {
	case f.user == "":
		return o, usagef("say --user, the name to log in with")
	case ways > 1:
		return o, usagef("--tls, --starttls and --insecure-plain exclude each other")
	case f.plain && f.ca != "":
		return o, usagef("--ca is of no use with --insecure-plain")
	case f.timeout <= 0:
		return o, usagef("--timeout %v: want more than nothing", f.timeout)
	case f.noCache && f.cache != "":
		return o, usagef("--cache and --no-cache exclude each other")
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return o, fmt.Errorf("--ca: %w", err)
		}
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
		if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return o, fmt.Errorf("--ca: %s holds no certificate", f.ca)
		}
	}
	if !f.noCache {
		o.Cache = a.popCache(f.cache)
	}
	return o, nil
}

// popCache is the folder of the cache; "" where there is no place for one.
func (a *app) popCache(given string) string {
	if given != "" {
		return given
	}
	if dir := a.getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "waypost")
	}
	if dir := a.getenv("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, ".cache", "waypost")
	}
	return ""
}

// knownPassword reads a password that is set already: once, without echo, from a
// terminal, else one line from standard input.
func (a *app) knownPassword(ctx context.Context, user string) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return a.passwordLine()
	}
	p, err := a.prompt(ctx, int(f.Fd()), "Password for "+user+": ")
	if err != nil {
		return "", err
	}
	return p, checkPassword(p)
}

func (a *app) listMaildrop(ctx context.Context, o popclient.Options, out *output) error {
	client, err := popclient.Dial(ctx, o)
	if err != nil {
		return err
	}
	l := newList(out, []string{"NUMBER", "SIZE", "DATE", "FLAGS", "ATT", "FROM", "SUBJECT"}, func(e popclient.Entry) []any {
		return []any{e.Number, size(e.Size), when(e.Date), orDash(strings.Join(e.Flags, " ")), mark(e), orDash(e.From), orDash(e.Subject)}
	})
	for e, listErr := range client.List(ctx) {
		if err = listErr; err == nil {
			err = l.add(e)
		}
		if err != nil {
			break
		}
	}
	l.end()
	if err != nil {
		return errors.Join(fmt.Errorf("the list is not complete: %w", err), ignoreClosed(client.Close()))
	}
	return client.Close()
}

// ignoreClosed: a connection that broke is closed already, and that was said.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// mark is the attachment mark: "?" is one that is a guess.
func mark(e popclient.Entry) string {
	switch {
	case e.Attachment && e.AttachmentGuessed:
		return "yes?"
	case e.Attachment:
		return "yes"
	case e.AttachmentGuessed:
		return "no?"
	}
	return "no"
}
