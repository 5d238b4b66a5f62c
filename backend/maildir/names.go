package maildir

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"waypost/backend/mailbox"
	"waypost/backend/mutf7"
	"waypost/internal/vfs"
)

// maxDirectory bounds the encoded name of a folder that we make, in bytes; file
// systems take maxName, and ours must leave room for foreign tools' suffixes.
const (
	maxDirectory = 200
	maxName      = 255
)

// hiddenPrefix begins the directories of folders that are being made or
// deleted. Its first part is empty, so no folder can have such a name.
const hiddenPrefix = "..waypost-"

// canonical checks a folder name and gives its one spelling: INBOX, also as
// the first part of a longer name, in capitals (RFC 9051, Section 5.1).
func canonical(folder string) (string, error) {
	parts := strings.Split(folder, string(mailbox.Separator))
	for _, p := range parts {
		// Maildir++ has the dot between parts; it cannot stand within one.
		if p == "" || strings.Contains(p, ".") || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
			return "", fmt.Errorf("folder %q: %w", folder, mailbox.ErrBadName)
		}
	}
	if folder[0] == '~' {
		return "", fmt.Errorf("folder %q: %w", folder, mailbox.ErrBadName)
	}
	if strings.EqualFold(parts[0], mailbox.Inbox) {
		parts[0] = mailbox.Inbox
	}
	return strings.Join(parts, string(mailbox.Separator)), nil
}

// ValidFolder tells whether a folder beside INBOX may have this name.
func ValidFolder(folder string) bool {
	c, err := canonical(folder)
	return err == nil && c == folder && folder != mailbox.Inbox
}

// directoryOf is the directory of a canonical name: "" for INBOX, else ".A.B".
func directoryOf(folder string) (string, error) {
	if folder == mailbox.Inbox {
		return "", nil
	}
	var b strings.Builder
	for _, p := range strings.Split(folder, string(mailbox.Separator)) {
		coded, err := mutf7.Encode(p)
		if err != nil {
			return "", fmt.Errorf("folder %q: %w", folder, mailbox.ErrBadName)
		}
		b.WriteString("." + coded)
	}
	return b.String(), nil
}

// newDirectory is directoryOf for a folder that is to come to be. With utf8 its
// name stands there as it is, if it reads the same way back.
func newDirectory(folder string, utf8 bool) (string, error) {
	rel, err := directoryOf(folder)
	if err == nil && utf8 && rel != "" && !strings.Contains(folder, "&") {
		raw := "." + strings.ReplaceAll(folder, string(mailbox.Separator), ".")
		if back, ok := folderOf(raw); ok && back == folder {
			rel = raw
		}
	}
	if err == nil && len(rel) > maxDirectory {
		return "", fmt.Errorf("folder %.40q…: too long: %w", folder, mailbox.ErrBadName)
	}
	return rel, err
}

// folderOf is the name of a directory. One that is not in modified UTF-7, as
// other programs make them, is taken as it is. ok is false for what is no
// folder.
func folderOf(rel string) (folder string, ok bool) {
	rest, ok := strings.CutPrefix(rel, ".")
	if !ok || rest == "" {
		return "", false
	}
	parts := strings.Split(rest, ".")
	decoded := make([]string, len(parts))
	for i, p := range parts {
		text, err := mutf7.Decode(p)
		if err != nil || strings.ContainsAny(text, "/.") {
			return rawFolder(parts)
		}
		decoded[i] = text
	}
	folder = strings.Join(decoded, string(mailbox.Separator))
	if same, err := canonical(folder); err != nil || same != folder || folder == mailbox.Inbox {
		return rawFolder(parts)
	}
	return folder, true
}

func rawFolder(parts []string) (string, bool) {
	folder := strings.Join(parts, string(mailbox.Separator))
	same, err := canonical(folder)
	return folder, err == nil && same == folder && folder != mailbox.Inbox
}

// lookup finds the directory of a folder that exists: ErrNoFolder, ErrBadName.
func (a *Account) lookup(folder string) (rel, name string, err error) {
	name, err = canonical(folder)
	if err != nil {
		return "", "", err
	}
	rel, err = directoryOf(name)
	if err != nil || rel == "" {
		return rel, name, err
	}
	raw := "." + strings.ReplaceAll(name, string(mailbox.Separator), ".")
	for _, candidate := range []string{rel, raw} {
		// The raw spelling is this folder's only if it decodes to nothing else.
		if back, ok := folderOf(candidate); !ok || back != name || len(candidate) > maxName {
			continue
		}
		found, err := isDirectory(a.fs, a.dir(candidate))
		if err != nil {
			return "", "", err
		}
		if found {
			return candidate, name, nil
		}
	}
	if _, err := newDirectory(name, a.o.UTF8Folders); err != nil {
		return "", "", err
	}
	return "", "", fmt.Errorf("folder %q: %w", name, mailbox.ErrNoFolder)
}

func (a *Account) directories() ([]string, error) { return directories(a.fs, a.maildir) }

// directories lists the directories of all folders but INBOX.
func directories(fsys vfs.FS, maildir string) (rels []string, err error) {
	err = fsys.ReadDir(maildir, func(e fs.DirEntry) error {
		if _, ok := folderOf(e.Name()); ok && e.IsDir() {
			rels = append(rels, e.Name())
		}
		return nil
	})
	slices.Sort(rels)
	return rels, err
}
