package archive

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// ledgerName is the file that says which UID each message has.
const ledgerName = "uids"

// maxUID leaves room to notice in time that the UIDs are used up.
const maxUID = math.MaxUint32 - 1<<20

// entry is a message with what is known of it.
type entry struct {
	found
	uid    mailbox.UID
	modSeq uint64
}

// ledger is a folder's UIDs. The file has a line for each thing that happened:
//
//	<crc> waypost-archive TAB 1 TAB <uidvalidity> TAB <id> TAB <next uid> TAB <mod-sequence>
//	<crc> m TAB <uid> TAB <mod-sequence> TAB <size> TAB <wire> TAB <date> TAB <flags> TAB <key> TAB <ref>
//	<crc> d TAB <uid> TAB <mod-sequence> TAB <key>
//	<crc> s TAB <stamp>
//
// m is a message, new or changed, d one that is gone, s the state of the archive that
// all before it tells. A file with any damage is given up, for UIDs that were told may
// be missing; the next one has a higher UIDVALIDITY.
type ledger struct {
	fsys vfs.FS
	dir  string

	validity uint32
	id       string
	next     mailbox.UID
	modSeq   uint64
	byKey    map[string]*entry
	stamp    string
	// size is the file's, lines how many it has; broken: the last write failed, and
	// what the file holds is not known.
	size   int64
	lines  int
	broken bool
}

// errDamaged: the file cannot be believed.
var errDamaged = errors.New("damaged list of UIDs")

// loadLedger reads the file in dir; fs.ErrNotExist. With errDamaged it gives what was
// legible of the header.
func loadLedger(fsys vfs.FS, dir string) (*ledger, error) {
	l := &ledger{fsys: fsys, dir: dir, byKey: map[string]*entry{}}
	data, err := vfs.ReadFile(fsys, l.path())
	if err != nil {
		return nil, err
	}
	l.size = int64(len(data))
	for len(data) > 0 {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole || !l.read(line) {
			return l, fmt.Errorf("%s, line %d: %w", l.path(), l.lines+1, errDamaged)
		}
		l.lines++
		data = rest
	}
	last := mailbox.UID(0)
	for _, e := range l.entries() {
		if e.uid <= last {
			return l, fmt.Errorf("%s has UID %d twice: %w", l.path(), e.uid, errDamaged)
		}
		last = e.uid
	}
	if l.lines == 0 || l.validity == 0 || l.next == 0 {
		return l, fmt.Errorf("%s has no header: %w", l.path(), errDamaged)
	}
	return l, nil
}

func (l *ledger) path() string { return filepath.Join(l.dir, ledgerName) }

// read takes one line.
func (l *ledger) read(line []byte) bool {
	if len(line) < 9 || line[8] != ' ' {
		return false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	text := line[9:]
	if err != nil || uint32(sum) != crc32.ChecksumIEEE(text) {
		return false
	}
	f := strings.Split(string(text), "\t")
	var bad bool
	number := func(i int, most uint64) uint64 {
		n, err := strconv.ParseUint(f[i], 10, 64)
		bad = bad || err != nil || n > most
		return n
	}
	switch {
	case l.lines == 0:
		if len(f) != 6 || f[0] != "waypost-archive" || f[1] != "1" {
			return false
		}
		l.validity, l.id = uint32(number(2, math.MaxUint32)), f[3]
		l.next, l.modSeq = mailbox.UID(number(4, maxUID)), number(5, math.MaxInt64)
	case f[0] == "m" && len(f) == 9:
		e := &entry{uid: mailbox.UID(number(1, maxUID)), modSeq: number(2, math.MaxInt64), found: found{
			size: int64(number(3, math.MaxInt64)), wire: int64(number(4, math.MaxInt64)),
			flags: mailbox.System(number(6, 255)), key: f[7], ref: f[8]}}
		date, err := strconv.ParseInt(f[5], 10, 64)
		if err != nil || bad {
			return false
		}
		e.date = time.Unix(date, 0)
		l.set(e)
	case f[0] == "d" && len(f) == 4:
		l.modSeq = max(l.modSeq, number(2, math.MaxInt64))
		delete(l.byKey, f[3])
	case f[0] == "s" && len(f) == 2:
		l.stamp = f[1]
	default:
		return false
	}
	return !bad
}

func (l *ledger) set(e *entry) {
	l.byKey[e.key] = e
	l.next, l.modSeq = max(l.next, e.uid+1), max(l.modSeq, e.modSeq)
}

// text builds lines.
type text struct {
	bytes.Buffer
	lines int
}

func (t *text) add(fields ...any) {
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = fmt.Sprint(f)
	}
	line := strings.Join(parts, "\t")
	fmt.Fprintf(t, "%08x %s\n", crc32.ChecksumIEEE([]byte(line)), line)
	t.lines++
}

