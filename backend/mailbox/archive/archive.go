// Package archive shows mail that other programs keep, or kept, as folders that can
// be read only: a Maildir or an mbox for each date of a user, or one for all, such as
// a quarantine. It implements mailbox.Box for package mount. Compressed files are not
// read.
//
// # What it owns
//
// Nothing of the archive, which is never written to, nor locked; links below the part
// of the path that is the same for all folders of a user are not followed. UIDs are in the user's own tree, so that they move along:
//
//	<root>/waypost-archives/<archive>/<folder>/uids           (type ledger)
//	<root>/waypost-archives/<archive>/<folder>/waypost-index  (package index)
//
// The folders' names there are escaped. All that is read or written there is so
// under the owner's Guard: the user's lock, and the fence at the epoch of the Box.
// UIDs are durable before they are told.
//
// # Messages
//
// In a Maildir the base of the file's name is the message, in an mbox its place, its
// length and its first KiB. So an mbox that is appended to keeps all UIDs; where one
// was rewritten, what has moved gets new UIDs, and if nothing has stayed the folder
// gets a new UIDVALIDITY. Flags are those of the names, or of Status and X-Status
// fields; keywords are not shown. A message that vanished is gone for good, also if
// it comes back.
//
// # When changes are seen
//
// An archive is looked at, by modification times, at most every Options.Interval, and
// the rarer the longer it took. One folder that was there and is not is an error that
// changes nothing: its file system may not be mounted.
//
// # Rights
//
// "lr". All that would change something fails with mailbox.ErrReadOnly.
package archive

import (
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/vfs"
)

// Dir is the folder of UIDs in a user's root.
const Dir = "waypost-archives"

// Options are a Set's.
type Options struct {
	FS  vfs.FS
	Log *slog.Logger
	Now func() time.Time
	// Interval is how often a folder is looked at; 3 seconds if 0.
	Interval time.Duration
}

// Set is the archives of a backend. It is safe for concurrent use.
type Set struct {
	o       Options
	configs []Config

	mu      sync.Mutex
	shelves map[shelfKey]*shelf
}

// shelfKey: what is known at one epoch is not relied on at another, for the user's
// tree may have been elsewhere in between.
type shelfKey struct {
	user  director.User
	epoch director.Epoch
	name  string
}

// New makes a Set of archives that Validate accepts.
func New(o Options, configs []Config) (*Set, error) {
	var errs []error
	for i, c := range configs {
		errs = append(errs, c.Validate())
		for _, other := range configs[:i] {
			if strings.EqualFold(other.Name, c.Name) {
				errs = append(errs, errors.New("two archives "+c.Name))
			}
		}
	}
	if o.Interval == 0 {
		o.Interval = 3 * time.Second
	}
	return &Set{o: o, configs: configs, shelves: make(map[shelfKey]*shelf)}, errors.Join(errs...)
}

// Validate checks archives together.
func Validate(configs []Config) error {
	_, err := New(Options{}, configs)
	return err
}

// Owner is whose archives are opened, and how.
type Owner struct {
	User  director.User
	Epoch director.Epoch
	// Root is the user's folder.
	Root string
	// Guard runs op under the user's lock if the fence serves Epoch, else it gives the
	// fence's error (R1). It must not be held when a Box is called.
	Guard func(op func() error) error
	// Done is closed when the fence leaves the epoch.
	Done <-chan struct{}
}

// Opened is an archive of a user. The caller closes the Box.
type Opened struct {
	Name string
	Box  mailbox.Box
}

// Open gives a user's archives. Those for which the user's name is not possible are
// left out, with a line in the log.
func (s *Set) Open(o Owner) []Opened {
	var all []Opened
	for _, c := range s.configs {
		t, err := c.compile(o.User)
		if err != nil {
			s.o.Log.Warn("archive not shown", "user", o.User, "archive", c.Name, "error", err)
			continue
		}
		all = append(all, Opened{c.Name, &box{owner: o, shelf: s.shelf(o, c, t)}})
	}
	return all
}

// shelf finds or makes what the Boxes of a user share, and holds it.
func (s *Set) shelf(o Owner, c Config, t tree) *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := shelfKey{o.User, o.Epoch, c.Name}
	x := s.shelves[key]
	if x == nil {
		x = &shelf{set: s, key: key, config: c, tree: t, dir: filepath.Join(o.Root, Dir, escaped(c.Name)), folders: map[string]*folder{}}
		s.shelves[key] = x
	}
	x.boxes++
	return x
}

// release gives a shelf back; the last one closes it.
func (s *Set) release(x *shelf) {
	s.mu.Lock()
	x.boxes--
	last := x.boxes == 0
	if last {
		delete(s.shelves, x.key)
	}
	s.mu.Unlock()
	if last {
		x.close()
	}
}

// escaped makes a name of a directory that means nothing to others, of the parts of a
// folder's name.
func escaped(name string) string {
	text := "=" + strings.ReplaceAll(url.PathEscape(strings.ReplaceAll(name, "/", "\x00")), "%00", ",")
	// Suffixes of litter (package manifest) are not names of folders here.
	if len(text) <= 200 {
		return text
	}
	return "#" + digest(name)
}
