package backend

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waypost/internal/durable"
)

// A Maildir that Courier has served keeps its UIDs in courierimapuiddb and its
// POP3 ids in courierpop3dsizelist. Staging gets the lists that Dovecot, and
// we, keep in their place; what a folder has of Dovecot's already counts.
const (
	courierUIDs       = "courierimapuiddb"
	courierPOP3       = "courierpop3dsizelist"
	courierSubscribed = "courierimapsubscribed"
	dovecotUIDs       = "dovecot-uidlist"
	dovecotSubscribed = "subscriptions"

	// dovecotUIDL is Dovecot's own default of pop3_uidl_format, courierUIDL
	// what Courier does where its list has no number for a message.
	dovecotUIDL = "%08Xu%08Xv"
	courierUIDL = "%f"
)

// uidl is the form of POP3's unique ids where the operator names none.
func (s *source) uidl() string {
	has := func(name string) bool { _, err := s.root.Lstat(name); return err == nil }
	if !has(dovecotUIDs) && (has(courierUIDs) || has(courierPOP3)) {
		return courierUIDL
	}
	return dovecotUIDL
}

// courierLists writes Dovecot's lists below to where only Courier's are.
func (s *source) courierLists(tree []leaf, to string) error {
	have := make(map[string]bool, len(tree))
	for _, l := range tree {
		have[l.rel] = !l.dir
	}
	for _, l := range tree {
		dir := filepath.Dir(l.rel)
		var err error
		switch {
		case l.dir:
		case filepath.Base(l.rel) == courierUIDs && !have[filepath.Join(dir, dovecotUIDs)]:
			err = s.courierList(dir, to)
		case l.rel == courierSubscribed && !have[dovecotSubscribed]:
			err = s.courierFolders(to)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.rel, err)
		}
	}
	return nil
}

type courierLine struct {
	uid  uint32
	base string
}

// courierList makes a dovecot-uidlist of a folder. The first line is "1", the
// UIDVALIDITY and UIDNEXT; the others are a UID and a file name without flags.
func (s *source) courierList(dir, to string) error {
	var validity, next uint32
	var lines []courierLine
	seen := map[uint32]bool{}
	err := s.lines(filepath.Join(dir, courierUIDs), func(n int, text string) error {
		if n == 1 {
			var version int
			if _, err := fmt.Sscanf(text, "%d %d %d", &version, &validity, &next); err != nil || version != 1 || validity == 0 {
				return s.refuse("%s: the first line, %.80q, is not known", filepath.Join(dir, courierUIDs), text)
			}
			return nil
		}
		number, base, ok := strings.Cut(text, " ")
		uid, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil || uid == 0 || base == "" || seen[uint32(uid)] {
			return s.refuse("%s: line %d, %.80q, is not known", filepath.Join(dir, courierUIDs), n, text)
		}
		base, _, _ = strings.Cut(base, ":")
		seen[uint32(uid)] = true
		lines = append(lines, courierLine{uint32(uid), base})
		return nil
	})
	if err != nil || validity == 0 {
		return err
	}
	pop3 := map[string]string{}
	if dir == "." {
		if pop3, err = s.courierIDs(); err != nil {
			return err
		}
	}
	slices.SortFunc(lines, func(a, b courierLine) int { return cmp.Compare(a.uid, b.uid) })
	if len(lines) > 0 {
		next = max(next, lines[len(lines)-1].uid+1)
	}
	b := fmt.Appendf(nil, "3 V%d N%d\n", validity, max(next, 1))
	for _, l := range lines {
		b = fmt.Appendf(b, "%d", l.uid)
		if id := pop3[l.base]; id != "" {
			b = append(b, " P"+id...)
		}
		b = append(b, " :"+l.base+"\n"...)
	}
	return durable.WriteFile(filepath.Join(to, dir, dovecotUIDs), b, 0o600)
}

// courierIDs reads INBOX's POP3 ids, by the file name without flags. The first
// line is "/2" and more; the others are a file name, a size, and an id in two
// numbers. An id of 0 stands for the file name itself.
func (s *source) courierIDs() (map[string]string, error) {
	ids := map[string]string{}
	err := s.lines(courierPOP3, func(n int, text string) error {
		w := strings.Fields(text)
		if n == 1 && strings.HasPrefix(text, "/") || len(w) != 3 {
			return nil // an older version's, without ids
		}
		id, validity, _ := strings.Cut(w[2], ":")
		base, _, _ := strings.Cut(w[0], ":")
		switch {
		case id == "0" || strings.Trim(id+validity, "0123456789") != "":
		case validity == "" || validity == "0":
			ids[base] = "UID" + id
		default:
			ids[base] = "UID" + id + "-" + validity
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return ids, nil
	}
	return ids, err
}

// courierFolders makes the list of subscriptions: names as the folders' own,
// in modified UTF-7 with dots, below INBOX.
func (s *source) courierFolders(to string) error {
	var b []byte
	err := s.lines(courierSubscribed, func(_ int, name string) error {
		if name = strings.TrimPrefix(name, "INBOX."); name != "" {
			b = append(b, name+"\n"...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(to, dovecotSubscribed), b, 0o600)
}

func (s *source) lines(rel string, each func(n int, text string) error) error {
	f, err := s.root.Open(rel)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if err := each(n, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
