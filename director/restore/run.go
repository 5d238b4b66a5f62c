package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/director"
)

// keySchema is the directory's key of that name.
const keySchema = "schema"

// Options of Run.
type Options struct {
	Store director.Store
	// Sweep calls fn with all fences of a backend whose node listener is at node, and
	// gives what its disk is.
	Sweep func(ctx context.Context, id director.BackendID, node string, fn func(director.User, Fence) error) (director.Incarnation, error)
	// Import are entries, by key, that are taken where the store has none: a node's
	// copy of the directory, accounts from a backup.
	Import map[string][]byte
	// Nodes are backends by address that the store may not know, or know wrongly.
	Nodes map[director.BackendID]string
	// Without are backends that are taken for lost: nothing hangs on them.
	Without []director.BackendID
	// Homes are an operator's decisions.
	Homes map[director.User]director.BackendID
	// Partial goes on although a backend did not answer.
	Partial bool
	// DryRun changes nothing, and so cannot close the directory: what it says may be
	// out of date where it is open.
	DryRun bool
	NewEra func() string
	Log    *slog.Logger
}

// UserNote is what is to be said of one user.
type UserNote struct {
	User    director.User `json:"user"`
	Verdict Verdict       `json:"verdict"`
	Record  string        `json:"record,omitempty"`
	Why     string        `json:"why"`
}

// Report is what Run did, or would do.
type Report struct {
	Users   int `json:"users"`
	Decided int `json:"decided"`
	Deleted int `json:"deleted"`
	Closed  int `json:"closed"`
	// Moved are users whose home is not the one that the store had.
	Moved int `json:"moved"`
	// Imported are entries that the store did not have.
	Imported int `json:"imported"`
	// NoAccount are users without one: they cannot log in, and get no mail, until
	// they have.
	NoAccount []director.User      `json:"no_account"`
	Silent    map[string]string    `json:"silent"` // backends, and why
	Lost      []director.BackendID `json:"lost"`
	Notes     []UserNote           `json:"notes"`
	Era       string               `json:"era,omitempty"`
	DryRun    bool                 `json:"dry_run"`
}

// ErrSilent: a backend did not answer, and nothing was said of it.
var ErrSilent = errors.New("not all backends answered")

// run is one Run.
type run struct {
	Options
	world  World
	nodes  map[director.BackendID]string
	disks  map[director.BackendID]director.Incarnation
	revs   map[string]int64 // of what the store has, 0: nothing
	report Report
	// newer are the accounts of users of whom the import has a later record than the
	// store, dead those of users who were deleted; both by key.
	newer, dead map[string]bool

	mu     sync.Mutex // guards claims while backends are swept
	claims map[director.User]*Claims
}

// Run restores the directory. An error leaves it closed, unless it says ErrSilent
// or was made dry: nothing was changed then. It may be made again.
func Run(ctx context.Context, o Options) (Report, error) {
	r := &run{Options: o, nodes: map[director.BackendID]string{}, disks: map[director.BackendID]director.Incarnation{}, revs: map[string]int64{}, newer: map[string]bool{}, dead: map[string]bool{}, claims: map[director.User]*Claims{}}
	r.world = World{Silent: map[director.BackendID]bool{}, Lost: map[director.BackendID]bool{}, Foreign: map[director.BackendID]bool{}}
	r.report = Report{DryRun: o.DryRun, NoAccount: []director.User{}, Silent: map[string]string{}, Lost: []director.BackendID{}, Notes: []UserNote{}}
	if err := r.whole(ctx); err != nil {
		return r.report, fmt.Errorf("restore the directory: %w", err)
	}
	return r.report, nil
}

