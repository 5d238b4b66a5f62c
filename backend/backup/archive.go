// Package backup keeps backups of users as plain files, takes them from backends,
// and brings them back.
//
//	DIR/waypost-backup.json            says what DIR is
//	DIR/users/xx/USER/000007/tree/     the user's folder as it was: a Maildir++ to read
//	DIR/users/xx/USER/000007/backup.json    when and where, the account, the sums (Meta)
//	DIR/users/xx/USER/000007/manifest.json  every file with its SHA-256
//	DIR/users/xx/USER/.partial/        a generation that is being made
//
// Each generation is whole by itself. A message that an earlier one has is not
// read, sent or written again: its file is shared by a hard link, where the file
// system of DIR has these. So generations may be copied or removed by hand, but a
// file in one must not be changed.
//
// A generation is what the user had at one moment (package backend, snapshots). It
// has its name once it is durable; what was broken off goes on at the next run, and
// every file that is there then is read again before it is believed. One process
// writes to DIR at a time (a lock); any number may read.
//
// Package safe is what makes a generation fit to be served again; the backend that
// takes it calls that, whoever brings it.
package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/durable"
)

const (
	markName     = "waypost-backup.json"
	metaName     = "backup.json"
	manifestName = "manifest.json"
	treeName     = "tree"
	partialName  = ".partial"
	dropPrefix   = ".drop-"
	version      = 1
)

// Errors of an archive.
var (
	// ErrNone: no such archive, user or generation.
	ErrNone = errors.New("no backup")
	// ErrVersion: written by a later version.
	ErrVersion = errors.New("a backup of a later version")
)

// Archive is a folder with backups.
type Archive struct {
	root string
	lock *durable.DirLock // of a writer
}

// Meta is all of a generation but its files.
type Meta struct {
	Version    int                `json:"v"`
	User       director.User      `json:"user"`
	Generation int                `json:"generation"`
	Taken      time.Time          `json:"taken"`
	Backend    director.BackendID `json:"backend"`
	Epoch      director.Epoch     `json:"epoch"`
	Account    director.Account   `json:"account"`
	// Layout digests names, sizes and dates; Contents the files' digests as well.
	Layout   string `json:"layout"`
	Contents string `json:"contents"`
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"` // of messages
	Files    int64  `json:"files"`
}

type mark struct {
	Version int    `json:"v"`
	What    string `json:"what"`
}

// Open opens an archive to read; ErrNone if root is none.
func Open(root string) (*Archive, error) {
	b, err := os.ReadFile(filepath.Join(root, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: %w", root, markName, ErrNone)
	}
	var m mark
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err == nil && m.Version > version {
		err = ErrVersion
	}
	if err != nil {
		return nil, fmt.Errorf("backups in %s: %w", root, err)
	}
	return &Archive{root: root}, nil
}

// Create opens an archive to write, and makes it where root is missing or empty.
// Close lets others write.
func Create(root string) (*Archive, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("backups: %w", err)
	}
	a, err := Open(root)
	if errors.Is(err, ErrNone) {
		if err := begin(root); err != nil {
			return nil, fmt.Errorf("backups in %s: %w", root, err)
		}
		a, err = Open(root)
	}
	if err != nil {
		return nil, err
	}
	if a.lock, err = durable.Lock(root); err != nil {
		return nil, fmt.Errorf("backups in %s: another backup runs: %w", root, err)
	}
	return a, nil
}

// begin refuses a folder of something else: a wrong path must not fill up.
func begin(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != durable.LockName && e.Name() != "lost+found" {
			return fmt.Errorf("%s is there already, and %s is not: want an empty folder", e.Name(), markName)
		}
	}
	b, err := json.Marshal(mark{version, "backups of a Waypost cluster; see docs/operating.md"})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(root, markName), append(b, '\n'), 0o600)
}

// Close ends the writing.
func (a *Archive) Close() error {
	if a.lock == nil {
		return nil
	}
	return a.lock.Unlock()
}

func (a *Archive) user(u director.User) string {
	return filepath.Join(a.root, "users", fence.Shard(u), string(u))
}

