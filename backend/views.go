package backend

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"waypost/internal/durable"
)

// viewsRun names the run of processes whose views of folders are believed
// (maildir.Options.Views): what a power cut left of them may not fit the rest, whatever
// the times of the files say. A process that follows an unclean end begins another.
func (d disk) viewsRun(clean bool) (string, error) {
	path := filepath.Join(d.root, "views")
	if clean {
		b, err := os.ReadFile(path)
		if run := strings.TrimSpace(string(b)); err == nil && run != "" {
			return run, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("run of views: %w", err)
		}
	}
	run := rand.Text()
	if err := durable.WriteFile(path, []byte(run+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("run of views: %w", err)
	}
	return run, nil
}
