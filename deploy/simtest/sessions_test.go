package simtest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// enoughSessions show everything that can happen to one.
const enoughSessions = 200

// schedule is what one run does to sessions.
func (g *stage) schedule() error {
	for _, id := range g.ids {
		if err := g.hosts[id].boot(); err != nil {
			return err
		}
	}
	for i := range 1 + g.rng.IntN(2) {
		d := &door{g: g, name: fmt.Sprint("p", i+1)}
		if err := d.boot(); err != nil {
			return err
		}
		g.doors = append(g.doors, d)
		c := &mailClient{g: g, name: fmt.Sprint("c", i+1), door: d, addr: &net.TCPAddr{IP: net.IPv4(198, 51, 100, byte(i+1)), Port: 2000}}
		g.clients = append(g.clients, c)
		g.changers++
		commands := 4 + g.rng.IntN(12)
		g.alive(func(ctx context.Context) { c.live(ctx, commands) })
	}
	until := 10*time.Second + g.upTo(20*time.Second)
	g.calm = g.chance(4)
	g.changers += 2
	g.alive(func(ctx context.Context) { g.moves(ctx, until) })
	g.alive(func(ctx context.Context) { g.changes(ctx, until) })
	g.alive(func(ctx context.Context) { g.breaks(ctx, until) })
	return nil
}

// moves has the user moved, as a mover does by the record, and as a backend by the fence;
// or let go of and taken back, as by a backend that is restarted in order.
func (g *stage) moves(ctx context.Context, until time.Duration) {
	for begin := time.Now(); time.Since(begin) < until; {
		if sleep(ctx, 200*time.Millisecond) != nil || g.step(ctx, "mover", "moves") != nil {
			return
		}
		pause := func() bool {
			return sleep(ctx, g.upTo(2*time.Second)) == nil && g.step(ctx, "mover", "goes on") == nil
		}
		if g.chance(3) { // the home is restarted in order
			rec, _ := g.record()
			g.saw("let go of")
			g.mail.Refuse(alice)
			if !pause() {
				return
			}
			g.mail.Serve(alice, rec.Home, rec.Epoch)
			continue
		}
		rec, _ := g.record()
		to := g.ids[g.rng.IntN(len(g.ids))]
		if to == rec.Home {
			continue
		}
		g.become(func(r director.Record) (director.Record, error) { return r.MarkBusy(to) })
		if !pause() {
			return
		}
		g.mail.Freeze(alice)
		if !pause() {
			return
		}
		flip := director.Record.Flip
		if g.chance(4) {
			flip = director.Record.Rollback
			g.saw("rolled back")
		} else {
			g.saw("moved")
		}
		g.become(flip)
		if !pause() {
			return
		}
		rec, _ = g.record()
		g.mail.Serve(alice, rec.Home, rec.Epoch)
		if sleep(ctx, g.upTo(4*time.Second)) != nil {
			return
		}
	}
	if g.step(ctx, "mover", "ends") == nil {
		g.changers--
	}
}

func (g *stage) record() (director.Record, int64) {
	v, err := g.store.Get(context.Background(), director.LocationKey(alice))
	if err != nil {
		return director.Record{}, 0
	}
	rec, err := director.DecodeRecord(v.Value)
	if err != nil {
		g.fail("record: %v", err)
	}
	return rec, v.Rev
}

func (g *stage) become(next func(director.Record) (director.Record, error)) {
	was, rev := g.record()
	rec, err := next(was)
	if err == nil {
		_, _, err = g.store.Commit(context.Background(), []director.Guard{{Key: director.LocationKey(alice), Rev: rev}},
			[]director.Op{{Key: director.LocationKey(alice), Value: rec.Encode()}})
	}
	if err != nil {
		g.fail("record: %v", err)
	}
	g.note("mover", rec.String())
}

