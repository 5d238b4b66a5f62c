// Package check reads one user's tree and says what in it is not as it should be,
// and mends what of it is derived.
//
// # Checking
//
// Names looks at names and at the small files beside them; Messages looks at each
// message: its size, and with Options.Deep its contents. Neither changes a byte.
// Both may run while the user is being served. What Names then says may be of a
// moment in between two steps of a change: if Report.Doubtful says that a finding
// may come of that, the caller calls it once more under the user's lock, with
// everything brought into the files (maildir.Account.Flushed). Messages never
// change under one name, so what is said of them needs no lock; one that is gone
// or renamed meanwhile is passed over.
//
// # Mending
//
// Mend and SetSizes write: uidlist, folder state, keywords file, logs, quota log,
// index. They touch no message, not even its name; a UID that is legible stays
// with its message, and none is given twice. The caller holds the user's lock,
// serves the user (fence), has no Account open, and has flushed the journal. Each
// file is replaced durably or left; a crash in between leaves some of them to the
// next repair. What package maildir mends by itself when a folder is opened is
// left to it: Mend names the folders.
//
// Only the backend imports this package.
package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"waypost/backend/control"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// Options say which tree is looked at. All but Deep and Pause must be set.
type Options struct {
	FS vfs.FS
	// Root is the user's folder: that of Maildir and deliveries.
	Root string
	Now  func() time.Time
	// Deep: Messages reads contents.
	Deep bool
	// Pause is called between pieces of work, so that others get their turn.
	Pause func(context.Context)
}

// Report is what was found. Findings lack user and backend.
type Report struct {
	Findings []control.Finding
	folders  []*folder
	doubtful bool
	sizes    []sized
}

// Doubtful tells whether a change under way may have led to a finding.
func (r *Report) Doubtful() bool { return r.doubtful }

// Keep takes over from an earlier Report of the same tree what is certain, and
// what a look under the lock may have hidden: opening a mailbox mends some of it.
func (r *Report) Keep(earlier Report) {
	for _, f := range earlier.Findings {
		if f.Kind != control.KindQuota || f.What != quotaIllegible {
			continue
		}
		if !r.has(f.Kind) {
			r.Findings = append(r.Findings, f)
		}
	}
}

func (r *Report) has(kind string) bool {
	for _, f := range r.Findings {
		if f.Kind == kind {
			return true
		}
	}
	return false
}

// WrongSizes tells whether SetSizes has anything to do.
func (r *Report) WrongSizes() bool { return len(r.sizes) > 0 }

// folder is one folder of the tree.
type folder struct {
	// rel is its directory under Maildir, dir its path, name what clients call it.
	rel, dir, name string
	// files are its messages by base, letters the keyword letters of their names.
	files   map[string]file
	letters map[byte]bool
	// twice are bases of which there is a second file.
	twice []string

	listed  bool // there is a legible uidlist
	header  uidlist.Header
	entries []uidlist.Entry
}

// file is a message: the path below dir.
type file struct {
	ref   string
	isNew bool
}

// sized is a message whose name is wrong about its size.
type sized struct {
	rel, base string
	count     lineend.Counter
}

const repairIt = "waypost repair USER"

// problem and note add findings.
func (r *Report) problem(f *folder, kind, do, format string, a ...any) {
	r.add(f, kind, control.LevelProblem, do, format, a...)
}

func (r *Report) note(f *folder, kind, do, format string, a ...any) {
	r.add(f, kind, control.LevelInfo, do, format, a...)
}

func (r *Report) add(f *folder, kind string, level control.Level, do, format string, a ...any) {
	x := control.Finding{Kind: kind, Level: level, What: fmt.Sprintf(format, a...), Do: do}
	if f != nil {
		x.Folder = f.name
	}
	r.Findings = append(r.Findings, x)
}

// Names looks at the names of the tree and at all files but messages.
func Names(ctx context.Context, o Options) (Report, error) {
	s := &scanner{Options: o, r: &Report{}, ro: readOnly{o.FS}}
	if err := s.tree(ctx); err != nil {
		return Report{}, fmt.Errorf("check %s: %w", o.Root, err)
	}
	return *s.r, nil
}

// scanner is one run of Names.
type scanner struct {
	Options
	r  *Report
	ro readOnly
	// sum is what the names of all folders come to.
	sum mailbox.Usage
}

func (s *scanner) tree(ctx context.Context) error {
	rels, err := s.maildir()
	if err != nil {
		return err
	}
	for _, rel := range rels {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := newFolder(s.Root, rel)
		err := s.folder(f)
		if errors.Is(err, fs.ErrNotExist) && rel != "" {
			s.r.doubtful = true // deleted meanwhile
			continue
		}
		if err != nil {
			return fmt.Errorf("folder %q: %w", f.name, err)
		}
		s.r.folders = append(s.r.folders, f)
		s.pause(ctx)
	}
	return s.user()
}

func (o *Options) pause(ctx context.Context) {
	if o.Pause != nil {
		o.Pause(ctx)
	}
}

// folder looks at one folder.
func (s *scanner) folder(f *folder) error {
	if err := s.names(f); err != nil {
		return err
	}
	if err := s.count(f); err != nil {
		return err
	}
	if err := s.uidlist(f); err != nil {
		return err
	}
	if err := s.keywords(f); err != nil {
		return err
	}
	return s.beside(f)
}

// names lists the messages of a folder.
func (s *scanner) names(f *folder) error {
	for _, sub := range []string{"cur", "new"} {
		foreign := 0
		err := s.FS.ReadDir(f.path(sub), func(e fs.DirEntry) error {
			n, ok := name.Parse(e.Name())
			if !ok || !e.Type().IsRegular() {
				foreign++
				return nil
			}
			if _, is := f.files[n.Base]; is {
				f.twice = append(f.twice, n.Base)
				return nil
			}
			f.files[n.Base] = file{sub + "/" + e.Name(), sub == "new"}
			for i := range len(n.Flags) {
				f.letters[n.Flags[i]] = true
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) && f.rel != "" {
			// Others make folders without; one that has lost them has entries.
			continue
		}
		if err != nil {
			return err
		}
		if foreign > 0 {
			s.r.note(f, control.KindForeign, "look at "+f.path(sub)+" and move them away", "%d entries in %s that are no messages", foreign, sub)
		}
	}
	if len(f.twice) > 0 {
		s.r.doubtful = true // a rename may show a file under both its names
		s.r.problem(f, control.KindTwice, "open the folder with any client: the second gets a name of its own",
			"%d messages with the name of another, such as %s", len(f.twice), f.twice[0])
	}
	return nil
}

// count adds up sizes as the store does: by the names, and where those do not
// tell, by the files.
func (s *scanner) count(f *folder) error {
	for base, x := range f.files {
		size, _ := name.Sizes(base)
		if size < 0 {
			info, err := s.FS.Lstat(f.path(x.ref))
			if errors.Is(err, fs.ErrNotExist) {
				s.r.doubtful = true
				continue
			}
			if err != nil {
				return err
			}
			size = info.Size()
		}
		s.sum.Bytes += size
		s.sum.Messages++
	}
	return nil
}
