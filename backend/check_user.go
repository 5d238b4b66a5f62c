package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/check"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/vfs"
)

const (
	// behindTries and behindPause are how long a fence may lag behind the directory
	// without being told of: the watch has it caught up.
	behindTries = 5
	behindPause = 300 * time.Millisecond

	askHuman = "find out what was restored or edited by hand, before either is changed"
)

// peek is use for who only looks: unlike release, its end closes nobody's mailbox
// to keep this one in memory.
func (b *Server) peek(name director.User) (u *user, end func()) {
	u = b.use(name)
	return u, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		t := &b.users
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case !t.drop(u):
		case u.acct == nil && u.alarm == "":
			delete(t.open, name)
		default:
			u.idle = t.unused.PushBack(u)
		}
	}
}

// user checks one user: fence, places, and where the fence has one, the tree.
func (c *checkRun) user(ctx context.Context, name director.User) error {
	u, end := c.b.peek(name)
	defer end()
	f, err := c.fence(ctx, u)
	if err != nil {
		return err
	}
	live, err := c.places(u)
	if err != nil {
		return err
	}
	if err := c.letGo(name); err != nil {
		return err
	}
	if !live || f.State != fence.Serving && f.State != fence.Frozen {
		return ctx.Err()
	}
	r, err := c.b.checkTree(ctx, u, c.deep)
	if errors.Is(err, errMoved) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, x := range r.Findings {
		x.User, x.Backend = name, c.b.cfg.ID
		x.Do = strings.ReplaceAll(x.Do, "repair USER", "repair "+string(name))
		c.emit(x)
	}
	return nil
}

// fence compares the fence with the directory: first with what the cache has, and
// where that does not fit, with what is read now.
func (c *checkRun) fence(ctx context.Context, u *user) (fence.Fence, error) {
	f := u.fenceNow()
	if rec, known, stale := c.b.cache.Location(u.name); known && !stale && c.b.decide(f, &rec, nil).Action == fence.Keep && f.State != fence.Incoming {
		return f, nil
	}
	for try := 1; ; try++ {
		f = u.fenceNow()
		rec, err := c.b.readRecord(ctx, u.name)
		if err != nil {
			return f, err
		}
		mv, err := c.b.readJournal(ctx, u.name, f)
		if err != nil {
			return f, err
		}
		d := c.b.decide(f, rec, mv)
		switch {
		case u.fenceNow() != f:
			continue // it was brought up to date meanwhile
		case d.Action == fence.Keep:
			return f, nil
		case d.Action == fence.Refuse && twoHomes(c.b.cfg.ID, f, rec):
			c.problem(u.name, control.KindTwoHomes, askHuman, "the fence is %s, and the directory says %s: %s", f, recordText(rec), d.Why)
			return f, nil
		case d.Action == fence.Refuse:
			c.problem(u.name, control.KindFence, askHuman, "the fence is %s, and the directory says %s: %s", f, recordText(rec), d.Why)
			return f, nil
		case try == behindTries:
			c.problem(u.name, control.KindBehind, "waypost repair "+string(u.name)+" has the backend look again; its log says why it does not by itself",
				"the fence is %s, and the directory says %s: it should be %s", f, recordText(rec), d.Next)
			return f, nil
		}
		pause(ctx, behindPause)
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
	}
}

// twoHomes tells whether a fence claims a live tree of a user whose home is
// elsewhere.
func twoHomes(me director.BackendID, f fence.Fence, rec *director.Record) bool {
	return rec != nil && rec.Home != me && rec.State != director.Deleted && (f.State == fence.Serving || f.State == fence.Frozen)
}

func recordText(rec *director.Record) string {
	if rec == nil {
		return "nothing"
	}
	return rec.String()
}

