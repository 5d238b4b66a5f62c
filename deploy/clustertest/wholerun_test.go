package clustertest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// wholeSize is how much a whole run does. WAYPOST_WHOLE=full is what the project
// promises its operators; without it a run fits into the gate.
type wholeSize struct {
	users, moves int
	// gap is about how long a client waits between two commands.
	gap time.Duration
	// bound ends a run that does not come to its end.
	bound time.Duration
}

func sizeOfWhole() wholeSize {
	if os.Getenv("WAYPOST_WHOLE") == "full" {
		return wholeSize{users: 200, moves: 3, gap: 500 * time.Millisecond, bound: 20 * time.Minute}
	}
	return wholeSize{users: 24, moves: 1, gap: 250 * time.Millisecond, bound: 6 * time.Minute}
}

// TestWholeCluster has users get mail, read by IMAP, wait in IDLE, and fetch by POP3, all
// the time, while each of them is moved, processes are stopped and killed, a backend is
// cut off, and another's disk is full. No client sees an error, no IMAP connection
// ends but those of a killed proxy and those with a command running in a killed backend. No message is lost, doubled or altered (I1 to I6). What the clients notice is
// pauses, which it prints.
func TestWholeCluster(t *testing.T) {
	need(t, "ip", "nsenter", "mkfs.ext4", "mount", "findmnt", "fallocate")
	n := newNetwork(t)
	size := sizeOfWhole()
	c := newClusterWith(t, n.change)
	c.withUsers(0)
	var users []director.User
	for i := range size.users {
		users = append(users, c.user(t, fmt.Sprintf("u%d@example.test", i), homeOf(i)))
	}
	disk := c.onExtDisk(t, "b2")
	w := newWholeRun(c, t, size, users)
	defer w.end()
	w.clients()
	w.faults(n, disk)
	w.moving.Wait()
	w.end()
	w.report()
	w.settled(patience)
	(&killer{c: c, t: t}).noneLeftMoving()
	w.check()
	c.oneServes(t, w.load)
}

// homeOf is where the i-th user lives at first.
func homeOf(i int) director.BackendID { return director.BackendID(fmt.Sprintf("b%d", i%3+1)) }

// wholeRun is the state of a run.
type wholeRun struct {
	*load
	size  wholeSize
	until time.Time
	// ctx ends with the run.
	ctx     context.Context
	stopAll func()

	moving         sync.WaitGroup
	moved, putBack atomic.Int64

	mu     sync.Mutex
	outs   []outage
	opened int
	ended  map[string]int // connections, by what excuses their end
	seen   map[string]int // what happened, for the report
	wrong  int
	trips  map[director.User][]trip
	moves  map[director.User][]admin.Move
	places map[director.User][]outage // backends where a user was, and when
}

// outage is a time in which a process was away, or half there.
type outage struct {
	what     string // "proxy", "backend killed", "mx", …
	id       string
	from, to time.Time // to is zero while it lasts
	gone     time.Time // when a process that was killed had ended; zero: not yet
}

func newWholeRun(c *testCluster, t *testing.T, size wholeSize, users []director.User) *wholeRun {
	w := &wholeRun{
		load: &load{c: c, t: t, stop: make(chan struct{})}, size: size, until: time.Now().Add(size.bound),
		ended: make(map[string]int), seen: make(map[string]int), trips: make(map[director.User][]trip), moves: make(map[director.User][]admin.Move),
		places: make(map[director.User][]outage),
	}
	ctx, cancel := context.WithDeadline(context.Background(), w.until)
	w.ctx, w.stopAll = ctx, sync.OnceFunc(func() { cancel(); close(w.stop) })
	for i, u := range users {
		w.lives(u, homeOf(i), "")
		w.users = append(w.users, &loadUser{name: u, acked: make(map[string]bool), silent: make(map[string]int), uids: make(map[uint32]string), flagged: make(map[uint32]bool)})
	}
	return w
}

// begins records an outage, before it is caused; gone tells that the process has ended, over that it is
// back.
func (w *wholeRun) begins(what, id string) (gone, over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.outs)
	w.outs = append(w.outs, outage{what: what, id: id, from: time.Now()})
	note := func(set func(o *outage, now time.Time)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		set(&w.outs[i], time.Now())
	}
	return func() { note(func(o *outage, now time.Time) { o.gone = now }) },
		func() { note(func(o *outage, now time.Time) { o.to = now }) }
}

// during tells whether there was an outage of a kind between two times. An empty id is any.
func (w *wholeRun) during(what, id string, from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.outs, func(o outage) bool {
		return o.what == what && (id == "" || o.id == id) && o.from.Before(to) && (o.to.IsZero() || o.to.After(from))
	})
}

