package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// disk knows where everything of a backend lies:
//
//	VERSION          the layout's version
//	disk.json        the disk's name and its start count (R9)
//	views            which views of folders are believed (viewsRun)
//	rollback-accepted  an operator has accepted that it is an older one
//	journal/         what is not yet in the trees for sure (package journal)
//	outbox/          messages on their way out (package outbox)
//	handed           the hand-offs of sessions that were accepted (package handed)
//	fences/xx/USER   the fences
//	users/xx/USER/   the live trees
//	staging/xx/USER/ trees being pulled, or sealed
//	manifests/xx/USER  what a frozen tree held, until it is in the trash
//	moves/xx/USER/   what is known of the trees of a user who is being moved, and
//	                 long files that have not come wholly (type digests)
//	trash/USER@EPOCH/  trees let go: tree/ and manifest
//	receipts/xx/USER@EPOCH  what moves brought here (receipt.go)
//	parked/USER@EPOCH  staging of moves that were put off, for the next try
//	incoming/        messages that have no place yet
//	snapshots/ID/    what a backup reads, while it reads
//	restoring/xx/USER/  what a restore has put: tree/ and, once it may be served, ready
//
// xx is the user's shard. All lie on one file system, so that a rename moves
// a tree.
type disk struct{ root string }

const layoutVersion = "1"

var layoutFolders = []string{"fences", "users", "staging", "manifests", "trash", "receipts", "parked", "incoming", "journal", "outbox", "snapshots", "restoring"}

// openDisk makes the layout where it is missing, refuses another version, and
// locks the disk against a second process.
func openDisk(root string) (disk, *durable.DirLock, error) {
	d := disk{root}
	fail := func(err error) (disk, *durable.DirLock, error) {
		return disk{}, nil, fmt.Errorf("data folder %s: %w", root, err)
	}
	if err := durable.MkdirAll(root, 0o700); err != nil {
		return fail(err)
	}
	lock, err := durable.Lock(root)
	if err != nil {
		return fail(err)
	}
	v, err := os.ReadFile(filepath.Join(root, "VERSION"))
	fresh := errors.Is(err, fs.ErrNotExist)
	if err == nil && strings.TrimSpace(string(v)) != layoutVersion {
		err = fmt.Errorf("written by another version (layout %s, this waypost reads %s): run the version that wrote it", strings.TrimSpace(string(v)), layoutVersion)
	}
	if err == nil && !fresh {
		err = d.settle()
	}
	if err == nil || fresh {
		err = d.furnish()
	}
	if err == nil && fresh {
		err = durable.WriteFile(filepath.Join(root, "VERSION"), []byte(layoutVersion+"\n"), 0o600)
	}
	if err != nil {
		return fail(errors.Join(err, lock.Unlock()))
	}
	return d, lock, nil
}

// settle makes last what a process that was killed here had done and not flushed: whoever
// finds a folder that it made, or a tree where it renamed it to, takes that to be durable.
func (d disk) settle() error {
	if vfs.OS.SyncAll(d.root) == nil {
		return nil
	}
	// The kernel tells whoever asks first of writes that were lost. Who made those was told
	// already, or told nobody that they last; and replay reads what the disk has of them.
	return vfs.OS.SyncAll(d.root)
}

// furnish makes the folders that are missing.
func (d disk) furnish() error {
	for _, f := range layoutFolders {
		if err := durable.MkdirAll(filepath.Join(d.root, f), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (d disk) in(kind string, u director.User) string {
	return filepath.Join(d.root, kind, fence.Shard(u), string(u))
}

func (d disk) fences() string                  { return filepath.Join(d.root, "fences") }
func (d disk) incoming() string                { return filepath.Join(d.root, "incoming") }
func (d disk) live(u director.User) string     { return d.in("users", u) }
func (d disk) staging(u director.User) string  { return d.in("staging", u) }
func (d disk) manifest(u director.User) string { return d.in("manifests", u) }
func (d disk) handed() string                  { return filepath.Join(d.root, "handed") }
func (d disk) trashRoot() string               { return filepath.Join(d.root, "trash") }
func (d disk) trash(u director.User, e director.Epoch) string {
	return filepath.Join(d.trashRoot(), fmt.Sprintf("%s@%d", u, e))
}

// trees are a user's.
func (d disk) trees(u director.User) fence.Trees {
	return fence.Trees{
		FS: vfs.OS, Live: d.live(u), Staging: d.staging(u), Manifest: d.manifest(u),
		Trash: func(e director.Epoch) string { return d.trash(u, e) },
	}
}

func exists(path string) (bool, error) {
	return fence.Exists(vfs.OS, path)
}

// claim renames from to to, durably; nothing happens when from is gone already.
func claim(from, to string) error {
	return fence.Claim(vfs.OS, from, to)
}

// incarnation reads what was written at the last start; zero on a new disk.
func (d disk) incarnation() (director.Incarnation, error) {
	var inc director.Incarnation
	b, err := os.ReadFile(filepath.Join(d.root, "disk.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return inc, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &inc)
	}
	if err != nil {
		return inc, fmt.Errorf("disk.json: %w", err)
	}
	return inc, nil
}

func (d disk) putIncarnation(inc director.Incarnation) error {
	b, err := json.Marshal(inc)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(d.root, "disk.json"), append(b, '\n'), 0o600)
}

// room tells the file system's size and free bytes.
func (d disk) room() (size, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.root, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", d.root, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// beginIncarnation is R9: a disk whose start count is below what the directory
// has seen, or that is another disk, was rolled back or swapped, and serves
// nobody. The disk is written first, so that a crash between leaves it ahead.
func (d disk) beginIncarnation(ctx context.Context, dir *director.Directory, id director.BackendID, newName func() string) error {
	inc, err := d.incarnation()
	if err != nil {
		return err
	}
	seen, err := dir.Incarnation(ctx, id)
	if err != nil && !errors.Is(err, director.ErrNotFound) {
		return err
	}
	known := err == nil
	if known {
		accepted, err := d.accepted(inc, seen)
		if err != nil {
			return err
		}
		if accepted {
			inc.Count = max(inc.Count, seen.Count)
		}
	}
	switch {
	case known && inc.Disk == "":
		return fmt.Errorf("backend %s: %w: the directory knows it, but %s is empty: mount the right disk, or remove the backend from the directory first", id, errRolledBack, d.root)
	case known && (inc.Disk != seen.Disk || inc.Count < seen.Count):
		return fmt.Errorf("backend %s: %w: disk %s start %d, the directory has seen disk %s start %d: bring the newer disk, or see waypost repair --accept-rollback", id, errRolledBack, inc.Disk, inc.Count, seen.Disk, seen.Count)
	}
	if inc.Disk == "" {
		inc.Disk = newName()
	}
	inc.Count++
	if err := d.putIncarnation(inc); err != nil {
		return err
	}
	return dir.PutIncarnation(ctx, id, inc)
}

// errRolledBack: the disk is older than the directory's memory of it.
var errRolledBack = errors.New("this disk was rolled back or swapped and serves nobody")