// places compares the fence with what lies on the disk. Both change together,
// under the user's lock.
func (c *checkRun) places(u *user) (live bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	disk, state := c.b.disk, u.fence.State
	live, err = exists(disk.live(u.name))
	if err != nil {
		return false, err
	}
	staged, err := exists(disk.staging(u.name))
	if err != nil {
		return live, err
	}
	incoming := state == fence.Incoming || state == fence.Sealed
	serving := state == fence.Serving || state == fence.Frozen
	switch {
	case serving && !live:
		c.problem(u.name, control.KindTree, "restore it from a backup", "the fence is %s, but there is no tree at %s", u.fence, disk.live(u.name))
	case live && !serving && (staged || state != fence.Sealed) && state != fence.Unreadable:
		c.problem(u.name, control.KindTree, "look whose it is, and move it away", "there is a tree at %s, but the fence is %s", disk.live(u.name), u.fence)
	}
	if staged && !incoming && state != fence.Unreadable {
		c.problem(u.name, control.KindStaging, "move it away: no move knows of it", "staging is left over at %s, but the fence is %s", disk.staging(u.name), u.fence)
	}
	if state == fence.Sealed && !staged && !live {
		c.problem(u.name, control.KindTree, askHuman, "the fence is %s, but there is neither staging nor a tree", u.fence)
	}
	return live, nil
}

// letGo looks at the user's trees in the trash.
func (c *checkRun) letGo(name director.User) error {
	for _, entry := range c.trash[name] {
		_, epoch, _ := trashName(entry)
		if f := c.b.fenceOf(name); f.Epoch == epoch && f.State != fence.Gone {
			continue // the claim is not finished yet
		}
		dir := filepath.Join(c.b.disk.trashRoot(), entry)
		if there, err := exists(dir); err != nil || !there {
			if err != nil {
				return err
			}
			continue // purged meanwhile
		}
		proof := false
		for _, file := range []string{"manifest", "swept"} {
			there, err := exists(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			proof = proof || there
		}
		if !proof {
			c.problem(name, control.KindTrash, "compare it with the mailbox at the home, then remove it by hand", "trash/%s has no manifest, and so is never purged", entry)
		}
	}
	return nil
}

// errMoved: the user is not served here any more.
var errMoved = errors.New("the user has moved on")

// checkTree reads a live tree. It takes the user's lock only for what a change
// under way may have led to.
func (b *Server) checkTree(ctx context.Context, u *user, deep bool) (check.Report, error) {
	o := b.checkOptions(u.name, deep)
	r, err := check.Names(ctx, o)
	if err == nil && r.Doubtful() {
		first := r
		r, err = u.settledNames(ctx, o)
		r.Keep(first)
	}
	if err == nil {
		err = check.Messages(ctx, o, &r)
	}
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	if f := u.fenceNow(); errors.Is(err, fs.ErrNotExist) && f.State != fence.Serving && f.State != fence.Frozen {
		return r, errMoved
	}
	if errors.Is(err, errMoved) {
		return r, err
	}
	// One mailbox that cannot be read does not end the check of others.
	r.Findings = append(r.Findings, control.Finding{
		Kind: control.KindTree, Level: control.LevelProblem, What: fmt.Sprintf("the tree cannot be read: %v", err), Do: "see the backend's log, and its disk",
	})
	return r, nil
}

func (b *Server) checkOptions(name director.User, deep bool) check.Options {
	return check.Options{
		FS: vfs.OS, Root: b.disk.live(name), Now: time.Now, Deep: deep,
		Pause: func(ctx context.Context) { pause(ctx, time.Millisecond) },
	}
}

// settledNames looks at the names while nothing changes, and nothing is only in
// the journal.
func (u *user) settledNames(ctx context.Context, o check.Options) (check.Report, error) {
	o.Pause = nil // others wait
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence.State != fence.Serving && u.fence.State != fence.Frozen {
		return check.Report{}, errMoved
	}
	if u.acct != nil {
		if err := u.acct.Flushed(); err != nil {
			return check.Report{}, err
		}
	}
	return check.Names(ctx, o)
}
