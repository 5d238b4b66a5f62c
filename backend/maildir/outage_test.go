package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// outage makes a disk refuse for a while, from an operation on, until it is over:
// all changes (a file system that has turned read-only), or all that would open
// something (no descriptors).
type outage struct {
	readOnly bool
	// dropped: with the file system what was written and not synced is gone too, as
	// in ext4 with errors=remount-ro. Otherwise open files can be written and synced,
	// as below a mount that is read-only.
	dropped bool
	err     error

	skip   atomic.Int64
	over   atomic.Bool
	struck atomic.Bool
}

func newOutage(rng *rand.Rand, most int64) *outage {
	o := &outage{readOnly: rng.IntN(2) == 0, err: pick(rng.IntN(2), []error{syscall.EMFILE, syscall.ENFILE})}
	if o.readOnly {
		o.err, o.dropped = syscall.EROFS, rng.IntN(3) > 0
	}
	o.skip.Store(rng.Int64N(most))
	return o
}

func (o *outage) set(disk *crashfs.FS) {
	disk.Fail(func(op crashfs.Op) error {
		if o.over.Load() || o.skip.Add(-1) >= 0 || !o.refuses(op) {
			return nil
		}
		o.struck.Store(true)
		return o.err
	})
}

// refuses leaves Open alone where it depends on the flags: see onOutage.
func (o *outage) refuses(op crashfs.Op) bool {
	if !o.readOnly {
		switch op.Kind {
		case crashfs.Open, crashfs.Nameless, crashfs.ReadDir, crashfs.SyncDir, crashfs.SyncAll:
			return true
		}
		return false
	}
	switch op.Kind {
	case crashfs.Open:
		return false
	case crashfs.Write, crashfs.Truncate, crashfs.Sync, crashfs.Datasync, crashfs.SyncDir, crashfs.SyncAll, crashfs.FileSyncAll:
		return o.dropped
	}
	return op.Changes()
}

// onOutage is a disk on which files cannot be opened for writing while it is read-only.
type onOutage struct {
	vfs.FS
	o *atomic.Pointer[outage]
}

func (d onOutage) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	o := d.o.Load()
	if o == nil || !o.readOnly || o.over.Load() || o.skip.Load() > 0 || flag&(os.O_WRONLY|os.O_RDWR|os.O_TRUNC) == 0 {
		return d.FS.OpenFile(name, flag, perm)
	}
	o.struck.Store(true)
	return nil, &fs.PathError{Op: "open", Path: name, Err: o.err}
}

// temporary tells whether protocols take an error for one that may pass.
func temporary(err error) bool {
	for _, permanent := range []error{
		mailbox.ErrNoFolder, mailbox.ErrFolderExists, mailbox.ErrTooManyFolders, mailbox.ErrBadName, mailbox.ErrNoMessage, mailbox.ErrOverQuota,
		mailbox.ErrRenumbered, mailbox.ErrTooLarge, errWrongBytes, fs.ErrNotExist, fs.ErrInvalid,
	} {
		if errors.Is(err, permanent) {
			return false
		}
	}
	return true
}

// trouble is one outage.
type trouble struct {
	w       *world
	o       *outage
	rng     *rand.Rand
	pending under
}

// suffer makes steps in which the disk turns away, until something was refused;
// then more, until it is mended. It gives the steps that are left.
func (w *world) suffer(steps []worldStep, rng *rand.Rand) (rest []worldStep, struck bool, err error) {
	x := &trouble{w: w, o: newOutage(rng, 150), rng: rng, pending: under{}}
	w.outage.Store(x.o)
	x.o.set(w.disk)
	var refused error // the next step needs models that are sure
	for len(steps) > 0 && !x.o.struck.Load() && refused == nil {
		step := steps[0]
		steps = steps[1:]
		refused = x.do(step)
		if refused != nil && (!x.o.struck.Load() && !w.late(refused) || !temporary(refused)) {
			return nil, false, fmt.Errorf("%+v, %w: %w", step, x.o.err, refused)
		}
	}
	if x.o.struck.Load() {
		for range rng.IntN(5) {
			if err := x.meanwhile(); err != nil {
				return nil, false, fmt.Errorf("while %w: %w", x.o.err, err)
			}
		}
	}
	// With what it dropped the file system is gone for this process. So are names that
	// could be changed neither wholly nor back.
	doubts := x.o.readOnly && slices.ContainsFunc(w.users, func(u *worldUser) bool { return u.account.Broken() })
	if w.journal.Err() != nil || x.o.dropped && x.o.struck.Load() || doubts || rng.IntN(4) == 0 {
		err = x.restart()
	} else if err = x.goOn(); err != nil && w.journal.Err() != nil {
		err = x.restart() // it has failed since, beside
	}
	if err != nil {
		return nil, false, fmt.Errorf("after %w: %w", x.o.err, err)
	}
	return steps, x.o.struck.Load(), nil
}

