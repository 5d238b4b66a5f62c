package backend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"waypost/backend/control"
	"waypost/backend/scripts"
	"waypost/internal/vfs"
)

// The user's Sieve scripts as Pigeonhole keeps them: files *.sieve in the
// folder sieve of the home, of which the link .dovecot.sieve names the active
// one. Without ManageSieve .dovecot.sieve is the script itself.
const (
	activeLink   = ".dovecot.sieve"
	scriptFolder = "sieve"
	scriptSuffix = ".sieve"
	// onlyScript is what a script without a name is called here.
	onlyScript = "dovecot"
)

// adoptLimits let everything in that Pigeonhole has let in.
var adoptLimits = scripts.Limits{Scripts: 10_000, ScriptBytes: 16 << 20, TotalBytes: 1 << 30}

// scripts brings the user's scripts into staging, and makes active what is.
func (s *source) scripts(staging string, log *slog.Logger) error {
	for _, home := range s.homes {
		err := takeScripts(home, scripts.New(vfs.OS, staging, adoptLimits), log)
		if err != nil {
			return fmt.Errorf("scripts of %s: %w", home, err)
		}
	}
	return nil
}

func takeScripts(home string, store *scripts.Store, log *slog.Logger) error {
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := takeAll(root, store, log); err != nil {
		return err
	}
	info, err := root.Lstat(activeLink)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name := onlyScript
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := root.Readlink(activeLink)
		if err != nil {
			return err
		}
		name = strings.TrimSuffix(filepath.Base(to), scriptSuffix)
		switch err := store.SetActive(name); {
		case err == nil:
			return nil
		case !errors.Is(err, scripts.ErrNonexistent) && !errors.Is(err, scripts.ErrBadName):
			return err
		}
		// Not one of the folder's.
		if !filepath.IsLocal(to) {
			return refuse(control.CodeBad, "%s leads to %s: put the script itself there", activeLink, to)
		}
	}
	if err := takeScript(root, activeLink, name, store); err != nil {
		return err
	}
	return store.SetActive(name)
}

// takeAll brings the scripts of the folder.
func takeAll(root *os.Root, store *scripts.Store, log *slog.Logger) error {
	dir, err := root.Open(scriptFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		// A file of that name is somebody else's.
		if info, serr := dir.Stat(); serr == nil && !info.IsDir() {
			return nil
		}
		return err
	}
	for _, file := range names {
		name, ok := strings.CutSuffix(file, scriptSuffix)
		if !ok || strings.HasPrefix(file, ".") {
			continue
		}
		err := takeScript(root, filepath.Join(scriptFolder, file), name, store)
		if errors.Is(err, scripts.ErrBadName) {
			log.Warn("a Sieve script is not taken over", "script", file, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func takeScript(root *os.Root, path, name string, store *scripts.Store) error {
	f, err := root.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	src, err := io.ReadAll(io.LimitReader(f, adoptLimits.ScriptBytes+1))
	if err != nil {
		return err
	}
	return store.Put(name, src)
}
