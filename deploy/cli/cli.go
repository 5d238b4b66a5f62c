package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"waypost/deploy/role"
	"waypost/deploy/up"
	"waypost/internal/cluster"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs the command line and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the next one ends the process at once.
	context.AfterFunc(ctx, stop)
	return newApp(stdin, stdout, stderr).main(ctx, args)
}

// app is one run of the command line, with everything outside it that a test
// wants to replace.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// pause waits, or until ctx ends.
	pause func(ctx context.Context, d time.Duration)

	up        func(context.Context, up.Options) error
	loadRole  func(path string, want cluster.Role) (role.Config, error)
	checkRole func(role.Config) error
	runRole   func(ctx context.Context, c role.Config, logTo io.Writer, ready func()) error
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{
		stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, pause: pause,
		up: up.Run, loadRole: role.Load, checkRole: role.Check, runRole: role.Run,
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	// Never nil: cobra would take the process's own arguments then.
	root.SetArgs(append([]string{}, args...))
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(a.stderr, "waypost: %s; see: %s --help\n", oneLine(err.Error()), cmd.CommandPath())
		return exitUsage
	}
	if !errors.Is(err, errTold) {
		fmt.Fprintf(a.stderr, "waypost: %s\n", strings.TrimRight(err.Error(), "\n"))
	}
	return exitFailed
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// errTold fails a command that has said why.
var errTold = errors.New("failed, as was told")

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// warn tells the operator something that does not fail the command by itself.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "waypost: "+format+"\n", args...)
}

const (
	groupRun    = "run"
	groupManage = "manage"
	groupOther  = "other"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "waypost",
		Short:             "A sharded mail cluster",
		Long:              rootLong,
		Example:           rootExample,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Making and running a cluster:"},
		&cobra.Group{ID: groupManage, Title: "Operating it:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupRun, a.upCmd(), a.initCmd(), a.directorCmd(), a.backendCmd(), a.mxCmd(), a.proxyCmd(), a.rebalanceCmd())
	add(groupManage, a.statusCmd(), a.userCmd(), a.domainCmd(), a.addressCmd(), a.moveCmd(), a.sessionCmd(), a.mailboxCmd(), a.spoolCmd(), a.checkCmd(), a.repairCmd(), a.backupCmd(), a.restoreCmd())
	add(groupOther, a.benchCmd(), a.versionCmd(), a.completionCmd())
	return parent(root)
}

// parent makes a command that only has commands below it refuse to be called
// itself, and an unknown word after it.
func parent(c *cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error { return unknownWord(c, args) }
	c.RunE = func(c *cobra.Command, _ []string) error {
		return usagef("say what to do: %s", strings.Join(names(c), ", "))
	}
	return c
}

func unknownWord(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if s := c.SuggestionsFor(args[0]); len(s) > 0 {
		hint = ", did you mean " + strings.Join(s, " or ") + "?"
	}
	return usagef("there is no %q in %s%s", args[0], c.CommandPath(), hint)
}

func names(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// exactly demands one argument for each of what, which says what it is.
func exactly(what ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(what) {
			return usagef("say %s", what[len(args)])
		}
		if len(args) > len(what) {
			return usagef("%q is too much: want %d arguments", args[len(what)], len(what))
		}
		return nil
	}
}
