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
	"waypost/director/admin"
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

// TestKillEverythingAtEveryStep: constant delivery and reading on 30 users
// while all 30 move, twice; mover, source, target, an mx and etcd are each
// killed with SIGKILL at every step of a move in turn, and started again.
func TestKillEverythingAtEveryStep(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WAYPOST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: replay with WAYPOST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t)
	l := startLoad(c, t, c.withUsers(30))
	k := &killer{c: c, t: t, kills: make(map[string]int)}
	k.plan(r)
	k.run(r, l)
	l.end()
	if t.Failed() {
		return
	}
	for what, n := range k.kills {
		t.Logf("killed %s: %d", what, n)
	}
	if k.left() > 0 {
		t.Errorf("%d kills were not done: %v", k.left(), k.todo)
	}
	l.settled(patience)
	k.noneLeftMoving()
	l.check()
	c.oneServes(t, l)
}

// killer answers the mover's points and kills at them.
type killer struct {
	c *testCluster
	t *testing.T

	mu    sync.Mutex
	todo  map[string][]string // point → victims still to kill there
	kills map[string]int
}

func (k *killer) plan(r *rand.Rand) {
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

// run moves users around, one at a time, until everything has been killed
// everywhere and each user has moved; the order comes from the seed.
func (k *killer) run(r *rand.Rand, l *load) {
	moved := make(map[director.User]int)
	const most = 200
	for n := 0; n < most && !k.t.Failed(); n++ {
		u := l.users[n%len(l.users)].name
		if k.left() == 0 && len(moved) == len(l.users) {
			return
		}
		if k.one(r, u) {
			moved[u]++
		}
	}
}

// one moves one user, with at most one kill.
func (k *killer) one(r *rand.Rand, u director.User) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var from, to director.BackendID
	eventually(k.t, "home of "+string(u), patience, func() error {
		got, err := k.c.admin.User(ctx, u)
		from = got.Home
		return err
	})
	for _, id := range []director.BackendID{"b1", "b2", "b3"} {
		if id != from && (to == "" || r.IntN(2) == 0) {
			to = id
		}
	}
	eventually(k.t, "move accepted", patience, func() error {
		_, err := k.c.admin.CreateMove(ctx, string(u), to)
		if errors.Is(err, director.ErrConflict) {
			return nil // an earlier answer was lost
		}
		return err
	})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { k.answer(done, from, to) })
	var m admin.Move
	eventually(k.t, "end of the move of "+string(u), 2*patience, func() error {
		var err error
		if m, err = k.c.admin.Move(ctx, u); err == nil && m.Result == "" {
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
	close(done)
	wg.Wait()
	return m.Result == "done"
}

// answer lets the mover go on at each point, after at most one kill.
func (k *killer) answer(done <-chan struct{}, from, to director.BackendID) {
	killed := false
	for {
		r := k.c.procs["r1"]
		r.mu.Lock()
		at := r.at
		r.mu.Unlock()
		select {
		case <-done:
			return
		case point, ok := <-at:
			if !ok {
				return // it ended without being told to; the test's deadline says so
			}
			victim := k.take(point, killed)
			if victim != "" {
				killed = true
				k.kill(victim, point, from, to)
			}
			if victim != "mover" {
				r.goOn()
			}
		}
	}
}

func (k *killer) take(point string, killed bool) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	vs := k.todo[point]
	if killed || len(vs) == 0 {
		return ""
	}
	k.todo[point] = vs[1:]
	k.kills[vs[0]+" at "+point]++
	return vs[0]
}

func (k *killer) kill(victim, point string, from, to director.BackendID) {
	name := map[string]string{"mover": "r1", "source": string(from), "target": string(to), "mx1": "mx1", "e1": "e1"}[victim]
	k.t.Logf("kill -9 %s (%s) at %s", name, victim, point)
	k.c.restart(name)
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
	var wantBytes, wantMessages int64
	for _, sub := range []string{"cur", "new"} {
		es, err := os.ReadDir(filepath.Join(root, sub))
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
