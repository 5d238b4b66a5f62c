package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"waypost/backend/control"
	"waypost/backend/manifest"
	"waypost/director"
)

// Bring puts a generation's files to the backend that c calls: what an earlier
// call has put there is not sent again. Nobody is served from it: that is for the
// calls that follow (control.PathRestoreSeal, PathRestoreExchange). fresh drops
// what is there first.
func (g Generation) Bring(ctx context.Context, c *control.Client, fresh bool, progress func(files, bytes int64)) (control.RestorePutReply, error) {
	have, err := control.Call[control.RestoreHave](ctx, c, control.PathRestoreHave, control.RestoreRequest{User: g.User, Fresh: fresh})
	if err != nil {
		return control.RestorePutReply{}, fmt.Errorf("restore %s: %w", g.User, err)
	}
	there := make(map[control.TreePath]control.ManifestEntry, len(have.Files))
	for _, e := range have.Files {
		there[e.Path] = e
	}
	wanted := make(map[control.TreePath]bool, len(g.Entries))
	var send []control.ManifestEntry
	for _, e := range g.Entries {
		wanted[e.Path] = true
		old, ok := there[e.Path]
		// What is no message may have been made safe already: it is sent again.
		if !ok || old.Size != e.Size || old.MTime != e.MTime || !manifest.IsMessage(string(e.Path)) {
			send = append(send, e)
		}
	}
	for p := range there {
		if !wanted[p] && !fresh {
			return g.Bring(ctx, c, true, progress) // of another generation
		}
	}
	reply, err := c.RestorePut(ctx, g.User, func(w io.Writer) error {
		for _, e := range send {
			if err := g.send(w, e); err != nil {
				return err
			}
			if progress != nil {
				progress(1, e.Size)
			}
		}
		return nil
	})
	if err != nil {
		return reply, fmt.Errorf("restore %s: %w", g.User, err)
	}
	return reply, nil
}

func (g Generation) send(w io.Writer, e control.ManifestEntry) error {
	h := control.FileHead{Path: e.Path, Size: e.Size, MTime: e.MTime, Digest: e.Digest}
	if strings.HasSuffix(string(e.Path), "/") {
		return control.WriteHead(w, h)
	}
	f, err := os.Open(filepath.Join(g.Tree, string(e.Path)))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := control.WriteHead(w, h); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(f, e.Size))
	if err == nil && n < e.Size {
		err = fmt.Errorf("%s is shorter than the manifest says: waypost backup verify", e.Path)
	}
	return err
}

// Seal has the backend take what was brought for the user's mailbox-to-be. If what
// it has is not this generation, all is brought once more.
func (g Generation) Seal(ctx context.Context, c *control.Client) (control.FenceReply, error) {
	return again(ctx, g, c, func() (control.FenceReply, error) {
		return control.Call[control.FenceReply](ctx, c, control.PathRestoreSeal, control.RestoreSealRequest{User: g.User, Digest: g.Layout, Taken: g.Taken})
	})
}

// Ready has the home check and prepare what was brought for an exchange.
func (g Generation) Ready(ctx context.Context, c *control.Client) error {
	_, err := again(ctx, g, c, func() (control.RestoreExchanged, error) {
		return control.Call[control.RestoreExchanged](ctx, c, control.PathRestoreExchange, control.RestoreExchangeRequest{User: g.User, Digest: g.Layout, Taken: g.Taken})
	})
	return err
}

func again[T any](ctx context.Context, g Generation, c *control.Client, do func() (T, error)) (T, error) {
	reply, err := do()
	if !control.IsCode(err, control.CodeDiffers) {
		return reply, err
	}
	if _, berr := g.Bring(ctx, c, true, nil); berr != nil {
		return reply, errors.Join(err, berr)
	}
	return do()
}

// SealEmpty has the backend make an empty mailbox for a user of whom there is no
// backup.
func SealEmpty(ctx context.Context, c *control.Client, u director.User) (control.FenceReply, error) {
	return control.Call[control.FenceReply](ctx, c, control.PathRestoreSeal, control.RestoreSealRequest{User: u, Empty: true, Digest: "empty"})
}