func (a *Archive) generation(u director.User, n int) string {
	return filepath.Join(a.user(u), fmt.Sprintf("%06d", n))
}

// Users lists those who have a generation, by name.
func (a *Archive) Users() ([]director.User, error) {
	dirs, err := filepath.Glob(filepath.Join(glob(a.root), "users", "??", "*"))
	if err != nil {
		return nil, err
	}
	var users []director.User
	for _, dir := range dirs {
		u, err := director.ParseUser(filepath.Base(dir))
		if err != nil || a.user(u) != dir {
			continue
		}
		if gens, err := a.Generations(u); err == nil && len(gens) > 0 {
			users = append(users, u)
		} else if err != nil {
			return nil, err
		}
	}
	slices.Sort(users)
	return users, nil
}

// glob quotes what a pattern has meanings for.
func glob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Generations gives a user's generations, oldest first; none is no error.
func (a *Archive) Generations(u director.User) ([]int, error) {
	entries, err := os.ReadDir(a.user(u))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("backups of %s: %w", u, err)
	}
	var gens []int
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err == nil && n > 0 && e.IsDir() && filepath.Base(a.generation(u, n)) == e.Name() {
			gens = append(gens, n)
		}
	}
	slices.Sort(gens)
	return gens, nil
}

// Generation is one that can be read.
type Generation struct {
	Meta
	Entries []control.ManifestEntry
	// Tree is its folder.
	Tree string
}

// Meta reads what a generation is; n 0 is the newest. ErrNone if there is none.
func (a *Archive) Meta(u director.User, n int) (Meta, error) {
	var m Meta
	if n == 0 {
		gens, err := a.Generations(u)
		if err != nil {
			return m, err
		}
		if len(gens) == 0 {
			return m, fmt.Errorf("user %s in %s: %w", u, a.root, ErrNone)
		}
		n = gens[len(gens)-1]
	}
	b, err := os.ReadFile(filepath.Join(a.generation(u, n), metaName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("generation %d of %s in %s: %w", n, u, a.root, ErrNone)
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	switch {
	case err != nil:
	case m.Version > version:
		err = ErrVersion
	case m.User != u || m.Generation != n:
		err = fmt.Errorf("it says that it is generation %d of %s", m.Generation, m.User)
	}
	if err != nil {
		return m, fmt.Errorf("generation %d of %s: %w", n, u, err)
	}
	return m, nil
}

// Read reads a generation's manifest; n 0 is the newest.
func (a *Archive) Read(u director.User, n int) (Generation, error) {
	m, err := a.Meta(u, n)
	if err != nil {
		return Generation{}, err
	}
	dir := a.generation(u, m.Generation)
	g := Generation{Meta: m, Tree: filepath.Join(dir, treeName)}
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err == nil {
		err = json.Unmarshal(b, &g.Entries)
	}
	if err == nil && manifest.Summary(control.Manifest{Entries: g.Entries}).Digest != m.Contents {
		err = errors.New("the manifest is not the one that was written")
	}
	if err != nil {
		return g, fmt.Errorf("generation %d of %s: %w", m.Generation, u, err)
	}
	return g, nil
}

// layout is a manifest's digest without those of contents.
func layout(entries []control.ManifestEntry) string {
	bare := slices.Clone(entries)
	for i := range bare {
		bare[i].Digest = ""
	}
	return manifest.Summary(control.Manifest{Entries: bare}).Digest
}

// Keep removes all but the newest keep generations of a user; 0 keeps all.
func (a *Archive) Keep(u director.User, keep int) (removed int, err error) {
	gens, err := a.Generations(u)
	if err != nil || keep <= 0 {
		return 0, err
	}
	for _, n := range gens[:max(0, len(gens)-keep)] {
		doomed := filepath.Join(a.user(u), fmt.Sprintf("%s%06d", dropPrefix, n))
		if err := os.Rename(a.generation(u, n), doomed); err != nil {
			return removed, fmt.Errorf("generation %d of %s: %w", n, u, err)
		}
		removed++
	}
	doomed, err := filepath.Glob(filepath.Join(glob(a.user(u)), dropPrefix+"*"))
	for _, dir := range doomed {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return removed, err
}
