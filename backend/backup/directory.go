package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Directory is what a backup of all users has of the directory beside accounts,
// which are with their users: domains, and what addresses mean.
type Directory struct {
	Domains   []string            `json:"domains"`
	Addresses map[string][]string `json:"addresses"`
}

const directoryName = "directory.json"

// PutDirectory replaces the copy.
func (a *Archive) PutDirectory(d Directory) error {
	if err := writeJSON(filepath.Join(a.root, directoryName), d); err != nil {
		return fmt.Errorf("backup of the directory: %w", err)
	}
	return nil
}

// Directory reads it; ErrNone if there is none.
func (a *Archive) Directory() (Directory, error) {
	var d Directory
	b, err := os.ReadFile(filepath.Join(a.root, directoryName))
	if errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("%s in %s: %w", directoryName, a.root, ErrNone)
	}
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		return d, fmt.Errorf("backup of the directory: %w", err)
	}
	return d, nil
}
