package maildir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// world is a backend's store on a file system that can crash, with what it must
// hold.
type world struct {
	disk   *crashfs.FS
	inline int64
	log    *slog.Logger

	journal *journal.Journal
	stager  *Stager
	users   []*worldUser
	outbox  *worldOutbox
	// outage is what the disk suffers from: see onOutage.
	outage *atomic.Pointer[outage]

	contents, ids int
	run           string // of views
	// killed: the last end was no power cut.
	killed bool
}

type worldUser struct {
	name    director.User
	account *Account
	box     mailbox.Box
	model   *model
	told    ledgers
	// ids are those acknowledged, with what they brought.
	ids []string
	// guids: what is in messages, so that not each look reads them.
	guids map[string]int
}

// worldOutbox counts what leaves. It is no part of the disk: what was put once
// stays.
type worldOutbox struct {
	mu   sync.Mutex
	sent map[string]string
}

func (o *worldOutbox) Paths(director.User, string) []string { return nil }

func (o *worldOutbox) Put(u director.User, m mailbox.Outbound, link func(string) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent[string(u)+" "+m.ID] = m.Kind
	return nil
}

const worldBase = "/data"

func newWorld(seed uint64, log *slog.Logger, users ...director.User) (*world, error) {
	w := &world{disk: crashfs.New(seed), inline: 700, log: log, outbox: &worldOutbox{sent: map[string]string{}}, outage: &atomic.Pointer[outage]{}}
	err := vfs.MkdirAll(w.disk, worldBase+"/incoming", 0o700)
	for _, u := range users {
		w.users = append(w.users, &worldUser{name: u, model: newModel(), told: ledgers{}, guids: map[string]int{}})
		if err == nil {
			err = Create(w.disk, rootOf(worldBase, u))
		}
	}
	if err == nil {
		err = w.boot()
	}
	return w, err
}

// boot does what a backend does at its start.
func (w *world) boot() (err error) {
	var names []director.User
	for _, u := range w.users {
		names = append(names, u.name)
	}
	w.journal, w.stager, err = bootJournal(w.fs(), worldBase, 64<<10, w.outbox, w.log, names...)
	if err != nil {
		return err
	}
	w.stager.inline = w.inline
	if w.run == "" || !w.journal.Clean() && !w.killed {
		w.run = fmt.Sprint(w.contents, " ", w.ids, " ", len(w.run), time.Now().UnixNano())
	}
	for _, u := range w.users {
		clear(u.guids)
		if err := w.open(u); err != nil {
			return err
		}
	}
	return nil
}

// fs is the disk as the store sees it.
func (w *world) fs() vfs.FS { return onOutage{w.disk, w.outage} }

const worldEpoch = 7

func (w *world) open(u *worldUser) (err error) {
	g := &guard{}
	g.epoch.Store(worldEpoch)
	a, err := Open(Options{
		FS: w.fs(), Journal: w.journal, User: u.name, Root: rootOf(worldBase, u.name), Guard: g,
		Limit: func() mailbox.Limit { return mailbox.Limit{} }, Log: w.log, Now: time.Now, Host: "h", Outbox: w.outbox,
		Recount: !w.journal.Clean(), Views: w.run,
	})
	if err == nil {
		a.viewLeast = 0
		u.account, u.box = a, a.Box(u.name, worldEpoch, nil)
	}
	return err
}

// letGo ends what ran on a disk that is down.
func (w *world) letGo() {
	if w.journal == nil { // it could not be started
		return
	}
	t := w.journal.Append("x", 0, nil, []byte{0})
	_ = t.Wait() // the disk is down
	t.Applied()
	_ = w.journal.Close()
}

// content is message n; some are too long for the journal.
func (w *world) content(n int) string {
	long := 20 + n*37%300
	if n%7 == 3 {
		long += int(w.inline)
	}
	return "Subject: " + strconv.Itoa(n) + "\n\n" + strings.Repeat("x", long) + "\n"
}

func (w *world) stage(n int) (mailbox.Staged, error) {
	return w.stager.Stage(context.Background(), "", strings.NewReader(w.content(n)), 0)
}

func (w *world) newContent() int {
	w.contents++
	return w.contents
}