// changes is what others do to the mailbox meanwhile: deliveries, flags, expunges.
func (g *stage) changes(ctx context.Context, until time.Duration) {
	begin := time.Now()
	for i := 0; time.Since(begin) < until; i++ {
		if sleep(ctx, time.Duration(100+i*331%2900)*time.Millisecond) != nil || g.step(ctx, "others", "change") != nil {
			return
		}
		rec, _ := g.record()
		box, err := g.mail.Open(ctx, alice, rec.Home, rec.Epoch)
		if err != nil {
			continue // it is being moved
		}
		if err := g.change(ctx, box, fmt.Sprint("m", i)); err != nil {
			g.fail("others: %v", err)
		}
		box.Close()
	}
	if g.step(ctx, "others", "end") == nil {
		g.changers--
	}
}

func (g *stage) change(ctx context.Context, box mailbox.Box, name string) error {
	folder, err := box.Folder(mailbox.Inbox)
	if err != nil {
		return err
	}
	peek, err := folder.Peek()
	if err != nil {
		return err
	}
	n := peek.Messages.Len()
	if n < 2 || n < 12 && g.chance(3) {
		m, err := g.mail.Stage(ctx, "", strings.NewReader("Subject: "+name+"\r\n\r\n"), 0)
		if err != nil {
			return err
		}
		_, err = box.Append(mailbox.Inbox, []mailbox.NewMessage{{Message: m, Date: time.Now()}})
		return err
	}
	uid := peek.Messages.At(g.rng.IntN(n)).UID
	if g.chance(2) {
		g.gone[uid] = true
		_, err = folder.Expunge([]mailbox.UID{uid})
		return err
	}
	change := mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Answered}}
	if g.chance(2) {
		change.Op = mailbox.FlagsRemove
	}
	_, err = folder.SetFlags([]mailbox.UID{uid}, change)
	return err
}

// breaks crashes and cuts, and mends all in the end.
func (g *stage) breaks(ctx context.Context, until time.Duration) {
	begin := time.Now()
	for sleep(ctx, 200*time.Millisecond+g.upToInTurn(ctx, 2*time.Second)) == nil && time.Since(begin) < until {
		if g.step(ctx, "harm", "now") != nil {
			return
		}
		if g.calm || g.chance(2) && !g.atRest(ctx) {
			continue
		}
		h, d := g.hosts[g.ids[g.rng.IntN(len(g.ids))]], g.doors[g.rng.IntN(len(g.doors))]
		if rec, _ := g.record(); g.chance(2) {
			h = g.hosts[rec.Home]
		}
		switch g.rng.IntN(12) {
		case 0, 1, 2, 3:
			g.crashOrBoot(h)
		case 4, 5:
			g.cutOne()
		case 6:
			if d.run != nil {
				g.saw("proxy killed")
				d.kill()
			} else if err := d.boot(); err != nil {
				g.fail("proxy: %v", err)
			}
		case 7, 8, 9:
			g.cutOff([]string{string(h.id) + "/net", d.name, d.name}[g.rng.IntN(3)])
		default:
			g.again(ctx)
		}
	}
	if g.step(ctx, "harm", "ends") == nil {
		g.mend()
	}
}

// atRest waits until sessions have had time for their checkpoints.
func (g *stage) atRest(ctx context.Context) bool {
	for range 30 {
		if time.Since(g.net.moved) > 2*time.Second {
			return true
		}
		if sleep(ctx, 200*time.Millisecond) != nil || g.step(ctx, "harm", "waits for rest") != nil {
			return false
		}
	}
	return true
}

// upToInTurn is upTo for who may not have the turn.
func (g *stage) upToInTurn(ctx context.Context, d time.Duration) time.Duration {
	if g.step(ctx, "harm", "waits") != nil {
		return 0
	}
	return g.upTo(d)
}

func (g *stage) crashOrBoot(h *host) {
	if h.run == nil {
		if err := h.boot(); err != nil {
			g.fail("%v", err)
		}
		return
	}
	g.saw("backend crashed")
	g.harmed = true
	h.crash()
	after := 50*time.Millisecond + g.upTo(4*time.Second)
	g.alive(func(ctx context.Context) {
		if sleep(ctx, after) == nil && g.step(ctx, string(h.id), "boots") == nil && h.run == nil {
			g.crashOrBoot(h)
		}
	})
}

