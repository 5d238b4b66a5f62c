// Package clifile is the file by which the waypost commands find a running
// cluster: cli.json in the data folder of `waypost up` and in the folder that
// `waypost init` makes. It names the admin API and the certificate to show it.
//
// The file holds no secret itself; the key it names is one. Whoever writes it
// replaces it whole and durably; whoever reads it gets absolute paths. Paths in
// the file are relative to the file's folder, so that the folder may be moved.
package clifile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"waypost/internal/durable"
)

// Name is the file's name in its folder.
const Name = "cli.json"

// ErrNone: the folder has no such file, because no cluster was made there, or
// none has been started yet.
var ErrNone = errors.New("no cluster here")

// File says where the admin API is and how to prove oneself to it.
type File struct {
	// Admin is host:port of the admin API.
	Admin string `json:"admin"`
	// CA is the cluster authority's certificate; Cert and Key are an admin's.
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Read reads the file in dir, with its paths made absolute. ErrNone without one.
func Read(dir string) (File, error) {
	path := filepath.Join(dir, Name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, fmt.Errorf("%s: %w", path, ErrNone)
	}
	if err != nil {
		return File{}, err
	}
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return File{}, err
	}
	for _, p := range []*string{&f.CA, &f.Cert, &f.Key} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(abs, *p)
		}
	}
	if err := f.Validate(); err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Write replaces the file in dir, which must exist. Absolute paths below dir
// are written relative to it.
func Write(dir string, f File) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, p := range []*string{&f.CA, &f.Cert, &f.Key} {
		if !filepath.IsAbs(*p) {
			continue
		}
		if rel, err := filepath.Rel(abs, *p); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			*p = rel
		}
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, Name), append(data, '\n'), 0o644)
}

// Validate says what is missing, all at once.
func (f File) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(f.Admin); err != nil {
		errs = append(errs, fmt.Errorf("admin: want host:port of the admin API, not %q", f.Admin))
	}
	for _, p := range []struct{ name, value string }{{"ca", f.CA}, {"cert", f.Cert}, {"key", f.Key}} {
		if p.value == "" {
			errs = append(errs, fmt.Errorf("%s: say the file", p.name))
		}
	}
	return errors.Join(errs...)
}