// late tells whether a refusal is the journal's, which had an outage beside that is
// over now. One that could not grow believes that for a second. One that could not
// because of a read-only disk fails, but says why a moment earlier.
func (w *world) late(err error) bool {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return true
	}
	if !errors.Is(err, syscall.EROFS) {
		return false
	}
	select {
	case <-w.journal.Failed():
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

// patience gives who has a place in the journal already a second: then the outage
// is over, for a committer that lacks a segment waits until one can be made.
func (x *trouble) patience() (stop func() bool) {
	return time.AfterFunc(time.Second, func() { x.o.over.Store(true) }).Stop
}

// do makes a step, and remembers what of it was refused.
func (x *trouble) do(step worldStep) error {
	defer x.patience()()
	pending, err := x.w.do(step)
	for u, changes := range pending {
		x.pending[u] = append(x.pending[u], changes...)
	}
	return err
}

// meanwhile does something that can do with what is left undone, while the disk is
// away. What is seen is right.
func (x *trouble) meanwhile() error {
	defer x.patience()()
	w := x.w
	u := pick(x.rng.IntN(100), w.users)
	what := pick(x.rng.IntN(100), []string{"look", "look", "checkpoint", "reopen", "burst", "both"}[:x.choices()])
	if what == "reopen" {
		return x.reopen()
	}
	if what == "look" {
		u.account.mu.Lock()
		stuck := u.account.stuck
		u.account.mu.Unlock()
		if stuck { // folders are seen as they were; what is on its way cannot be read
			if _, err := w.look(u, true); errors.Is(err, errWrongBytes) {
				return fmt.Errorf("%s: seen: %w", u.name, err)
			}
			return nil
		}
		v := u
		if len(x.pending[u]) > 0 { // which of the models it is shows later
			v = w.onDisk(w.disk).users[slices.Index(w.users, u)]
			v.account, v.box = u.account, u.box
		}
		models, broken := v.refused(x.pending[u]), u.account.Broken()
		if broken { // nobody knows what was done; it is not counted any more, either
			models = v.models(x.pending[u])
		}
		if err := w.check(v, false, models...); err != nil && !x.refusal(err) && !(broken && errors.Is(err, errWrongQuota)) {
			return fmt.Errorf("%s: seen after %v: %w", u.name, names(x.pending[u]), err)
		}
		return nil
	}
	err := x.do(worldStep{what: what, n: x.rng.IntN(1 << 20)})
	if err != nil && !x.refusal(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// choices: nothing new comes to folders of which it is not known whether they are there.
func (x *trouble) choices() int {
	for _, changes := range x.pending {
		for _, c := range changes {
			if strings.HasPrefix(c.name, "rename") || strings.HasPrefix(c.name, "delete") {
				return 4
			}
		}
	}
	return 6
}

// refusal tells whether an error is the disk's, or of one that has seen it.
func (x *trouble) refusal(err error) bool {
	for _, e := range []error{x.o.err, syscall.EMFILE, syscall.ENFILE, ErrUncertain, mailbox.ErrClosed} {
		if errors.Is(err, e) {
			return temporary(err)
		}
	}
	return x.w.journal.Err() != nil && temporary(err)
}

// reopen does what a backend does with an Account that has doubts, and with one
// that was closed.
func (x *trouble) reopen() error {
	for _, u := range x.w.users {
		if u.account.Broken() {
			// Even if it reports an error it is closed.
			if err := u.account.Close(); err != nil && !x.refusal(err) {
				return err
			}
		}
		if !u.account.Closed() {
			if u.boxClosed() {
				u.box = u.account.Box(u.name, worldEpoch, nil)
			}
			continue
		}
		if err := x.w.open(u); err != nil && !x.refusal(err) {
			return err
		}
	}
	return nil
}

// goOn: the disk is there again, and the same process goes on.
func (x *trouble) goOn() error {
	w := x.w
	x.end()
	for _, changes := range x.pending {
		if slices.ContainsFunc(changes, func(c *change) bool { return c.partial || c.makesFolder }) {
			if err := w.disk.SyncAll("/"); err != nil {
				return err
			}
		}
	}
	for _, u := range w.users {
		if u.account.Broken() {
			return fmt.Errorf("%s: the mailbox has doubts: %w", u.name, u.account.uncertain)
		}
	}
	if err := x.reopen(); err != nil {
		return err
	}
	for _, u := range w.users {
		if err := w.check(u, true, u.refused(x.pending[u])...); err != nil {
			return fmt.Errorf("%s: in the same process after %v: %w", u.name, names(x.pending[u]), err)
		}
	}
	if x.rng.IntN(2) == 0 {
		return nil
	}
	return w.passesAll()
}

// passesAll makes checkpoints until one has passed all that was done. The first may
// find an Account at work, with a recount, and leave it its lines for the next.
func (w *world) passesAll() error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		if err := w.journal.Checkpoint(); err != nil {
			return err
		}
		s := w.journal.Stats()
		if s.Checkpoint >= s.Durable {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the journal holds on to what was done: checkpoint %d of %d", s.Checkpoint, s.Durable)
		}
	}
}

func (x *trouble) end() {
	x.o.over.Store(true)
	x.w.disk.Fail(nil)
}

// restart: the backend ends, and may be started again too early.
func (x *trouble) restart() error {
	w := x.w
	disk := w.disk.Kill()
	if x.rng.IntN(2) == 0 {
		disk = w.disk.Crash(x.rng)
	}
	// Not earlier: for this process the disk does not come back, not for a moment.
	w.disk.Fail(nil)
	w.letGo()
	before := *w
	*w = *w.onDisk(disk)
	if x.o.struck.Load() && x.rng.IntN(2) == 0 {
		x.o.set(w.disk)
		if err := w.boot(); err == nil {
			w.disk = disk.Kill()
			w.letGo()
		} else if !errors.Is(err, x.o.err) {
			return fmt.Errorf("boot too early: %w", err)
		}
	}
	w.disk = w.disk.Kill()
	x.o.over.Store(true)
	return w.recover(&before, x.pending, x.rng, 0)
}

// TestOutagesAnywhere: the file system turns read-only, or descriptors run out, at
// any operation, and for some more. What was acknowledged is there once, whether
// the same process goes on or another replays; what was refused may come again.
func TestOutagesAnywhere(t *testing.T) {
	checks(t, "25")
	outages := 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt, 10, 60)
		seed := rapid.Uint64().Draw(rt, "seed")
		w, err := newWorld(seed, slog.New(slog.DiscardHandler), worldUsers...)
		rng := rand.New(rand.NewPCG(seed, 3))
		for err == nil && len(steps) > 0 {
			var struck bool
			if steps, struck, err = w.suffer(steps, rng); struck {
				outages++
			}
		}
		if err == nil {
			err = w.takesMail(rng)
		}
		w.disk.Fail(nil)
		w.disk.Kill()
		w.letGo()
		if err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d outages", outages)
}

// takesMail: soon after everybody is served as ever.
func (w *world) takesMail(rng *rand.Rand) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	x := &trouble{w: w, o: &outage{}, rng: rng, pending: under{}}
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		err := x.do(worldStep{what: "both"})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no mail is taken: %w", err)
		}
		if w.journal.Err() == nil {
			continue
		}
		if !errors.Is(err, syscall.EROFS) {
			return err
		}
		// It has failed in the last outage, and said so only now.
		if err := x.restart(); err != nil {
			return err
		}
		x.pending = under{}
	}
	for _, u := range w.users {
		if err := w.check(u, true, u.model); err != nil {
			return err
		}
	}
	return nil
}