// ranInKilled tells whether a user's command that began at from and has not ended at to was with a
// backend that was killed: it was given before the backend's end, and the user lived there then, or
// was on the way there or from there.
func (w *wholeRun) ranInKilled(u director.User, from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.outs, func(o outage) bool {
		end := o.gone
		if end.IsZero() {
			end = to
		}
		return o.what == killedBackend && o.from.Before(to) && !end.Before(from) && slices.ContainsFunc(w.places[u], func(p outage) bool {
			return p.id == o.id && p.from.Before(end) && (p.to.IsZero() || p.to.After(o.from))
		})
	})
}

// history tells where a user was and what was away, for who looks into an end without an excuse.
func (w *wholeRun) history(u director.User) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, o := range append(slices.Clone(w.places[u]), w.outs...) {
		lines = append(lines, fmt.Sprintf("%s %s %s to %s, gone %s", o.what, o.id, clock(o.from), clock(o.to), clock(o.gone)))
	}
	return strings.Join(lines, "; ")
}

func clock(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Format("15:04:05.000")
}

// lives notes where a user is by now, and may be soon; "" is nowhere.
func (w *wholeRun) lives(u director.User, home, target director.BackendID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, is := time.Now(), []string{string(home), string(target)}
	for i := range w.places[u] {
		p := &w.places[u][i]
		at := slices.Index(is, p.id)
		switch {
		case !p.to.IsZero():
		case at < 0:
			p.to = now
		default:
			is[at] = "" // as before
		}
	}
	for _, id := range slices.Compact(is) {
		if id != "" {
			w.places[u] = append(w.places[u], outage{id: id, from: now})
		}
	}
}

func (w *wholeRun) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

// mistake is an error that a client saw and must not have. Some are printed, all are counted.
func (w *wholeRun) mistake(format string, a ...any) {
	w.mu.Lock()
	w.wrong++
	n := w.wrong
	w.mu.Unlock()
	if n <= 40 {
		w.t.Errorf("%s "+format, append([]any{clock(time.Now())}, a...)...)
	} else {
		w.t.Fail()
	}
}

// startMoves moves each user as often as the size says, several at a time, and again
// where a move was undone.
func (w *wholeRun) startMoves() {
	todo := make(chan *loadUser, w.size.users*w.size.moves)
	for range w.size.moves {
		for _, u := range w.users {
			todo <- u
		}
	}
	close(todo)
	for range 6 {
		w.moving.Go(func() {
			for u := range todo {
				w.moveOnce(u.name)
			}
		})
	}
}

// moveOnce moves a user to the next backend, with as many tries as that takes.
func (w *wholeRun) moveOnce(u director.User) {
	next := map[director.BackendID]director.BackendID{"b1": "b2", "b2": "b3", "b3": "b1"}
	var to director.BackendID
	for w.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(w.ctx, 2*time.Minute)
		m, err := w.tryMove(ctx, u, &to, next)
		cancel()
		switch {
		case err != nil: // the director is away, or the move before is being tidied up
			if !w.next(200 * time.Millisecond) {
				return
			}
		case m.Result == "done":
			w.moved.Add(1)
			w.lives(u, to, "")
			w.mu.Lock()
			w.moves[u] = append(w.moves[u], m)
			w.mu.Unlock()
			return
		default:
			w.putBack.Add(1)
			w.count("move undone: " + m.Reason)
		}
	}
	if running(w.stop) {
		w.mistake("I6: %s was not moved in time", u)
	}
}

func (w *wholeRun) tryMove(ctx context.Context, u director.User, to *director.BackendID, next map[director.BackendID]director.BackendID) (admin.Move, error) {
	got, err := w.c.admin.User(ctx, u)
	if err != nil {
		return admin.Move{}, err
	}
	if *to == "" {
		*to = next[got.Home]
	}
	w.lives(u, got.Home, *to)
	if got.Move == nil && got.Home != *to {
		if _, err := w.c.admin.CreateMove(ctx, string(u), *to); err != nil {
			return admin.Move{}, err
		}
	}
	return w.c.admin.WatchMove(ctx, u, func(admin.Move) {})
}

// progress waits until a part of all moves is done.
func (w *wholeRun) progress(part float64) {
	want := int64(part * float64(w.size.users*w.size.moves))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for w.moved.Load() < want && time.Now().Before(w.until) {
		<-tick.C
	}
}

func (w *wholeRun) end() {
	w.stopAll()
	w.moving.Wait()
	w.wg.Wait()
}
