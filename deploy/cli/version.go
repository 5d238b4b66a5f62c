package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what the build knows of itself.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

func readVersion() version {
	v := version{Version: "unknown", Revision: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	v.Revision += dirty
	return v
}

func (a *app) versionCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Print the version, the revision of the source, and the Go release it was built with.`,
		Example: `  waypost version --json`,
		Args:    exactly(),
	}
	out := a.printing(c)
	c.RunE = func(*cobra.Command, []string) error {
		v := readVersion()
		return out.say(v, "waypost %s (revision %s, %s)", v.Version, v.Revision, v.Go)
	}
	return c
}

func (a *app) completionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long: `Print the script by which a shell completes waypost's commands, flags, and the
names of backends.`,
		Example: `  source <(waypost completion bash)
  waypost completion zsh > "${fpath[1]}/_waypost"
  waypost completion fish > ~/.config/fish/completions/waypost.fish`,
		Args:      exactly("the shell: bash, zsh or fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return c.Root().GenZshCompletion(a.stdout)
			case "fish":
				return c.Root().GenFishCompletion(a.stdout, true)
			}
			return usagef("no completion for %q: choose bash, zsh or fish", args[0])
		},
	}
}
