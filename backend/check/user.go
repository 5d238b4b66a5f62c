package check

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fulltext"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/maildir"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/mutf7"
	"waypost/backend/quota"
	"waypost/internal/vfs"
)

const (
	maildirName    = "Maildir"
	deliveriesName = "deliveries"
	memoriesName   = "memories"
	scriptsName    = "sieve"
	archivesName   = archive.Dir
	quotaName      = "maildirsize"
	quotaTemp      = quotaName + ".new."
	hiddenPrefix   = "..waypost-"
)

const quotaIllegible = "the quota log is not legible"

func newFolder(root, rel string) *folder {
	f := &folder{rel: rel, dir: filepath.Join(root, maildirName, rel), files: map[string]file{}, letters: map[byte]bool{}}
	f.name, _ = folderName(rel)
	return f
}

func (f *folder) path(sub string) string { return filepath.Join(f.dir, sub) }

// folderName is the name that clients see; ok is false for what is no folder.
func folderName(rel string) (string, bool) {
	if rel == "" {
		return mailbox.Inbox, true
	}
	rest, ok := strings.CutPrefix(rel, ".")
	parts := strings.Split(rest, ".")
	for i, p := range parts {
		if p == "" {
			return "", false
		}
		if text, err := mutf7.Decode(p); err == nil && !strings.ContainsAny(text, "/.") {
			parts[i] = text
		}
	}
	name := strings.Join(parts, string(mailbox.Separator))
	return name, ok && !strings.EqualFold(name, mailbox.Inbox)
}

// maildir looks at what lies beside the messages of INBOX, and gives the folders.
func (s *scanner) maildir() (rels []string, err error) {
	dir := filepath.Join(s.Root, maildirName)
	for _, sub := range []string{"cur", "new", "tmp"} {
		if info, err := s.FS.Lstat(filepath.Join(dir, sub)); err != nil || !info.IsDir() {
			s.r.problem(nil, control.KindTree, "restore it: an empty one would let clients forget their copies", "Maildir/%s is missing", sub)
			return nil, nil
		}
	}
	rels = []string{""}
	err = s.FS.ReadDir(dir, func(e fs.DirEntry) error {
		n := e.Name()
		switch {
		case !e.IsDir(), n == "cur", n == "new", n == "tmp", strings.HasPrefix(n, hiddenPrefix):
			return nil // files are looked at with the folder, half-made folders with the litter
		}
		if _, ok := folderName(n); !ok {
			s.r.note(nil, control.KindForeign, "move it away, or give it a folder's name", "Maildir/%s is no folder of a mailbox", n)
			return nil
		}
		rels = append(rels, n)
		return nil
	})
	return rels, err
}

// user looks at what is the user's and no folder's.
func (s *scanner) user() error {
	if len(s.r.folders) > 0 {
		if err := s.quota(); err != nil {
			return err
		}
	}
	for _, log := range []string{deliveriesName, memoriesName} {
		if err := s.log(log); err != nil {
			return err
		}
	}
	if err := s.litter(); err != nil {
		return err
	}
	return s.FS.ReadDir(s.Root, func(e fs.DirEntry) error {
		switch e.Name() {
		case maildirName, deliveriesName, memoriesName, scriptsName, archivesName, fulltext.Dir, "adopted", "pop3-uidl":
			return nil
		}
		if !strings.HasPrefix(e.Name(), vfs.TempPrefix) {
			s.r.note(nil, control.KindForeign, "move it away if nobody knows it; it moves along with the user", "%s is not of a mailbox", e.Name())
		}
		return nil
	})
}

// quota compares the log's sum with the names. A missing log is made when the
// mailbox is opened.
func (s *scanner) quota() error {
	data, err := vfs.ReadFile(s.FS, filepath.Join(s.Root, maildirName, quotaName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := quota.Parse(data)
	switch {
	case err != nil:
		s.r.problem(nil, control.KindQuota, repairIt, quotaIllegible)
	case mailbox.Usage(c.Usage) != s.sum:
		s.r.doubtful = true
		s.r.problem(nil, control.KindQuota, repairIt, "the quota log says %d bytes in %d messages, the names %d in %d",
			c.Usage.Bytes, c.Usage.Messages, s.sum.Bytes, s.sum.Messages)
	}
	return nil
}

// log looks at a log of keys.
func (s *scanner) log(file string) error {
	data, err := vfs.ReadFile(s.FS, filepath.Join(s.Root, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, lines, damaged, err := deliveries.Parse(bytes.NewReader(data), func(deliveries.Entry) bool { return true })
	if err == nil && damaged {
		s.r.doubtful = true // its last line may be on its way
		s.r.problem(nil, control.KindLog, repairIt, "%s has lines that are not legible, beside %d that are", file, lines)
	}
	return err
}

// litter looks for what crashes have left, old enough that nobody needs it.
func (s *scanner) litter() error {
	paths, err := maildir.Litter(s.FS, s.Root, s.Now())
	if err != nil {
		return err
	}
	err = s.FS.ReadDir(filepath.Join(s.Root, maildirName), func(e fs.DirEntry) error {
		if !strings.HasPrefix(e.Name(), quotaTemp) {
			return nil
		}
		if info, err := e.Info(); err == nil && s.Now().Sub(info.ModTime()) > maildir.LitterAge {
			paths = append(paths, filepath.Join(s.Root, maildirName, e.Name()))
		}
		return nil
	})
	for _, p := range paths {
		rel, relErr := filepath.Rel(s.Root, p)
		if relErr != nil {
			rel = p
		}
		what := "a temporary file"
		if strings.HasPrefix(filepath.Base(p), hiddenPrefix) {
			what = "a folder half made or half deleted"
		}
		s.r.problem(nil, control.KindLitter, repairIt, "%s, older than %d hours: %s", what, int(maildir.LitterAge/time.Hour), rel)
	}
	return err
}
