// Package manifest says what a user's tree holds, so that two backends can
// prove that they hold the same (design, "Moving a user").
//
// A manifest lists every file and folder under the user's folder, with size
// and SHA-256, and for messages the modification time (INTERNALDATE). Derived
// files and litter are left out: what a move need not carry. Message files, and
// segments of text indexes, never change their contents under one unique name: their
// digests are taken once. A text index is derived, too, but costs much to make: it
// is carried.
//
// # Keeping up
//
// A Tracker holds the manifest of one tree in memory and brings it up to date, so that
// inside busy only what is new is listed and hashed, whatever the mailbox's size. Three
// things tell it what is new:
//
//   - Changes, the file system through which a backend writes, notes each name that
//     is made, changed or removed: the change list;
//   - the modification time of each folder, compared before and after each of those: a
//     folder that somebody else has changed, or of which anything is not known, is
//     listed again;
//   - size and times of each file that may be changed in place; there are few.
//
// So the change list only makes it quicker. What it cannot see: somebody else's change
// of a folder within one tick of the clock of one of ours, and of a message's date by hand;
// the comparison of the source's names before its tree is purged is for that.
//
// A Tracker may keep what it knows in a file beside the tree (Keep): after a crash
// digests are taken from there, for files that have the same name but for flags, inode,
// size and modification time. The target writes them only for files that it has synced.
//
// # Digests
//
// The digest of a manifest is a tree's: the entries, by a hash of their paths, are in
// 65,536 buckets; each has a SHA-256 over its entries in order, and the digest is one over
// the buckets. It covers every field of every entry, and a change costs one bucket. By
// the same buckets two backends find out where they differ (Query, Delta).
package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/backend/control"
)

// Scan reads the whole tree under root and says what it holds.
func Scan(ctx context.Context, root string) (control.Manifest, error) {
	t := NewTracker(root)
	if err := t.Update(ctx, HashAll); err != nil {
		return control.Manifest{}, err
	}
	return t.Manifest(), nil
}

// HexDigest is how digests are written.
func HexDigest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// IsMessage tells whether a path relative to the user's folder is a message.
func IsMessage(rel string) bool {
	dir := filepath.Base(filepath.Dir(rel))
	return strings.HasPrefix(rel, "Maildir/") && (dir == "cur" || dir == "new") && !strings.HasSuffix(rel, "/")
}

// immutable tells whether a file keeps its contents as long as it has its name.
func immutable(rel string) bool {
	return IsMessage(rel) || strings.HasPrefix(rel, textIndex+"/") && strings.HasSuffix(rel, ".zap")
}

// textIndex is the folder of package fulltext.
const textIndex = "waypost-fulltext"

// Skip tells what a move does not carry: files in tmp (the folder itself is
// carried), locks, half-written replacements, and derived indexes.
func Skip(rel string, dir bool) bool {
	base := filepath.Base(rel)
	if dir {
		// ".waypost-x" is a user's folder "waypost-x"; ours begin with two dots.
		return strings.HasPrefix(base, "..waypost-")
	}
	if IsMessage(rel) {
		return strings.HasPrefix(base, ".") // no message's name begins so
	}
	return filepath.Base(filepath.Dir(rel)) == "tmp" ||
		strings.HasSuffix(base, ".lock") || strings.HasSuffix(base, ".tmp") ||
		strings.HasPrefix(base, "dovecot.index") || strings.HasPrefix(base, "waypost-index") || strings.HasPrefix(base, ".tmp") || strings.HasPrefix(base, ".waypost-")
}

// Summary digests a manifest: equal digests mean equal manifests.
func Summary(m control.Manifest) control.ManifestSummary {
	var x index
	for _, e := range m.Entries {
		x.add(&file{Entry: fromControl(e)})
	}
	return x.summary()
}

// FlatSummary is Summary with the digest that backends know who take manifests by
// control.PathManifest: one over all entries in order.
func FlatSummary(m control.Manifest) control.ManifestSummary {
	s := Summary(m)
	h := sha256.New()
	for _, e := range m.Entries {
		// Every field ends in a byte that cannot be in it; a path may hold
		// anything but NUL.
		fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\n", e.Path, strconv.FormatInt(e.Size, 10), strconv.FormatInt(e.MTime, 10), e.Digest)
	}
	s.Digest = HexDigest(h)
	return s
}

// Proves tells whether a manifest has that digest, in either form.
func Proves(m control.Manifest, digest string) bool {
	return Summary(m).Digest == digest || FlatSummary(m).Digest == digest
}

func sortEntries(all []control.ManifestEntry) {
	slices.SortFunc(all, func(a, b control.ManifestEntry) int { return strings.Compare(string(a.Path), string(b.Path)) })
}

// MTime is a message's modification time as manifests count it.
func MTime(e control.ManifestEntry) time.Time { return time.Unix(e.MTime, 0) }
