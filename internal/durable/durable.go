// Package durable makes changes to the file system that survive a crash.
//
// It promises that when a call returns nil, its change is on the disk: the
// bytes of the file and the folder entry that names it. When a call returns an
// error the old state and the new one are both possible after a crash, but
// never a mixture: a file replaced by WriteFile is whole, the old or the new.
// Calls do not retry a failed fsync, because the kernel may have dropped the
// unwritten pages and would answer the second call with a success.
//
// The work is done by package vfs, whose helpers do the same on any file system;
// this package is them on the machine's own.
//
// It owns nothing but the temporary files it makes (TempPrefix) and the lock
// file of a data folder (LockName). A crash may leave a temporary file behind;
// whoever owns the folder may remove those at start.
//
// All calls are safe for concurrent use. Of two concurrent WriteFile calls for
// one path one wins as a whole.
package durable

import (
	"fmt"
	"io"
	"io/fs"

	"waypost/internal/vfs"
)

// TempPrefix begins the name of every temporary file this package makes.
const TempPrefix = vfs.TempPrefix

// WriteFile replaces the file at path by data, or creates it, durably and
// atomically. The file gets exactly the permissions perm, whatever the umask.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return vfs.ReplaceFile(vfs.OS, path, data, perm)
}

// WriteFunc is WriteFile for contents too large to hold in memory: write is
// called once with the new file. If it fails nothing changes, and its error is
// returned wrapped.
func WriteFunc(path string, perm fs.FileMode, write func(io.Writer) error) error {
	return vfs.ReplaceFunc(vfs.OS, path, perm, write)
}

// CreateFile is WriteFile for a file that must not exist yet: if there is one
// it is left alone and the error is fs.ErrExist.
func CreateFile(path string, data []byte, perm fs.FileMode) error {
	return vfs.CreateFile(vfs.OS, path, data, perm)
}

// SyncDir makes the entries of the folder at path durable: names added,
// renamed and removed in it.
func SyncDir(path string) error {
	if err := vfs.OS.SyncDir(path); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

// Rename renames a file or folder and syncs the folders it left and entered;
// what newPath names is replaced if it is a file or an empty folder. The
// contents are the caller's to sync, before.
func Rename(oldPath, newPath string) error {
	return vfs.Rename(vfs.OS, oldPath, newPath)
}

// Remove removes a file or an empty folder and syncs the folder it was in.
// Removing what does not exist is an error (fs.ErrNotExist).
func Remove(path string) error {
	return vfs.Remove(vfs.OS, path)
}

// MkdirAll creates the folder path with whatever parents are missing, and syncs
// every folder that got a new entry. It is no error if path is a folder already.
func MkdirAll(path string, perm fs.FileMode) error {
	return vfs.MkdirAll(vfs.OS, path, perm)
}
