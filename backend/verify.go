package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/backend/manifest"
	"waypost/backend/mutf7"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/vfs"
)

// verifyCall is PathVerify: it changes nothing, and reads every message.
func (b *Server) verifyCall(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.VerifyRequest](r, cluster.RoleDirector, cluster.RoleAdmin)
	if err == nil {
		req.User, err = director.ParseUser(string(req.User))
		if err != nil {
			err = refuse(control.CodeBad, "%v", err)
		}
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	c := &checker{b: b}
	ctx, cancel := c.whileServing(r.Context())
	defer cancel()
	out := control.NewCheckWriter(w)
	v, err := b.verify(ctx, req, out.Finding)
	if err == nil {
		out.Verified(v)
	}
	out.End(err)
}

// verify compares what a move brought with what is there now.
func (b *Server) verify(ctx context.Context, req control.VerifyRequest, emit func(control.Finding)) (control.Verified, error) {
	var none control.Verified
	f := b.fenceOf(req.User)
	if f.State != fence.Serving {
		return none, refuse(control.CodeFence, "fence is %s: the user is not served here", f)
	}
	r, err := b.disk.readReceipt(req.User, req.Epoch)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return none, refuse(control.CodeBad, "this backend has no receipt of the move of %s at epoch %d: it is older than receipts, or than %d days", req.User, req.Epoch, int(receiptKeep.Hours()/24))
	case errors.Is(err, errReceipt):
		return none, refuse(control.CodeDiffers, "%v", err)
	case err != nil:
		return none, err
	case r.head.Target != req.Digest:
		return none, refuse(control.CodeDiffers, "the receipt here is %s, the directory's %s", r.head.Target, req.Digest)
	}
	v := verification{b: b, user: req.User, receipt: r, live: manifest.NewTracker(b.disk.live(req.User))}
	return v.run(ctx, emit)
}

// verification is one run. It reads the user's files and opens nothing: a store that
// opens a folder takes a file that is gone for one that somebody expunged by hand.
type verification struct {
	b       *Server
	user    director.User
	receipt *receipt
	// live reads every message once, whatever is remembered of it elsewhere.
	live *manifest.Tracker
	out  control.Verified
}

const (
	// looks is how often the tree is read for what was not found, lookAgain the
	// pause between: a user who works renames and expunges meanwhile.
	looks     = 3
	lookAgain = 300 * time.Millisecond
)

func (v *verification) run(ctx context.Context, emit func(control.Finding)) (control.Verified, error) {
	var all []receiptLine
	for p, l := range v.receipt.lines {
		if manifest.IsMessage(string(p)) {
			all = append(all, l)
		}
	}
	var missing []lost
	for look := 1; ; look++ {
		v.out = control.Verified{Digest: v.receipt.head.Target, Messages: int64(len(all))}
		err := v.live.Update(ctx, manifest.HashAll)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the user works
			return v.out, err
		}
		if missing, err = v.expunged(v.match(all, v.live.Manifest())); err != nil {
			return v.out, err
		}
		v.out.Missing = int64(len(missing))
		if len(missing) == 0 || look == looks {
			break
		}
		pause(ctx, lookAgain)
	}
	slices.SortFunc(missing, func(a, b lost) int { return strings.Compare(string(a.Path), string(b.Path)) })
	for _, l := range missing {
		emit(control.Finding{
			User: v.user, Backend: v.b.cfg.ID, Folder: folderName(folderOfMessage(l.Path)), Kind: control.KindMissing, Level: control.LevelProblem,
			What: fmt.Sprintf("%s (UID %d, %d bytes) %s", l.Path, l.UID, l.Size, l.why),
			Do:   "look for it in the trash of the former home, or in a backup",
		})
	}
	return v.out, nil
}

// lost is a message that nothing accounts for.
type lost struct {
	receiptLine
	why string
}

// what names contents: the same under all names.
type what struct {
	size   int64
	digest string
}

