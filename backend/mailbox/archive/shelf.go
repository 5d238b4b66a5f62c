package archive

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/feed"
)

// Bounds of one archive of one user.
const (
	// maxFolders is how many folders a list gives.
	maxFolders = 50_000
	// maxOpen is how many folders are kept in memory beside those in use.
	maxOpen = 64
)

// shelf is one archive of one user, at one epoch: what all Boxes of it share.
type shelf struct {
	set    *Set
	key    shelfKey
	config Config
	tree   tree
	// dir is where the UIDs are.
	dir string
	// boxes is guarded by the Set's mu.
	boxes int

	// mu guards what follows. It is held for moments, and taken after a folder's mu.
	mu      sync.Mutex
	folders map[string]*folder
	clock   uint64 // of uses, and of versions
	feed    feed.Feed
	poll    *feed.Poller
	over    bool
}

// use finds or makes a folder in memory and holds it; drop must follow.
func (s *shelf) use(name, path string) *folder {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.folders[name]
	if f == nil {
		f = &folder{shelf: s, name: name, dir: filepath.Join(s.dir, escaped(name)), source: s.source(path), version: s.tick()}
		s.folders[name] = f
	}
	f.users++
	f.used = s.tick()
	return f
}

// tick gives a number that is above all before. mu is held.
func (s *shelf) tick() uint64 {
	s.clock++
	return s.clock
}

// drop gives a folder back. The one that nobody has used for longest leaves the memory
// when there are many.
func (s *shelf) drop(f *folder) {
	s.mu.Lock()
	f.users--
	var victim *folder
	if len(s.folders) > maxOpen {
		for _, x := range s.folders {
			if x.users == 0 && (victim == nil || x.used < victim.used) {
				victim = x
			}
		}
	}
	if victim != nil {
		delete(s.folders, victim.name)
		victim.wake()
		victim.close() // nobody holds its lock, as nobody uses it
	}
	s.mu.Unlock()
}

func (s *shelf) source(path string) source {
	if s.config.Format == FormatMaildir {
		return &maildir{fsys: s.set.o.FS, path: path}
	}
	return &mbox{fsys: s.set.o.FS, path: path, quoted: s.config.Format == FormatMboxrd}
}

// changed gives a folder another version, and tells those who wait.
func (s *shelf) changed(f *folder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(f)
}

// note is changed with mu held.
func (s *shelf) note(f *folder) {
	f.version = s.tick()
	f.wake()
	s.feed.Messages(f.name)
}

// close ends what is of no Box any more.
func (s *shelf) close() {
	s.mu.Lock()
	s.over = true
	p := s.poll
	folders := s.folders
	s.folders = map[string]*folder{}
	s.feed.Wake()
	s.mu.Unlock()
	if p != nil {
		p.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range folders {
		f.wake()
		f.close()
	}
}

// watch starts the poller if there is none. mu is held.
func (s *shelf) watch() {
	if s.poll == nil && !s.over {
		s.poll = feed.Poll(s.set.o.Interval, s.look)
	}
}

// look asks the archive for the states of folders in memory. It reports false, and
// the poller has to end, when nobody waits.
func (s *shelf) look() bool {
	s.mu.Lock()
	all := s.feed.Waiting()
	var todo []*folder
	for _, f := range s.folders {
		if f.wait != nil || all {
			f.users++
			todo = append(todo, f)
		}
	}
	if len(todo) == 0 && !all {
		s.poll = nil
	}
	s.mu.Unlock()
	for _, f := range todo {
		// What cannot be read now is found out by who uses the folder.
		stamp, settled, err := f.source.stamp(s.set.o.Now())
		s.mu.Lock()
		if err == nil && f.seen != "" && (stamp != f.seen || settled && !f.settled) {
			f.seen, f.settled = stamp, settled
			f.stale = true
			s.note(f)
		}
		s.mu.Unlock()
		s.drop(f)
	}
	return len(todo) > 0 || all
}

// updates is mailbox.Box's.
func (s *shelf) updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch()
	return s.feed.Since(since)
}

// digest names a text shortly.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:16])
}