// look reads a whole mailbox. Unless it is thorough it believes that messages it
// has read before are as they were.
func (w *world) look(u *worldUser, thorough bool) (*seenBox, error) {
	list, err := u.box.Folders()
	if err != nil {
		return nil, err
	}
	seen := &seenBox{folders: map[string]*seenFolder{}}
	for _, info := range list {
		if info.NoSelect {
			continue
		}
		f, err := w.lookInto(u, info.Name, thorough)
		if err != nil {
			return nil, err
		}
		seen.folders[info.Name] = f
	}
	if seen.notes, err = u.box.Metadata(""); err != nil {
		return nil, err
	}
	if seen.subs, err = u.box.Subscriptions(); err != nil {
		return nil, err
	}
	seen.usage, err = u.box.Usage()
	return seen, err
}

func (w *world) lookInto(u *worldUser, folder string, thorough bool) (*seenFolder, error) {
	h, err := u.box.Folder(folder)
	if err != nil {
		return nil, err
	}
	s, err := h.Snapshot()
	if err != nil {
		return nil, err
	}
	f := &seenFolder{validity: s.UIDValidity, next: s.UIDNext, high: s.HighestModSeq, id: s.ID}
	if f.notes, err = u.box.Metadata(folder); err != nil {
		return nil, err
	}
	acl, err := u.box.ACL(folder)
	if err != nil {
		return nil, err
	}
	for identifier, rights := range acl {
		f.notes[identifier] = string(rights)
	}
	for _, m := range s.Messages.All() {
		n, known := u.guids[m.GUID]
		if !known || thorough {
			if n, err = w.identify(h, m.UID); err != nil {
				return nil, err
			}
			u.guids[m.GUID] = n
		}
		date, err := h.InternalDate(m.UID)
		if err != nil {
			return nil, err
		}
		saved, err := h.SaveDate(m.UID)
		if err != nil {
			return nil, err
		}
		id, err := h.EmailID(m.UID)
		if err != nil {
			return nil, err
		}
		f.msgs = append(f.msgs, seenMsg{*m, n, date.UnixNano(), saved.Unix(), id})
	}
	return f, nil
}

// identify reads a message and tells which one it is, byte for byte.
func (w *world) identify(h mailbox.Folder, uid mailbox.UID) (int, error) {
	b, err := h.Open(uid)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	data, err := io.ReadAll(b)
	if err != nil {
		return 0, err
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	var n int
	if _, err := fmt.Sscanf(text, "Subject: %d\n", &n); err != nil || text != w.content(n) {
		return 0, fmt.Errorf("%s: UID %d: %w: %.40q", h.Name(), uid, errWrongBytes, text)
	}
	return n, nil
}

var (
	errWrongBytes = errors.New("wrong bytes")
	errWrongQuota = errors.New("wrong quota")
)

// check compares a mailbox with the first of some models that it fits, which
// becomes what it must hold.
func (w *world) check(u *worldUser, thorough bool, models ...*model) error {
	seen, err := w.look(u, thorough)
	if err != nil {
		return err
	}
	var sum mailbox.Usage
	var complaints error
	for i, m := range models {
		m = m.clone()
		if err := m.match(seen, u.told); err != nil {
			complaints = errors.Join(complaints, fmt.Errorf("model %d: %w", i, err))
			continue
		}
		u.model, complaints = m, nil
		break
	}
	if complaints != nil {
		return complaints
	}
	for name, f := range seen.folders {
		if err := u.told.note(name, f); err != nil {
			return err
		}
		for _, m := range f.msgs {
			sum.Bytes += m.Size
			sum.Messages++
		}
	}
	if sum != seen.usage {
		return fmt.Errorf("%w: it says %+v, messages are %+v", errWrongQuota, seen.usage, sum)
	}
	return nil
}

// evict closes an account and opens it again.
func (w *world) evict(u *worldUser) error {
	u.box.Close()
	if err := u.account.Close(); err != nil {
		return err
	}
	return w.open(u)
}

// treePath is a path in a user's tree.
func treePath(u *worldUser, parts ...string) string {
	return filepath.Join(append([]string{rootOf(worldBase, u.name)}, parts...)...)
}