// match counts what is there with its contents, and gives the rest. A message counts
// for one: copies that are gone are not covered by the one that is left.
func (v *verification) match(open []receiptLine, live control.Manifest) []receiptLine {
	there := make(map[control.TreePath]what, len(live.Entries))
	spare := make(map[what]int)
	for _, e := range live.Entries {
		if manifest.IsMessage(string(e.Path)) {
			there[e.Path] = what{e.Size, e.Digest}
			spare[what{e.Size, e.Digest}]++
		}
	}
	var rest []receiptLine
	for _, l := range open {
		w := what{l.Size, l.Digest}
		if there[l.Path] == w {
			spare[w]--
			v.out.Same++
		} else {
			rest = append(rest, l)
		}
	}
	open, rest = rest, nil
	for _, l := range open {
		w := what{l.Size, l.Digest}
		if spare[w] > 0 {
			spare[w]--
			v.out.Changed++
		} else {
			rest = append(rest, l)
		}
	}
	return rest
}

// expunged counts what the folders' own history says was expunged, and gives the
// rest, with what is known of each.
func (v *verification) expunged(open []receiptLine) (rest []lost, err error) {
	byFolder := make(map[control.TreePath][]receiptLine)
	for _, l := range open {
		f := folderOfMessage(l.Path)
		byFolder[f] = append(byFolder[f], l)
	}
	for folder, lines := range byFolder {
		known, why, err := v.history(folder)
		if err != nil {
			return nil, fmt.Errorf("verify %s: %w", folder, err)
		}
		for _, l := range lines {
			switch {
			case known != nil && l.UID != 0 && known(l.UID):
				v.out.Expunged++
			case why != "":
				rest = append(rest, lost{l, why})
			case l.UID == 0:
				rest = append(rest, lost{l, "is not there, and had no UID yet by which its folder's history could tell"})
			default:
				rest = append(rest, lost{l, "is not there with its contents, and was not expunged"})
			}
		}
	}
	return rest, nil
}

// history tells whether a folder knows of a UID as expunged; nil, and why, where it
// cannot tell.
func (v *verification) history(folder control.TreePath) (known func(uint32) bool, why string, err error) {
	dir := filepath.Join(v.b.disk.live(v.user), filepath.FromSlash(string(folder)))
	list, err := readUIDList(filepath.Join(dir, uidlistName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "is not there, nor is its folder: the user deleted it, or it was lost", nil
	}
	if err != nil {
		return nil, "", err
	}
	if list.Header.Validity != v.receipt.head.Validity[folder] {
		return nil, "is not there, and its folder is another of that name by now", nil
	}
	gone, complete, err := v.b.expungeHistory(dir, list.Header)
	if err != nil {
		return nil, "", err
	}
	listed := make(map[uint32]bool, len(list.Entries))
	for _, e := range list.Entries {
		listed[e.UID] = true
	}
	return func(uid uint32) bool {
		for _, r := range gone {
			if r.First <= uid && uid <= r.Last {
				return true
			}
		}
		// Where the history has been cut, the list tells: a UID that was given and
		// is in it no more was taken out after an expunge.
		return !complete && uid < list.Header.Next && !listed[uid]
	}, "", nil
}

// expungeHistory reads a folder's history from a copy: reading it in its place may
// mend it, which is its owner's business.
func (b *Server) expungeHistory(dir string, h uidlist.Header) (gone []state.Range, complete bool, err error) {
	tmp, err := os.MkdirTemp(b.disk.parkedRoot(), purgePrefix+"verify-")
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	err = copyPlain(filepath.Join(dir, state.FileName), filepath.Join(tmp, state.FileName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	st, err := state.Load(vfs.OS, state.Folder{Dir: tmp, GUID: h.GUID, Validity: h.Validity, Next: h.Next}, time.Now(), false)
	if err != nil {
		return nil, false, err
	}
	gone, complete = st.ExpungedSince(0)
	return gone, complete, nil
}

// folderOfMessage is the folder's path, "Maildir" or "Maildir/.A.B".
func folderOfMessage(p control.TreePath) control.TreePath {
	return control.TreePath(path.Dir(path.Dir(string(p))))
}

// folderName gives the mailbox name of a folder's path.
func folderName(p control.TreePath) string {
	rel := strings.TrimPrefix(filepath.ToSlash(string(p)), "Maildir")
	rel = strings.TrimPrefix(strings.TrimPrefix(rel, "/"), ".")
	if rel == "" {
		return mailbox.Inbox
	}
	parts := strings.Split(rel, ".")
	for i, part := range parts {
		if text, err := mutf7.Decode(part); err == nil {
			parts[i] = text
		}
	}
	return strings.Join(parts, string(mailbox.Separator))
}

// baseName is a message's name in uidlists.
func baseName(p control.TreePath) string {
	n, _ := name.Parse(path.Base(string(p)))
	return n.Base
}
