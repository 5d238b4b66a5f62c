package cli

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// each calls fn with every command that is ours.
func each(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, sub := range c.Commands() {
		if sub.Name() != "help" {
			each(sub, fn)
		}
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	a, _, _ := newTest("")
	n := 0
	each(a.root(), func(c *cobra.Command) {
		n++
		if c.Short == "" || c.Long == "" || !strings.Contains(c.Example, "waypost ") {
			t.Errorf("%s: short %q, long %q, example %q", c.CommandPath(), c.Short, c.Long, c.Example)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s says nothing", c.CommandPath(), f.Name)
			}
		})
		b, stdout, stderr := newTest("")
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if code := b.main(t.Context(), args); code != exitDone || !strings.Contains(stdout.String(), "Examples:") {
			t.Errorf("%v: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	})
	if n < 40 {
		t.Errorf("only %d commands were found", n)
	}
}

var inExample = regexp.MustCompile(`(?:^|[\s(|;])waypost ((?:'[^']*'|"[^"]*"|[^|;&)>#\n'"])*)`)

// Every command line in an example is one that is taken: command, flags, and
// number of arguments.
func TestExamplesAreTaken(t *testing.T) {
	a, _, _ := newTest("")
	var lines []string
	each(a.root(), func(c *cobra.Command) {
		text := strings.ReplaceAll(c.Example, "\\\n", " ")
		for _, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, m := range inExample.FindAllStringSubmatch(line, -1) {
				lines = append(lines, m[1])
			}
		}
	})
	if len(lines) < 60 {
		t.Errorf("only %d command lines were found", len(lines))
	}
	for _, line := range lines {
		b, _, _ := newTest("")
		words := strings.Fields(strings.NewReplacer("'", "", `"`, "").Replace(line))
		c, rest, err := b.root().Find(words)
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err == nil {
			err = c.ValidateArgs(c.Flags().Args())
		}
		if err != nil {
			t.Errorf("waypost %s: %v", line, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		a, stdout, stderr := newTest("")
		if code := a.main(t.Context(), []string{"completion", shell}); code != exitDone || !strings.Contains(stdout.String(), "waypost") {
			t.Errorf("%s: exit code %d, %s", shell, code, stderr)
		}
	}
	f := newFakeAPI(t)
	f.on("GET /v1/backends", `[{"id":"b1"},{"id":"b2"}]`)
	for _, args := range [][]string{{"__complete", "move", "alice@example.test", "--to", ""}, {"__complete", "backend", "drain", ""}} {
		if r := f.run("", args...); !strings.HasPrefix(r.stdout, "b1\nb2\n") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
