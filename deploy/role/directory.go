package role

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"waypost/director"
	"waypost/internal/cluster"
)

// OpenDirectory gives the store that a role's file names, and the identity of that
// role, for tools that work on the directory while no director does. The caller
// closes the store.
func OpenDirectory(ctx context.Context, c Config, log *slog.Logger) (director.Store, *cluster.Identity, error) {
	role, err := c.Role()
	if err != nil {
		return nil, nil, err
	}
	id, err := c.identity(role)
	if err != nil {
		return nil, nil, err
	}
	store, err := c.openStore(ctx, id, log)
	return store, id, err
}

// mayBegin refuses to make a new directory where this node remembers one: etcd has
// lost its data, and an empty directory would have the mx refuse all mail for good.
func (b *base) mayBegin(ctx context.Context) error {
	path := b.cfg.Directory.Snapshot
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("directory.snapshot: %w", err)
	}
	fresh, err := b.dir.IsNew(ctx)
	if err != nil || !fresh {
		return err
	}
	return fmt.Errorf("etcd is empty, but this node has a copy of the directory: `waypost director restore` brings it back; to begin another cluster, remove %s: %w", path, director.ErrUnavailable)
}

// initDirectoryOnce makes schema and era when the directory is new.
func (b *base) initDirectoryOnce(ctx context.Context, newEra func() string) error {
	if err := b.mayBegin(ctx); err != nil {
		return err
	}
	return b.dir.Init(ctx, newEra)
}
