package clustertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/fence"
	"waypost/director"
)

// permanent tells whether an SMTP error is one.
func permanent(err error) bool {
	var e *textproto.Error
	return errors.As(err, &e) && e.Code >= 500
}

// points are where a mover can be stopped, in the order of a move.
var points = []string{"copy", "pass", "busy", "freeze", "frozen", "seal", "pulled", "sealed", "flip", "flipped", "finish", "done"}

// victims are killed at each point.
var victims = []string{"mover", "source", "target", "mx1", "e1"}

// seeded is a test's source of chance; stream tells tests of one seed apart.
func seeded(t *testing.T, stream uint64) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WAYPOST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: replay with WAYPOST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, stream))
}

// TestKillEverythingAtEveryStep: constant delivery and reading on 30 users
// while all 30 move, twice; mover, source, target, an mx and etcd are each
// killed with SIGKILL at every step of a move in turn, and started again.
func TestKillEverythingAtEveryStep(t *testing.T) {
	beside(t)
	r := seeded(t, 1)
	c := newCluster(t)
	l := startLoad(c, t, c.withUsers(30))
	k := &killer{c: c, t: t, kills: make(map[string]int)}
	k.plan(r, victims)
	k.run(r, l)
	k.judge(l)
}

// judge ends the load, and looks at everything when all is quiet.
func (k *killer) judge(l *load) {
	l.end()
	if k.t.Failed() {
		return
	}
	for what, n := range k.kills {
		k.t.Logf("killed %s: %d", what, n)
	}
	if k.left() > 0 {
		k.t.Errorf("%d kills were not done: %v", k.left(), k.todo)
	}
	l.settled(patience)
	k.noneLeftMoving()
	l.check()
	k.c.oneServes(k.t, l)
}

// killer keeps all users moving, answers the mover's points, and kills there.
type killer struct {
	c *testCluster
	t *testing.T
	// disks are of those whose machine loses power, when it is their turn.
	disks map[string]*extDisk

	mu     sync.Mutex
	todo   map[string][]string // point → victims still to kill there
	kills  map[string]int
	flying map[director.User][2]director.BackendID // from, to
	moved  map[director.User]int
}

func (k *killer) plan(r *rand.Rand, victims []string) {
	k.todo = make(map[string][]string)
	for _, p := range points {
		vs := append([]string(nil), victims...)
		r.Shuffle(len(vs), func(i, j int) { vs[i], vs[j] = vs[j], vs[i] })
		k.todo[p] = vs
	}
}

func (k *killer) left() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, vs := range k.todo {
		n += len(vs)
	}
	return n
}

// run keeps every user moving until everything has been killed everywhere and
// each has moved at least once, then lets the last moves end.
func (k *killer) run(r *rand.Rand, l *load) {
	k.flying, k.moved = make(map[director.User][2]director.BackendID), make(map[director.User]int)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { k.answer(stop) })
	defer wg.Wait()
	defer close(stop)
	deadline := time.Now().Add(20 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		enough := k.left() == 0 && len(k.moved) == len(l.users)
		if enough && len(k.flying) == 0 || k.t.Failed() {
			return
		}
		if time.Now().After(deadline) {
			k.t.Errorf("not done in time: %d kills left, %d users moved, under way: %v", k.left(), len(k.moved), k.flying)
			return
		}
		for _, u := range l.users {
			k.step(r, u.name, !enough)
		}
		<-tick.C
	}
}

// step looks after one user: it starts a move where none is under way, or sees
// whether it has ended. The directory may be away: then nothing happens.
func (k *killer) step(r *rand.Rand, u director.User, more bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	k.mu.Lock()
	_, flying := k.flying[u]
	k.mu.Unlock()
	if flying {
		m, err := k.c.admin.Move(ctx, u)
		if err != nil || m.Result == "" {
			return
		}
		k.mu.Lock()
		delete(k.flying, u)
		k.mu.Unlock()
		if m.Result == "done" {
			k.moved[u]++
		}
		return
	}
	if !more {
		return
	}
	got, err := k.c.admin.User(ctx, u)
	if err != nil {
		return
	}
	others := map[director.BackendID][]director.BackendID{"b1": {"b2", "b3"}, "b2": {"b1", "b3"}, "b3": {"b1", "b2"}}[got.Home]
	to := others[r.IntN(2)]
	k.mu.Lock()
	k.flying[u] = [2]director.BackendID{got.Home, to}
	k.mu.Unlock()
	if _, err := k.c.admin.CreateMove(ctx, string(u), to); err != nil && !errors.Is(err, director.ErrUnknown) && !errors.Is(err, director.ErrConflict) {
		k.mu.Lock()
		delete(k.flying, u)
		k.mu.Unlock()
	}
}

