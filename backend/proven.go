package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/manifest"
	"waypost/director"
)

// proven tells whether a tree in the trash may go: the manifest that the source froze
// with is the one that the directory's receipt of that move names, so that the target
// has proven to hold every byte. What a deleted user left needs no proof.
func (j *janitor) proven(ctx context.Context, dir string, name director.User, rec director.Record) error {
	if rec.State == director.Deleted {
		return nil
	}
	file := filepath.Join(dir, "manifest")
	m, err := readManifest(file)
	if errors.Is(err, fs.ErrNotExist) {
		// Only a deletion lets go of a tree that was never frozen.
		return j.ofFormer(ctx, dir, name, "tree")
	}
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	_, epoch, ok := trashName(filepath.Base(dir))
	if !ok {
		return fmt.Errorf("%s is no trash", dir)
	}
	all, err := j.b.dir.Proofs(ctx, name)
	if err != nil {
		return err
	}
	proof, ok := all.Of(j.b.cfg.ID, epoch)
	if !ok {
		// The former person's proofs went with the account.
		return j.ofFormer(ctx, dir, name, "manifest")
	}
	if !manifest.Proves(m, proof.Receipt) {
		j.b.metrics.alarms.Inc()
		return fmt.Errorf("its manifest is %s, the receipt of its move says %s: it is not purged", manifest.Summary(m).Digest, proof.Receipt)
	}
	return nil
}

// ofFormer is nil where what lies in the trash was let go before the account as it
// is now was made (R12): what is as old as the file witness.
func (j *janitor) ofFormer(ctx context.Context, dir string, name director.User, witness string) error {
	a, err := j.b.dir.Account(ctx, name)
	if err != nil {
		return err
	}
	st, err := os.Stat(filepath.Join(dir, witness))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && !a.Value.Created.After(st.ModTime()) {
		return errors.New("the directory has no receipt of a move that let go of it: it is not purged")
	}
	return nil
}

const (
	tidyEvery = time.Hour
	// parkedKeep is how long the staging of a move that was put off is kept for its
	// next try; movers wait for less.
	parkedKeep = 2 * time.Hour
)

// tidy removes what was kept for a while.
func (j *janitor) tidy(ctx context.Context) {
	if err := j.oldReceipts(ctx); err != nil && ctx.Err() == nil {
		j.b.log.Warn("old receipts", "error", err)
	}
	if err := j.oldParked(); err != nil {
		j.b.log.Warn("parked staging", "error", err)
	}
}

// oldParked removes what no move came back for, and, where the disk is filling,
// what one might.
func (j *janitor) oldParked() error {
	root := j.b.disk.parkedRoot()
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	short := j.b.roomFor(0) != nil
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		if short || strings.HasPrefix(e.Name(), purgePrefix) || time.Since(st.ModTime()) > parkedKeep {
			if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
