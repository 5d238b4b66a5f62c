package backend

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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
	// mark is of the manifest of staging, when it was that of the base; lists are its
	// uidlists, by folder.
	mark  *manifest.Mark
	lists map[control.TreePath]uidTable
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

func (r *receipts) get(u director.User, epoch director.Epoch) *receiptBase {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.bases[u]; ok && b.epoch == epoch {
		return &b
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
	staged, err := u.b.digests.staged(u.name)
	if err == nil {
		err = staged.Update(ctx, manifest.HashAll)
	}
	if err != nil {
		return err
	}
	m, mark := staged.Mark()
	r, lists := u.stagedReceipt(m, epoch, staged.Summary().Digest)
	u.b.receipts.forget(u.name)
	if err := r.head.write(u.b.disk.receiptBase(u.name, epoch), r.changes(&receipt{})); err != nil {
		return err
	}
	u.b.receipts.put(u.name, receiptBase{epoch, r, mark, lists})
	return nil
}

// stagedReceipt makes the receipt of staging, which holds m. Called under tree.
func (u *user) stagedReceipt(m control.Manifest, epoch director.Epoch, digest string) (*receipt, map[control.TreePath]uidTable) {
	r := &receipt{head: u.receiptHead(epoch, digest), lines: make(map[control.TreePath]receiptLine, len(m.Entries))}
	lists := make(map[control.TreePath]uidTable)
	for _, e := range m.Entries {
		r.lines[e.Path] = receiptLine{ManifestEntry: e}
		if path.Base(string(e.Path)) != uidlistName {
			continue
		}
		t, err := readUIDs(u.stagedPath(e.Path))
		if err != nil {
			u.b.log.Warn("a receipt without UIDs", "user", u.name, "file", string(e.Path), "error", err)
			continue
		}
		folder := folderOf(e.Path)
		r.head.Validity[folder], lists[folder] = t.validity, t
	}
	for p, l := range r.lines {
		if manifest.IsMessage(string(p)) {
			l.UID = lists[folderOfMessage(p)].of[baseName(p)]
			r.lines[p] = l
		}
	}
	return r, lists
}

func (u *user) receiptHead(epoch director.Epoch, digest string) receiptHead {
	return receiptHead{Version: receiptVersion, User: u.name, Epoch: epoch, Target: digest, Made: time.Now().UTC(), Validity: make(map[control.TreePath]uint32)}
}

func (u *user) stagedPath(p control.TreePath) string {
	return filepath.Join(u.b.disk.staging(u.name), filepath.FromSlash(string(p)))
}

// changesOn makes the receipt of what has changed since base, at a cost that does not depend
// on how much has not, but where a uidlist was written anew: then UIDs of messages that have
// not changed themselves are compared. ok is false where changes say too little.
func (u *user) changesOn(base *receiptBase, changes []manifest.Change, digest string) (h receiptHead, lines []receiptLine, ok bool) {
	h = u.receiptHead(base.epoch, digest)
	maps.Copy(h.Validity, base.head.Validity)
	more := make(map[control.TreePath]uidTable)
	anew, changed := make(map[control.TreePath]bool), make(map[control.TreePath]bool, len(changes))
	for _, c := range changes {
		if path.Base(string(c.Entry.Path)) != uidlistName {
			continue
		}
		folder := folderOf(c.Entry.Path)
		had, has := base.lists[folder]
		if c.Gone || !has {
			return h, nil, false
		}
		t, grown, err := had.grown(u.stagedPath(c.Entry.Path))
		if err == nil && !grown {
			anew[folder] = true
			t, err = readUIDs(u.stagedPath(c.Entry.Path))
		}
		if err != nil {
			return h, nil, false
		}
		h.Validity[folder], more[folder] = t.validity, t
	}
	for _, c := range changes {
		p := c.Entry.Path
		changed[p] = true
		l := receiptLine{ManifestEntry: c.Entry, Gone: c.Gone}
		if !c.Gone && manifest.IsMessage(string(p)) {
			folder, name := folderOfMessage(p), baseName(p)
			if l.UID = more[folder].of[name]; l.UID == 0 && !anew[folder] {
				l.UID = base.lists[folder].of[name]
			}
		}
		if have, there := base.lines[p]; there && have == l || !there && c.Gone {
			continue // it is as it was
		}
		lines = append(lines, l)
	}
	return h, append(lines, base.renumbered(more, anew, changed)...), true
}

// renumbered gives the lines of messages, but for those in changed, whose UIDs are others in
// the lists of the folders in anew.
func (b *receiptBase) renumbered(lists map[control.TreePath]uidTable, anew, changed map[control.TreePath]bool) (lines []receiptLine) {
	if len(anew) == 0 {
		return nil
	}
	for p, l := range b.lines {
		if changed[p] || !manifest.IsMessage(string(p)) || !anew[folderOfMessage(p)] {
			continue
		}
		if uid := lists[folderOfMessage(p)].of[baseName(p)]; uid != l.UID {
			l.UID = uid
			lines = append(lines, l)
		}
	}
	return lines
}

const uidlistName = "dovecot-uidlist"

// folderOf is the folder that a uidlist is of.
func folderOf(p control.TreePath) control.TreePath { return control.TreePath(path.Dir(string(p))) }

// uidTable is what a uidlist says.
type uidTable struct {
	validity uint32
	of       map[string]uint32 // by the names of files without flags
	// The lines behind the first one were size bytes long, with that SHA-256.
	size int64
	sum  manifest.Digest
}

func (t *uidTable) fill(p uidlist.Parsed) {
	t.validity, t.of = p.Header.Validity, make(map[string]uint32, len(p.Entries))
	for _, e := range p.Entries {
		t.of[e.Base] = e.UID
	}
}

func readUIDs(file string) (t uidTable, err error) {
	all, err := os.ReadFile(file)
	if err != nil {
		return t, err
	}
	parsed, err := uidlist.Parse(bytes.NewReader(all))
	if err != nil {
		return t, err
	}
	t.fill(parsed)
	head := bytes.IndexByte(all, '\n') + 1
	body := all[head:max(head, min(int(parsed.Size), len(all)))]
	t.size, t.sum = int64(len(body)), sha256.Sum256(body)
	return t, nil
}

func readUIDList(file string) (uidlist.Parsed, error) {
	f, err := os.Open(file)
	if err != nil {
		return uidlist.Parsed{}, err
	}
	defer f.Close()
	return uidlist.Parse(f)
}

// grown reads what was appended to a list since; ok is false if anything else has changed.
func (t uidTable) grown(file string) (more uidTable, ok bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return more, false, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	head, err := r.ReadBytes('\n')
	if err != nil {
		return more, false, err
	}
	h := sha256.New()
	if n, err := io.CopyN(h, r, t.size); n != t.size || manifest.Digest(h.Sum(nil)) != t.sum {
		return more, false, notEnd(err)
	}
	parsed, err := uidlist.Parse(io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		return more, false, err
	}
	more.fill(parsed)
	for name := range more.of {
		if _, twice := t.of[name]; twice {
			return more, false, nil
		}
	}
	return more, true, nil
}

func notEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// keepReceipt writes the receipt of staging that is sealed, or being sealed, with the digest
// of req, once. Called under tree.
func (u *user) keepReceipt(staged *manifest.Tracker, req control.SealRequest) error {
	file := u.b.disk.receipt(u.name, req.Epoch)
	if h, _, err := readReceiptFile(file); err == nil && h.Target == req.Digest {
		return durable.SyncDir(filepath.Dir(file)) // who wrote it may not have come to that
	}
	h, lines := u.receiptFor(staged, req)
	h.Source = req.Digest
	if err := h.write(file, lines); err != nil {
		return err
	}
	u.b.receipts.forget(u.name)
	return nil
}

func (u *user) receiptFor(staged *manifest.Tracker, req control.SealRequest) (receiptHead, []receiptLine) {
	base := u.b.receipts.get(u.name, req.Epoch)
	if base != nil {
		if changes, ok := staged.Since(base.mark); ok {
			if h, lines, ok := u.changesOn(base, changes, req.Digest); ok {
				h.OnBase = true
				return h, lines
			}
		}
	}
	r, _ := u.stagedReceipt(staged.Manifest(), req.Epoch, req.Digest)
	if base == nil {
		return r.head, r.changes(&receipt{})
	}
	r.head.OnBase = true
	return r.head, r.changes(base.receipt)
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