// cutOff has a machine not reached, or not reach the directory; if one is already, it ends.
func (g *stage) cutOff(what string) {
	if len(g.cut) > 0 {
		clear(g.cut)
		g.note("harm", "nobody is cut off")
		return
	}
	g.toggle(what)
}

// cutOne breaks a connection between a proxy and a backend, for both or for one.
func (g *stage) cutOne() {
	all := g.net.alive(func(c *cable) bool { return strings.HasPrefix(c.name, "p") })
	if len(all) == 0 {
		return
	}
	c, how := all[g.rng.IntN(len(all))], g.rng.IntN(3)
	g.saw("connection cut")
	g.note("harm", fmt.Sprintf("cut %s %d", c.name, how))
	g.harmed = true
	c.cut(how != 1, how != 2)
}

func (g *stage) mend() {
	clear(g.cut)
	for _, id := range g.ids {
		if h := g.hosts[id]; h.run == nil {
			g.crashOrBoot(h)
		}
	}
	for _, d := range g.doors {
		if d.run == nil {
			if err := d.boot(); err != nil {
				g.fail("proxy: %v", err)
			}
		}
	}
	g.mended = time.Now()
}

// quiet tells whether all has ended, and looks at what must always hold.
func (g *stage) quiet() bool {
	g.check()
	switch {
	case len(g.bad) > 0:
		return true
	case g.picks > runaway:
		g.fail("I6: %d turns and no end", g.picks)
	case time.Since(g.start) > 2*settleWithin:
		g.fail("I6: not at rest: %d at work", g.living)
	}
	return len(g.bad) > 0 || g.living == 0
}

func (g *stage) end() {
	g.stop()
	g.cutAll(func(*cable) bool { return true })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.running.Wait()
		_ = g.store.Close() // never fails
	}()
	g.run(func() bool {
		g.cutAll(func(*cable) bool { return true })
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// runSessions makes one schedule of sessions, with a rule switched off or none.
func runSessions(t *testing.T, seed uint64, off string, keep bool) (o outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSched(seed, keep)
		g, err := newStage(s, off)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.schedule(); err != nil {
			t.Fatal(err)
		}
		s.run(g.quiet)
		if len(g.bad) == 0 {
			g.judge()
		}
		maps.Copy(g.seen, g.counted.said)
		for reason, n := range g.counted.reasons {
			g.seen["not carried: "+reason] += n
		}
		o = outcome{g.bad, s.hash.Sum64(), s.picks, g.seen, s.lines}
		g.end()
	})
	return o
}

// TestSessions is the hunt for sessions that are lost, doubled, or told what is not so.
func TestSessions(t *testing.T) {
	if *one != 0 {
		o := runSessions(t, *one, "", true)
		t.Logf("%s\nbad: %s\nseen: %v", strings.Join(o.lines, "\n"), strings.Join(o.bad, "\n"), o.seen)
		if len(o.bad) > 0 {
			t.Fail()
		}
		return
	}
	n := *seeds
	if n == 0 {
		n = sessionSeeds
	}
	all := tally{seen: map[string]int{}}
	t.Run("all", func(t *testing.T) {
		shards := runtime.GOMAXPROCS(0)
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := *first + uint64(shard); seed < *first+uint64(n); seed += uint64(shards) {
					o := runSessions(t, seed, "", false)
					all.add(o)
					if len(o.bad) > 0 {
						t.Errorf("seed %d: %s", seed, strings.Join(o.bad, "\n"))
					}
				}
			})
		}
	})
	t.Logf("%d schedules, %d turns", n, all.picks)
	for _, what := range slices.Sorted(maps.Keys(all.seen)) {
		t.Logf("%8d %s", all.seen[what], what)
	}
	if n < enoughSessions {
		return
	}
	for _, what := range []string{
		"a hand-off is sent twice", "backend crashed", "connection cut", "let go of", "link cut in a resume", "moved", "not carried: lost",
		"not carried: unproven", "proxy killed", "resume after a later try", "resume given up", "rolled back", "session resumed after checkpoint", "session resumed after hand-off",
	} {
		if all.seen[what] == 0 {
			t.Errorf("in %d schedules there was never: %s", n, what)
		}
	}
}
