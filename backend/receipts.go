package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir/uidlist"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
)

// receipts keeps the bases of moves under way in memory, so that a seal need not
// read its own again. It is bounded: without it, the receipt is written whole.
type receipts struct {
	mu    sync.Mutex
	bases map[director.User]receiptBase
}

type receiptBase struct {
	epoch director.Epoch
	*receipt
}

func (r *receipts) put(u director.User, b receiptBase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other := range r.bases {
		if len(r.bases) < maxDigests {
			break
		}
		delete(r.bases, other)
	}
	r.bases[u] = b
}

func (r *receipts) get(u director.User, epoch director.Epoch) *receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.bases[u]; b.epoch == epoch {
		return b.receipt
	}
	return nil
}

func (r *receipts) forget(u director.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.bases, u)
}

// pullKept is PathPull: a pass, counted for the load, and, behind a hot one that
// changed something, the base of the receipt.
func (b *Server) pullKept(ctx context.Context, req control.PullRequest, report func(control.PullProgress)) (control.PullProgress, error) {
	var seen int64
	count := func(p control.PullProgress) {
		b.load.pulled(p.Bytes - seen)
		seen = p.Bytes
	}
	done, err := b.pull(ctx, req, func(p control.PullProgress) { count(p); report(p) })
	count(done)
	if err != nil || req.Final {
		return done, err
	}
	if done.Files+done.Renamed+done.Removed == 0 && b.receipts.get(req.User, req.Epoch) != nil {
		return done, nil
	}
	_, err = with(b, req.User, func(u *user) (struct{}, error) { return struct{}{}, u.keepBase(ctx, req.Epoch) })
	if err != nil && ctx.Err() == nil {
		// The seal writes a whole one.
		b.log.Warn("no base of the receipt", "user", req.User, "error", err)
	}
	return done, nil
}

// keepBase writes the base of the receipt, while the user still works.
func (u *user) keepBase(ctx context.Context, epoch director.Epoch) error {
	u.tree.Lock()
	defer u.tree.Unlock()
	if f := u.fenceNow(); f.State != fence.Incoming || f.Epoch != epoch {
		return nil
	}
	r, err := u.stagedReceipt(ctx, epoch, nil, "")
	if err != nil {
		return err
	}
	u.b.receipts.forget(u.name)
	if err := r.head.write(u.b.disk.receiptBase(u.name, epoch), r.changes(&receipt{})); err != nil {
		return err
	}
	u.b.receipts.put(u.name, receiptBase{epoch, r})
	return nil
}

// stagedReceipt makes the receipt of staging as it is; want is the digest it was sealed with,
// or "". UIDs of folders whose list is as in base are taken from there. Called under tree.
func (u *user) stagedReceipt(ctx context.Context, epoch director.Epoch, base *receipt, want string) (*receipt, error) {
	root := u.b.disk.staging(u.name)
	staged, err := u.b.digests.staged(u.name)
	if err == nil {
		err = staged.Update(ctx, manifest.HashAll)
	}
	if err != nil {
		return nil, err
	}
	m, sum := staged.Manifest(), staged.Summary().Digest
	if want != "" && sum != want {
		sum = manifest.FlatSummary(m).Digest // of a source that knows no other
	}
	r := &receipt{lines: make(map[control.TreePath]receiptLine, len(m.Entries))}
	r.head = receiptHead{Version: receiptVersion, User: u.name, Epoch: epoch, Target: sum, Made: time.Now().UTC(), Validity: make(map[control.TreePath]uint32)}
	for _, e := range m.Entries {
		r.lines[e.Path] = receiptLine{ManifestEntry: e}
	}
	uids := make(map[control.TreePath]map[string]uint32)
	for _, e := range m.Entries {
		if path.Base(string(e.Path)) != uidlistName {
			continue
		}
		folder := folderOf(e.Path)
		if base != nil && base.lines[e.Path].ManifestEntry == e {
			r.head.Validity[folder] = base.head.Validity[folder]
			continue
		}
		validity, of, err := readUIDs(filepath.Join(root, filepath.FromSlash(string(e.Path))))
		if err != nil {
			u.b.log.Warn("a receipt without UIDs", "user", u.name, "file", string(e.Path), "error", err)
			continue
		}
		r.head.Validity[folder], uids[folder] = validity, of
	}
	for p, l := range r.lines {
		if !manifest.IsMessage(string(p)) {
			continue
		}
		if of, read := uids[folderOfMessage(p)]; read {
			l.UID = of[baseName(p)]
		} else if base != nil {
			l.UID = base.lines[p].UID
		}
		r.lines[p] = l
	}
	return r, nil
}