// answer lets the mover go on at each point, after a kill where one is due.
func (k *killer) answer(stop <-chan struct{}) {
	r := k.c.procs["r1"]
	for {
		r.mu.Lock()
		at := r.at
		r.mu.Unlock()
		select {
		case <-stop:
			return
		case line, ok := <-at:
			if !ok {
				return // it ended without being told to; the deadline says so
			}
			point, user, _ := strings.Cut(line, " ")
			victim := k.take(point)
			if _, after := midway[victim]; after {
				r.goOn()
				k.midway(victim, point, director.User(user))
				continue
			}
			if victim != "" {
				k.kill(victim, point, director.User(user))
			}
			if victim != "mover" {
				r.goOn()
			}
		}
	}
}

func (k *killer) take(point string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	vs := k.todo[point]
	if len(vs) == 0 {
		return ""
	}
	k.todo[point] = vs[1:]
	k.kills[vs[0]]++
	return vs[0]
}

// kill kills a process of the move that is at point, starts it again, and waits
// until it serves: what is tested is one death at a time, at every step.
func (k *killer) kill(victim, point string, u director.User) {
	k.mu.Lock()
	move := k.flying[u]
	k.mu.Unlock()
	if k.disks != nil {
		k.cutPower(victim, point, u, move)
		return
	}
	name := map[string]string{"mover": "r1", "source": string(move[0]), "target": string(move[1]), "mx1": "mx1", "e1": "e1"}[victim]
	k.t.Logf("kill -9 %s (%s) at %s of %s", name, victim, point, u)
	k.c.restart(name)
	if victim == "source" || victim == "target" {
		return // the mover goes on while its backend is away
	}
	k.c.procs[name].waitReady(k.t)
}

// noneLeftMoving is I6.
func (k *killer) noneLeftMoving() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	moves, err := k.c.admin.Moves(ctx, false)
	if err != nil || len(moves) > 0 {
		k.t.Errorf("I6: unfinished moves: %+v (%v)", moves, err)
	}
}

// checkQuota compares the home's figures, and the quota log itself, with the
// names of the files.
func (l *load) checkQuota(u *loadUser, bytes, messages *int64, home director.BackendID) {
	if bytes == nil || messages == nil {
		l.t.Errorf("%s: the home gives no usage", u.name)
		return
	}
	root := filepath.Join(l.c.dir, string(home), "users", fence.Shard(u.name), string(u.name), "Maildir")
	var folders []string
	for _, of := range []string{"cur", "new", ".*/cur", ".*/new"} {
		more, err := filepath.Glob(filepath.Join(root, of))
		if err != nil {
			l.t.Fatal(err)
		}
		folders = append(folders, more...)
	}
	var wantBytes, wantMessages int64
	for _, folder := range folders {
		es, err := os.ReadDir(folder)
		if err != nil {
			l.t.Error(err)
			return
		}
		for _, e := range es {
			_, rest, ok := strings.Cut(e.Name(), ",S=")
			size, err := strconv.ParseInt(strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == ':' })[0], 10, 64)
			if !ok || err != nil {
				l.t.Errorf("file name %s", e.Name())
				continue
			}
			if st, err := e.Info(); err != nil || st.Size() != size {
				l.t.Errorf("%s: size on disk %d (%v)", e.Name(), st.Size(), err)
			}
			wantBytes += size
			wantMessages++
		}
	}
	if *bytes != wantBytes || *messages != wantMessages {
		l.t.Errorf("quota of %s: %d bytes in %d messages, the names say %d in %d", u.name, *bytes, *messages, wantBytes, wantMessages)
	}
}

// oneServes is I1, from the fences on the disks: exactly the home serves, at
// the record's epoch.
func (c *testCluster) oneServes(t *testing.T, l *load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, u := range l.users {
		got, err := c.admin.User(ctx, u.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range []director.BackendID{"b1", "b2", "b3"} {
			eventually(t, fmt.Sprintf("I1: fence of %s on %s fits", u.name, b), 20*time.Second, func() error {
				dir, err := fence.OpenDir(filepath.Join(c.dir, string(b), "fences"))
				if err != nil {
					return err
				}
				f, err := dir.Get(u.name)
				if err != nil {
					return err
				}
				serves := f.State == fence.Serving && f.Epoch == got.Epoch
				if serves != (b == got.Home) || f.State == fence.Frozen || f.State == fence.Serving && !serves {
					return fmt.Errorf("fence %s, home %s at %d", f, got.Home, got.Epoch)
				}
				return nil
			})
		}
	}
}
