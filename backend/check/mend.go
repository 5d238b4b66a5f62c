package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"waypost/backend/control"
	"waypost/backend/maildir"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/backend/quota"
	"waypost/internal/vfs"
)

// mender is one run of Mend.
type mender struct {
	Options
	limit quota.Limit
	say   func(control.Step)
}

// Mend looks at the names once more and mends what is derived. It tells each thing
// done to say, and gives the names of folders that are to be opened, by which the
// store does the rest. limit is what a new quota log begins with. It goes on with
// the next folder after an error, and gives all errors.
func Mend(ctx context.Context, o Options, limit quota.Limit, say func(control.Step)) (open []string, err error) {
	r, err := Names(ctx, o)
	if err != nil {
		return nil, err
	}
	m := &mender{Options: o, limit: limit, say: say}
	var errs []error
	for _, f := range r.folders {
		kinds := r.kinds(f.name)
		if len(kinds) == 0 || slices.Contains(kinds, control.KindTree) {
			continue
		}
		again, err := m.folder(f, kinds)
		if err != nil {
			errs = append(errs, fmt.Errorf("folder %q: %w", f.name, err))
		} else if again {
			open = append(open, f.name)
		}
	}
	if err := errors.Join(append(errs, m.user(r.kinds("")))...); err != nil {
		return open, fmt.Errorf("repair %s: %w", o.Root, err)
	}
	return open, nil
}

// kinds are those of the findings of a folder; "" for what is the user's.
func (r *Report) kinds(folder string) (kinds []string) {
	for _, f := range r.Findings {
		if f.Folder == folder {
			kinds = append(kinds, f.Kind)
		}
	}
	return kinds
}

func (m *mender) did(folder, format string, a ...any) {
	m.say(control.Step{Folder: folder, Text: fmt.Sprintf(format, a...)})
}

