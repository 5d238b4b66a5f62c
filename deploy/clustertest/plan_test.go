package clustertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// TestPlans: a backend is emptied by a plan, whose mover is killed in the middle; tags keep a
// user where it may live; and the continuous mode by itself levels what the drain has left.
func TestPlans(t *testing.T) {
	beside(t)
	c := newCluster(t)
	users := c.withUsers(12)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.admin.PutBackendTags(ctx, "b3", []string{"eu"}))
	europeans := 0
	for _, u := range users {
		if c.home(t, u) == "b1" && europeans < 2 {
			must(c.admin.PutUserTags(ctx, u, []string{"eu"}))
			europeans++
		}
	}
	if europeans == 0 {
		t.Fatal("nobody lives on b1")
	}
	state := director.BackendDraining
	must(c.admin.UpdateBackend(ctx, "b1", admin.UpdateBackend{State: &state}))
	must(c.admin.RequestPlan(ctx, admin.RequestPlan{Policy: director.PlanPolicy{Goal: director.GoalDrain}.WithDefaults(), Apply: true}))

	// The first move that is sealed is left by a mover that is killed.
	r := c.procs["r1"]
	r.passUntil(t, "seal")
	r.kill()
	r.start(t)
	c.letMove(t)
	eventually(t, "the drain's end", 2*patience, func() error {
		p, err := c.admin.Plan(ctx, false)
		if err == nil && p.State != director.PlanDone {
			err = fmt.Errorf("%s: %d of %d moved, %s%s", p.State, p.Done, p.Moves, p.Waiting, p.Reason)
		}
		return err
	})
	on := func() map[director.BackendID]int {
		at := map[director.BackendID]int{}
		for _, u := range users {
			got, err := c.admin.User(ctx, u)
			if err != nil {
				t.Fatal(err)
			}
			at[got.Home]++
			if tags, err := c.admin.UserTags(ctx, u); err != nil || len(tags.Tags) > 0 && got.Home != "b3" {
				t.Errorf("%s with the tags %v lives on %s: %v", u, tags.Tags, got.Home, err)
			}
		}
		return at
	}
	if at := on(); at["b1"] != 0 {
		t.Fatalf("after the drain: %v", at)
	}

	state = director.BackendActive
	must(c.admin.UpdateBackend(ctx, "b1", admin.UpdateBackend{State: &state}))
	level := director.PlanPolicy{By: director.ByUsers}.WithDefaults()
	level.CoolDownSeconds = 1
	must(c.admin.PutPlanAuto(ctx, admin.PlanAuto{On: true, Policy: level, EverySeconds: 60}))
	eventually(t, "the level", 2*patience, func() error {
		if at := on(); at["b1"] < 3 {
			return fmt.Errorf("%v", at)
		}
		return nil
	})
	for _, u := range users {
		cl, err := dialIMAP(c.addr(1143), u)
		if err != nil {
			t.Errorf("%s: %v", u, err)
			continue
		}
		cl.Close()
	}
}

// passUntil lets a mover go on until it waits at a point.
func (p *proc) passUntil(t *testing.T, want string) {
	t.Helper()
	p.mu.Lock()
	at := p.at
	p.mu.Unlock()
	end := time.After(patience)
	for {
		select {
		case line, ok := <-at:
			if point, _, _ := strings.Cut(line, " "); point == want || !ok {
				return
			}
			p.goOn()
		case <-end:
			t.Fatalf("the mover does not come to %q", want)
		}
	}
}
