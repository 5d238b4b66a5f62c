package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/outbox"
	"waypost/director"
	"waypost/internal/cluster"
)

// checker answers PathCheck and PathRepair. A check changes nothing. Each backend
// judges what it has itself, by its own fences and its own view of the directory;
// so all backends together find a user who is on two of them.
type checker struct {
	b *Server
	// walking is held while all users are checked: two walks would only wait for
	// each other's disk reads.
	walking sync.Mutex
}

// check is PathCheck.
func (c *checker) check(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.CheckRequest](r, cluster.RoleDirector, cluster.RoleAdmin)
	if err == nil && req.User != "" {
		req.User, err = director.ParseUser(string(req.User))
		if err != nil {
			err = refuse(control.CodeBad, "%v", err)
		}
	}
	if err == nil && req.User == "" {
		if !c.walking.TryLock() {
			err = refuse(control.CodeUnavailable, "all users of %s are being checked already", c.b.cfg.ID)
		} else {
			defer c.walking.Unlock()
		}
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	ctx, cancel := c.whileServing(r.Context())
	defer cancel()
	out := control.NewCheckWriter(w)
	run := checkRun{b: c.b, deep: req.Deep, emit: out.Finding}
	if req.User == "" {
		err = run.all(ctx, out.Progress)
	} else {
		out.Progress(0, 1)
		err = run.one(ctx, req.User)
		out.Progress(1, 1)
	}
	out.End(err)
}

// repair is PathRepair.
func (c *checker) repair(w http.ResponseWriter, r *http.Request) {
	from, req, err := control.Decode[control.RepairRequest](r, cluster.RoleDirector, cluster.RoleAdmin)
	if err == nil {
		if req.User, err = director.ParseUser(string(req.User)); err != nil {
			err = refuse(control.CodeBad, "%v", err)
		}
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	ctx, cancel := c.whileServing(r.Context())
	defer cancel()
	out := control.NewCheckWriter(w)
	say := func(s control.Step) {
		c.b.log.Info("repair", "user", req.User, "by", from.String(), "folder", s.Folder, "step", s.Text, "left", s.Left)
		out.Step(s)
	}
	out.End(c.b.repairUser(ctx, req, say))
}

// whileServing ends when the backend stops, which then need not wait.
func (c *checker) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-c.b.mux.Draining():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-stopped }
}

// checkRun is one check.
type checkRun struct {
	b    *Server
	deep bool
	emit func(control.Finding)
	// trash is what lies there, by user, once read.
	trash map[director.User][]string
}

func (c *checkRun) say(level control.Level, u director.User, kind, do, format string, a ...any) {
	c.emit(control.Finding{
		User: u, Backend: c.b.cfg.ID, Kind: kind, Level: level, What: fmt.Sprintf(format, a...), Do: do,
	})
}

func (c *checkRun) problem(u director.User, kind, do, format string, a ...any) {
	c.say(control.LevelProblem, u, kind, do, format, a...)
}

// all checks every user of whom there is anything here, or should be, and what is
// the backend's own. It works half of the time at most: users come first.
func (c *checkRun) all(ctx context.Context, progress func(checked, total int64)) error {
	if err := c.b.journal.Err(); err != nil {
		c.problem("", control.KindJournal, "start the backend again: it replays its journal", "%v", err)
	}
	if err := c.readTrash(); err != nil {
		return err
	}
	names, err := c.everybody()
	if err != nil {
		return err
	}
	if err := c.outbox(""); err != nil {
		return err
	}
	for i, name := range names {
		progress(int64(i), int64(len(names)))
		begun := time.Now()
		if err := c.user(ctx, name); err != nil {
			return err
		}
		pause(ctx, max(pace, time.Since(begun)))
	}
	progress(int64(len(names)), int64(len(names)))
	return ctx.Err()
}

// one checks one user.
func (c *checkRun) one(ctx context.Context, name director.User) error {
	if err := c.readTrash(); err != nil {
		return err
	}
	if err := c.outbox(name); err != nil {
		return err
	}
	return c.user(ctx, name)
}

// everybody gives those with a fence, a tree or staging here, those in the trash,
// and those whose home is here by the directory.
func (c *checkRun) everybody() ([]director.User, error) {
	b := c.b
	set := map[director.User]struct{}{}
	b.users.mu.Lock()
	for u := range b.users.fences {
		set[u] = struct{}{}
	}
	b.users.mu.Unlock()
	b.cache.Users(func(u director.User, r director.Record) bool {
		if r.Home == b.cfg.ID && r.State != director.Deleted {
			set[u] = struct{}{}
		}
		return true
	})
	for u := range c.trash {
		set[u] = struct{}{}
	}
	for _, kind := range []string{"users", "staging"} {
		err := c.shards(filepath.Join(b.disk.root, kind), func(u director.User) { set[u] = struct{}{} })
		if err != nil {
			return nil, err
		}
	}
	names := make([]director.User, 0, len(set))
	for u := range set {
		names = append(names, u)
	}
	slices.Sort(names)
	return names, nil
}

// shards visits the users that have a folder under root.
func (c *checkRun) shards(root string, visit func(director.User)) error {
	shards, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, s := range shards {
		entries, err := os.ReadDir(filepath.Join(root, s.Name()))
		if err != nil {
			return err
		}
		for _, e := range entries {
			u, err := director.ParseUser(e.Name())
			if err != nil || string(u) != e.Name() || fence.Shard(u) != s.Name() {
				c.say(control.LevelInfo, "", control.KindForeign, "move it away", "%s is no user's", filepath.Join(root, s.Name(), e.Name()))
				continue
			}
			visit(u)
		}
	}
	return nil
}

func (c *checkRun) readTrash() error {
	entries, err := os.ReadDir(c.b.disk.trashRoot())
	if err != nil {
		return err
	}
	c.trash = map[director.User][]string{}
	for _, e := range entries {
		if u, _, ok := trashName(e.Name()); ok && !strings.HasPrefix(e.Name(), purgePrefix) {
			c.trash[u] = append(c.trash[u], e.Name())
		}
	}
	return nil
}

// outbox tells of messages that were refused; all, or those of one user.
func (c *checkRun) outbox(name director.User) error {
	const refused = ".refused"
	entries, err := os.ReadDir(c.b.disk.outbox())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), refused) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(c.b.disk.outbox(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var entry outbox.Entry
		if err := json.Unmarshal(data, &entry); err != nil {
			entry = outbox.Entry{Kind: "message that is not legible"}
		}
		if name == "" || entry.User == name {
			c.problem(entry.User, control.KindOutbox, "read it and remove it with its .msg, or rename it to .json to have it tried again",
				"a %s of %s to %d recipients is refused by all mx: outbox/%s", entry.Kind, entry.At.Format(time.RFC3339), len(entry.To), e.Name())
		}
	}
	return nil
}