func (r *run) whole(ctx context.Context) error {
	// Who is there is found out first: with the directory still open, where it is.
	if err := r.backends(ctx); err != nil {
		return err
	}
	if err := r.reach(ctx); err != nil {
		return err
	}
	if !r.DryRun {
		if err := r.shut(ctx); err != nil {
			return err
		}
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	w := &writer{run: r}
	for _, u := range slices.Sorted(maps.Keys(r.claims)) {
		if err := w.user(ctx, u, r.decide(u)); err != nil {
			return err
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	if r.DryRun {
		return nil
	}
	return r.open(ctx)
}

// backends finds those that have fences, and where they are.
func (r *run) backends(ctx context.Context) error {
	add := func(key string, value []byte) {
		id := director.BackendID(strings.TrimPrefix(key, director.PrefixBackend))
		b, err := director.DecodeBackend(value)
		switch {
		case err != nil:
			r.Log.Warn("backend record cannot be read", "key", key, "error", err)
		case b.Kind != director.KindWaypost:
			r.world.Foreign[id] = true
		case b.State == director.BackendLost:
			r.world.Lost[id] = true
		default:
			r.nodes[id] = b.Node
		}
	}
	for key, value := range r.Import {
		if strings.HasPrefix(key, director.PrefixBackend) {
			add(key, value)
		}
	}
	_, err := r.Store.List(ctx, director.PrefixBackend, func(e director.Entry) error {
		add(e.Key, e.Value)
		return nil
	})
	if err != nil {
		return err
	}
	maps.Copy(r.nodes, r.Nodes)
	for _, id := range r.Without {
		r.world.Lost[id] = true
	}
	for id := range r.world.Lost {
		delete(r.nodes, id)
		r.report.Lost = append(r.report.Lost, id)
	}
	slices.Sort(r.report.Lost)
	if len(r.nodes) == 0 {
		return fmt.Errorf("no backend is known: name them with their addresses: %w", director.ErrNotFound)
	}
	return nil
}

// reachWait is how long a backend may take to answer at all.
const reachWait = 15 * time.Second

// errReached ends a sweep at its first fence.
var errReached = errors.New("reached")

// reach asks each backend for anything at all, and demands that all answer.
func (r *run) reach(ctx context.Context) error {
	err := r.each(ctx, func(ctx context.Context, id director.BackendID) error {
		short, cancel := context.WithTimeout(ctx, reachWait)
		defer cancel()
		disk, err := r.Sweep(short, id, r.nodes[id], func(director.User, Fence) error { return errReached })
		if errors.Is(err, errReached) {
			err = nil
		}
		if err == nil {
			err = r.believable(ctx, id, disk)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.world.Silent[id] = true
			r.report.Silent[string(id)] = err.Error()
		}
		return nil
	})
	if err != nil || len(r.world.Silent) == 0 || r.Partial || r.DryRun {
		return err
	}
	return fmt.Errorf("%w: %s", ErrSilent, strings.Join(slices.Sorted(maps.Keys(r.report.Silent)), ", "))
}

// believable refuses the fences of a disk that was itself rolled back or swapped, as
// far as the store remembers (R9). A sweep that ended at its first fence has not
// told of the disk.
func (r *run) believable(ctx context.Context, id director.BackendID, disk director.Incarnation) error {
	seen, err := director.New(r.Store).Incarnation(ctx, id)
	switch {
	case errors.Is(err, director.ErrNotFound):
		return nil
	case err != nil:
		return err
	case disk.Disk != "" && (disk.Disk != seen.Disk || disk.Count < seen.Count):
		return fmt.Errorf("its disk %s, start %d, was rolled back or swapped: the directory has seen %s, start %d", disk.Disk, disk.Count, seen.Disk, seen.Count)
	}
	return nil
}

// each runs fn for all backends, some at once.
func (r *run) each(ctx context.Context, fn func(context.Context, director.BackendID) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, id := range slices.Sorted(maps.Keys(r.nodes)) {
		g.Go(func() error { return fn(ctx, id) })
	}
	return g.Wait()
}

// read takes what the store has, and the import where that has nothing or an older
// record.
func (r *run) read(ctx context.Context) error {
	for _, prefix := range []string{director.PrefixLocation, director.PrefixAccount} {
		_, err := r.Store.List(ctx, prefix, func(e director.Entry) error {
			r.revs[e.Key] = e.Rev
			return r.take(e.Key, e.Value)
		})
		if err != nil {
			return err
		}
	}
	for key, value := range r.Import {
		if r.revs[key] == 0 || r.later(key, value) {
			if err := r.take(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// later tells whether an entry of the import is a record above the store's: a node's
// copy is often newer than a snapshot of etcd. The account counts with the record, as
// both may be the next person's of that name.
func (r *run) later(key string, value []byte) bool {
	name, ok := strings.CutPrefix(key, director.PrefixLocation)
	if !ok {
		return false
	}
	u := director.User(name)
	rec, err := director.DecodeRecord(value)
	have := r.of(u).Record
	if err != nil || rec.Home == Undecided || have != nil && have.Home != Undecided && have.Epoch >= rec.Epoch {
		return false
	}
	r.newer[director.AccountKey(u)] = true
	return true
}

func (r *run) take(key string, value []byte) error {
	if name, ok := strings.CutPrefix(key, director.PrefixAccount); ok {
		r.of(director.User(name)).Account = true
	}
	name, ok := strings.CutPrefix(key, director.PrefixLocation)
	if !ok {
		return nil
	}
	rec, err := director.DecodeRecord(value)
	if err != nil {
		r.Log.Warn("record cannot be read: the fences decide", "user", name, "error", err)
		return nil
	}
	r.of(director.User(name)).Record = &rec
	return nil
}

func (r *run) of(u director.User) *Claims {
	c := r.claims[u]
	if c == nil {
		c = &Claims{Fences: map[director.BackendID]Fence{}}
		r.claims[u] = c
	}
	return c
}

// sweep reads all fences. A backend that answered before must answer to the end.
func (r *run) sweep(ctx context.Context) error {
	return r.each(ctx, func(ctx context.Context, id director.BackendID) error {
		if r.world.Silent[id] {
			return nil
		}
		n := 0
		disk, err := r.Sweep(ctx, id, r.nodes[id], func(u director.User, f Fence) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			n++
			r.of(u).Fences[id] = f
			return nil
		})
		if err == nil {
			err = r.believable(ctx, id, disk)
		}
		if err != nil {
			return fmt.Errorf("fences of %s: %w", id, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.disks[id] = disk
		r.Log.Info("fences read", "backend", string(id), "fences", n)
		return nil
	})
}

// decide decides about one user, and notes what is to be said of it.
func (r *run) decide(u director.User) Decision {
	c := *r.claims[u]
	d := Decide(r.world, c)
	if home, asked := r.Homes[u]; asked {
		forced, err := Force(c, home)
		if err != nil {
			d.Why += fmt.Sprintf("; %v", err)
		} else {
			d = forced
		}
	}
	r.report.Users++
	switch {
	case d.Verdict == Closed:
		r.report.Closed++
	case d.Verdict == Decided && d.Record.State == director.Deleted:
		r.report.Deleted++
	case d.Verdict == Decided:
		r.report.Decided++
		if c.Record != nil && c.Record.Home != d.Record.Home {
			r.report.Moved++
		}
	}
	if !c.Account && d.Verdict != None && d.Record.State != director.Deleted {
		r.report.NoAccount = append(r.report.NoAccount, u)
	}
	if d.Why != "" {
		note := UserNote{User: u, Verdict: d.Verdict, Why: d.Why}
		if d.Verdict == Decided {
			note.Record = d.Record.String()
		}
		r.report.Notes = append(r.report.Notes, note)
	}
	return d
}
