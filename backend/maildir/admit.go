package maildir

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
)

// append is Box.Append.
func (a *Account) append(folder string, s *staged, flags mailbox.Flags, date time.Time) (uint32, mailbox.UID, error) {
	f, err := a.synced(folder)
	if err != nil {
		return 0, 0, err
	}
	if err := a.fits(s.size, 1); err != nil {
		return 0, 0, err
	}
	letters, err := f.lettersFor(flags)
	if err != nil {
		return 0, 0, err
	}
	in := arrival{
		entry:   uidlist.Entry{Base: name.WithSizes(a.names.Next(), s.size, s.wire)},
		letters: letters, size: s.size, wire: s.wire,
	}
	tmp := f.path("tmp", in.entry.Base)
	if err := linkDated(s.path, tmp, date); err != nil {
		return 0, 0, err
	}
	all := []arrival{in}
	if err := f.admit(all); err != nil {
		return 0, 0, err
	}
	return f.list.Header().Validity, mailbox.UID(all[0].entry.UID), nil
}

// linkDated is link with another modification time, if date is not zero. It
// takes a copy where the file has a place already: all names share the time.
func linkDated(src, dst string, date time.Time) error {
	if date.IsZero() {
		return link(src, dst)
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	put := copyFile
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 {
		put = link
	}
	if err := put(src, dst); err != nil {
		return err
	}
	err = os.Chtimes(dst, date, date)
	if err == nil {
		err = syncFile(dst)
	}
	if err != nil {
		return errors.Join(err, os.Remove(dst))
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lettersFor are the letters of flags in a file name of the folder.
func (f *folder) lettersFor(flags mailbox.Flags) (string, error) {
	words, err := f.letters(flags.Keywords, true, new(claims))
	if err != nil {
		return "", err
	}
	return name.Letters(systemLetters(flags.System) + words), nil
}

// ErrTooManyKeywords: a folder has no letter left for another keyword; the
// change was not made.
var ErrTooManyKeywords = keywords.ErrTooMany

// arrival is a message on its way into a folder: it is in tmp under its base,
// or, if from is set, still the file from.
type arrival struct {
	entry      uidlist.Entry
	letters    string
	size, wire int64
	from       string
}

func (in arrival) file() string { return name.Name{Base: in.entry.Base, Flags: in.letters}.String() }

// admit gives arrivals UIDs, and then their names in cur, all or none. Their
// usage is added for those that came by tmp. It fills in entry.UID.
func (f *folder) admit(all []arrival) (err error) {
	undo := func(done int) {
		for i, in := range all {
			if in.entry.UID != 0 {
				f.list.Forget(in.entry.Base)
			}
			switch {
			case in.from != "" && i < done:
				err = errors.Join(err, os.Rename(f.path("cur", in.file()), in.from))
			case in.from != "":
			case i < done:
				err = errors.Join(err, os.Remove(f.path("cur", in.file())))
			default:
				err = errors.Join(err, os.Remove(f.path("tmp", in.entry.Base)))
			}
		}
		f.stale = true
	}
	cur, err := f.a.openDirectory(f.path("cur"))
	if err != nil {
		undo(0)
		return err
	}
	defer cur.close()
	entries := make([]uidlist.Entry, len(all))
	for i := range all {
		entries[i] = all[i].entry
	}
	if err = f.give(entries); err != nil {
		undo(0)
		return err
	}
	for i := range all {
		all[i].entry = entries[i]
	}
	for i := range all {
		from := all[i].from
		if from == "" {
			from = f.path("tmp", all[i].entry.Base)
		}
		if err = os.Rename(from, f.path("cur", all[i].file())); err != nil {
			undo(i)
			return err
		}
	}
	if err = cur.sync(); err != nil {
		f.stale = true
		return err
	}
	f.admitted(all)
	return nil
}

// admitted brings the memory and the quota log up to date after admit.
func (f *folder) admitted(all []arrival) {
	var bytes, messages int64
	for _, in := range all {
		f.msgs = append(f.msgs, &message{
			uid: mailbox.UID(in.entry.UID), file: in.file(), base: len(in.entry.Base),
			fields: in.entry.Fields, size: in.size, wire: in.wire, recent: true,
		})
		if in.from == "" {
			bytes += in.size
			messages++
		}
	}
	f.changed()
	f.a.addUsage(bytes, messages)
}

// isGone tells whether err says that a file has another name by now, or none.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func systemLetters(s mailbox.System) string {
	var b strings.Builder
	for _, l := range systemFlags {
		if s&l.flag != 0 {
			b.WriteByte(l.letter)
		}
	}
	return b.String()
}