func (t *text) entry(e *entry) {
	t.add("m", e.uid, e.modSeq, e.size, e.wire, e.date.Unix(), uint8(e.flags), e.key, e.ref)
}

// change is what one look at the archive has brought.
type change struct {
	set, gone []*entry
	stamp     string
}

// write makes a change durable, then part of the ledger. anew writes the whole file
// again, under the header that l has by now.
func (l *ledger) write(c change, anew bool) error {
	var t text
	for _, e := range c.set {
		t.entry(e)
	}
	for _, e := range c.gone {
		t.add("d", e.uid, e.modSeq, e.key)
	}
	if c.stamp != l.stamp {
		t.add("s", c.stamp)
	}
	whole := anew || l.broken || l.size == 0 || l.lines+t.lines > 1000+3*(len(l.byKey)+len(c.set))
	if !whole && t.lines == 0 {
		return nil
	}
	if !whole {
		if err := l.append(t.Bytes()); err != nil {
			l.broken = true
			return fmt.Errorf("write UIDs into %s: %w", l.path(), err)
		}
		l.size, l.lines = l.size+int64(t.Len()), l.lines+t.lines
		l.apply(c)
		return nil
	}
	was := *l
	l.byKey = make(map[string]*entry, len(was.byKey))
	for key, e := range was.byKey {
		l.byKey[key] = e
	}
	l.apply(c)
	if err := l.rewrite(); err != nil {
		*l = was
		l.broken = true
		return fmt.Errorf("write UIDs into %s: %w", l.path(), err)
	}
	return nil
}

func (l *ledger) apply(c change) {
	for _, e := range c.gone {
		delete(l.byKey, e.key)
		l.modSeq = max(l.modSeq, e.modSeq)
	}
	for _, e := range c.set {
		l.set(e)
	}
	l.stamp = c.stamp
}

func (l *ledger) append(data []byte) error {
	f, err := l.fsys.OpenFile(l.path(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, l.size)
	if err == nil {
		err = f.Datasync()
	}
	return errors.Join(err, f.Close())
}

// rewrite replaces the file, durably.
func (l *ledger) rewrite() error {
	if err := vfs.MkdirAll(l.fsys, l.dir, 0o700); err != nil {
		return err
	}
	var t text
	t.add("waypost-archive", 1, l.validity, l.id, l.next, l.modSeq)
	for _, e := range l.entries() {
		t.entry(e)
	}
	if l.stamp != "" {
		t.add("s", l.stamp)
	}
	err := vfs.ReplaceFunc(l.fsys, l.path(), 0o600, func(w io.Writer) error {
		_, err := w.Write(t.Bytes())
		return err
	})
	if err != nil {
		return err
	}
	l.size, l.lines, l.broken = int64(t.Len()), t.lines, false
	return nil
}

// entries gives all in the order of UIDs.
func (l *ledger) entries() []*entry {
	all := make([]*entry, 0, len(l.byKey))
	for _, e := range l.byKey {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return int(int64(a.uid) - int64(b.uid)) })
	return all
}

// absent reports a file that is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