// folder mends one folder; open tells that the store has the rest to do.
func (m *mender) folder(f *folder, kinds []string) (open bool, err error) {
	has := func(kind string) bool { return slices.Contains(kinds, kind) }
	if has(control.KindUIDList) || has(control.KindUIDNext) {
		did, err := m.mendUIDs(f)
		if err != nil {
			return false, err
		}
		if did != "" {
			m.did(f.name, "%s", did)
		}
		open = true
	}
	if has(control.KindState) {
		if err := m.state(f); err != nil {
			return open, err
		}
		open = true // the store notes anew which numbered messages are gone
	}
	if has(control.KindKeywords) {
		if err := m.keywords(f); err != nil {
			return open, err
		}
	}
	if has(control.KindIndex) {
		if err := m.FS.Remove(f.path(indexName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return open, err
		}
		m.did(f.name, "index dropped: it is made anew by itself")
	}
	return open || has(control.KindVanished) || has(control.KindUnnumbered), nil
}

// state has the folder's state distrusted: its owner sees by itself that it is
// damaged, or another's, and lets HIGHESTMODSEQ jump ahead.
func (m *mender) state(f *folder) error {
	list, _, err := uidlist.Load(m.FS, f.dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, uidlist.ErrCorrupt) {
		return nil // the store begins both anew
	}
	if err != nil {
		return err
	}
	h := list.Header()
	st, err := state.Load(m.FS, state.Folder{Dir: f.dir, GUID: h.GUID, Validity: h.Validity, Next: h.Next}, m.Now(), false)
	if errors.Is(err, state.ErrVersion) {
		m.say(control.Step{Folder: f.name, Text: "the folder's state was written by a later version of waypost", Left: true})
		return nil
	}
	if err != nil {
		return err
	}
	m.did(f.name, "state distrusted: HIGHESTMODSEQ is %d, the history of expunges begins anew", st.Highest())
	return nil
}

func (m *mender) keywords(f *folder) error {
	data, err := vfs.ReadFile(m.FS, f.path(keywordsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	words, bad := keywords.Parse(data)
	if bad == 0 {
		return nil
	}
	if err := vfs.ReplaceFile(m.FS, f.path(keywordsName), words.Format(), 0o600); err != nil {
		return err
	}
	m.did(f.name, "keywords file written anew, without %d lines that were not legible", bad)
	return nil
}

// user mends what is no folder's. The quota comes last: it counts what is there.
func (m *mender) user(kinds []string) error {
	var errs []error
	if slices.Contains(kinds, control.KindLitter) {
		errs = append(errs, m.litter())
	}
	if slices.Contains(kinds, control.KindLog) {
		errs = append(errs, m.logs())
	}
	if slices.Contains(kinds, control.KindQuota) {
		errs = append(errs, m.recount())
	}
	return errors.Join(errs...)
}

func (m *mender) litter() error {
	n, err := maildir.RemoveLitter(m.FS, m.Root, m.Now())
	if err != nil {
		return err
	}
	dir := filepath.Join(m.Root, maildirName)
	var old []string
	err = m.FS.ReadDir(dir, func(e fs.DirEntry) error {
		if !strings.HasPrefix(e.Name(), quotaTemp) {
			return nil
		}
		if info, err := e.Info(); err == nil && m.Now().Sub(info.ModTime()) > maildir.LitterAge {
			old = append(old, e.Name())
		}
		return nil
	})
	for _, name := range old {
		err = errors.Join(err, m.FS.Remove(filepath.Join(dir, name)))
	}
	if err == nil && n+len(old) > 0 {
		m.did("", "litter removed: %d files and folders", n+len(old))
	}
	return err
}

// logs has their owners write them without what is not legible.
func (m *mender) logs() error {
	log, err := deliveries.Open(m.FS, filepath.Join(m.Root, deliveriesName), deliveries.Keep, m.Now())
	if err == nil {
		err = log.Ensure(nil)
	}
	if err != nil {
		return err
	}
	memory, err := deliveries.OpenMemory(m.FS, filepath.Join(m.Root, memoriesName), m.Now())
	if err == nil {
		err = memory.Ensure(nil)
	}
	if err == nil {
		m.did("", "delivery ids and memories written anew, without lines that were not legible")
	}
	return err
}

// recount sets the quota log to what the names say.
func (m *mender) recount() error {
	log, err := quota.Open(m.FS, filepath.Join(m.Root, maildirName, quotaName), m.limit)
	if err != nil {
		return err
	}
	var sum quota.Usage
	_, err = log.Recount(func() (quota.Usage, error) {
		s := &scanner{Options: m.Options, r: &Report{}, ro: readOnly{m.FS}}
		rels, err := s.maildir()
		for _, rel := range rels {
			f := newFolder(m.Root, rel)
			err = errors.Join(err, s.names(f), s.count(f))
		}
		sum = quota.Usage(s.sum)
		return sum, err
	})
	if err = errors.Join(err, log.Close()); err == nil {
		m.did("", "quota counted: %d bytes in %d messages", sum.Bytes, sum.Messages)
	}
	return err
}

// SetSizes puts into the uidlists the sizes that names are wrong about, as
// measured for r. Messages keep their names.
func SetSizes(o Options, r *Report, say func(control.Step)) error {
	by := map[string]map[string]sized{}
	for _, x := range r.sizes {
		if by[x.rel] == nil {
			by[x.rel] = map[string]sized{}
		}
		by[x.rel][x.base] = x
	}
	for rel, want := range by {
		f := newFolder(o.Root, rel)
		n, err := setSizes(o.FS, f, want)
		if err != nil {
			return fmt.Errorf("repair %s: folder %q: %w", o.Root, f.name, err)
		}
		if n > 0 {
			say(control.Step{Folder: f.name, Text: fmt.Sprintf("the right sizes of %d messages put into the uidlist", n)})
		}
	}
	return nil
}

func setSizes(fsys vfs.FS, f *folder, want map[string]sized) (n int, err error) {
	list, entries, err := uidlist.Load(fsys, f.dir)
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		x, is := want[e.Base]
		if !is {
			continue
		}
		fields := slices.DeleteFunc(strings.Fields(e.Fields), func(s string) bool { return s[0] == 'S' || s[0] == 'W' })
		entries[i].Fields = strings.Join(append(fields, fmt.Sprintf("S%d", x.count.Size), fmt.Sprintf("W%d", x.count.Wire)), " ")
		n++
	}
	if n == 0 {
		return 0, nil
	}
	return n, list.Rewrite(entries)
}