const uidlistName = "dovecot-uidlist"

// folderOf is the folder that a uidlist is of.
func folderOf(p control.TreePath) control.TreePath { return control.TreePath(path.Dir(string(p))) }

func readUIDs(file string) (validity uint32, uids map[string]uint32, err error) {
	parsed, err := readUIDList(file)
	if err != nil {
		return 0, nil, err
	}
	uids = make(map[string]uint32, len(parsed.Entries))
	for _, e := range parsed.Entries {
		uids[e.Base] = e.UID
	}
	return parsed.Header.Validity, uids, nil
}

func readUIDList(file string) (uidlist.Parsed, error) {
	f, err := os.Open(file)
	if err != nil {
		return uidlist.Parsed{}, err
	}
	defer f.Close()
	return uidlist.Parse(f)
}

// sealKept is PathSeal: the seal, and then, before it is answered, the receipt.
func (b *Server) sealKept(ctx context.Context, from cluster.Peer, req control.SealRequest) (control.ManifestSummary, error) {
	sum, err := b.seal(ctx, from, req)
	if err != nil {
		return sum, err
	}
	return with(b, req.User, func(u *user) (control.ManifestSummary, error) { return sum, u.keepReceipt(ctx, req) })
}

// keepReceipt writes the receipt of sealed staging, once.
func (u *user) keepReceipt(ctx context.Context, req control.SealRequest) error {
	u.tree.Lock()
	defer u.tree.Unlock()
	d, epoch := u.b.disk, req.Epoch
	if f := u.fenceNow(); f.State != fence.Sealed || f.Epoch != epoch || f.Digest != req.Digest {
		return refuse(control.CodeFence, "fence became %s before the receipt was written", f)
	}
	if h, _, err := readReceiptFile(d.receipt(u.name, epoch)); err == nil && h.Target == req.Digest {
		return nil
	}
	base := u.b.receipts.get(u.name, epoch)
	r, err := u.stagedReceipt(ctx, epoch, base, req.Digest)
	if err != nil {
		return err
	}
	if r.head.Target != req.Digest {
		return refuse(control.CodeDiffers, "sealed staging is %s, the manifest %s", r.head.Target, req.Digest)
	}
	r.head.Source = req.Digest
	if base == nil {
		base = &receipt{}
	} else {
		r.head.OnBase = true
	}
	if err := r.head.write(d.receipt(u.name, epoch), r.changes(base)); err != nil {
		return err
	}
	u.b.receipts.forget(u.name)
	return nil
}

// receiptKeep is how long receipts are kept for those who verify later.
const receiptKeep = 90 * 24 * time.Hour

// oldReceipts removes receipts that are too old, of earlier moves, or of moves that
// came to nothing.
func (j *janitor) oldReceipts(ctx context.Context) error {
	shards, err := os.ReadDir(j.b.disk.receiptRoot())
	if err != nil {
		return err
	}
	for _, s := range shards {
		dir := filepath.Join(j.b.disk.receiptRoot(), s.Name())
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		newest := make(map[director.User]director.Epoch)
		for _, f := range files {
			if u, e, ok := trashName(f.Name()); ok {
				newest[u] = max(newest[u], e)
			}
		}
		for _, f := range files {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			old, err := j.receiptIsOld(f, newest)
			if err == nil && old {
				err = durable.Remove(filepath.Join(dir, f.Name()))
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("receipts: %w", err)
			}
		}
	}
	return nil
}

func (j *janitor) receiptIsOld(f fs.DirEntry, newest map[director.User]director.Epoch) (bool, error) {
	st, err := f.Info()
	if err != nil {
		return false, err
	}
	u, epoch, ok := trashName(strings.TrimSuffix(f.Name(), baseSuffix))
	switch {
	case !ok:
		// Half a file of a crash.
		return time.Since(st.ModTime()) > time.Hour, nil
	case j.b.fenceOf(u).State == fence.Incoming, j.b.fenceOf(u).State == fence.Sealed:
		return false, nil // a move is on its way
	case epoch < newest[u]:
		return true, nil
	case strings.HasSuffix(f.Name(), baseSuffix) && epoch != newest[u]:
		return true, nil // a base, and no receipt: the move came to nothing
	}
	return time.Since(st.ModTime()) > max(receiptKeep, 2*j.b.cfg.TrashGrace), nil
}
