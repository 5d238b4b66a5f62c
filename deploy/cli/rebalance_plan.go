package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

// planPoll is how often a plan that is being made is asked for.
const planPoll = 500 * time.Millisecond

// awaitPlan waits until a mover has made the plan. Ctrl-C stops the waiting only.
func (a *app) awaitPlan(ctx context.Context, client *admin.Client, asked admin.Plan) (admin.Plan, error) {
	line := a.progressLine()
	defer line.clear()
	for start := time.Now(); ; {
		p, err := client.Plan(ctx, true)
		switch {
		case ctx.Err() != nil:
			return p, &localError{fmt.Errorf("no longer waiting for the plan: see waypost rebalance show")}
		case err != nil:
			return p, err
		case p.ID != asked.ID:
			return p, &localError{fmt.Errorf("somebody else has asked for another plan since: see waypost rebalance show")}
		case p.State != director.PlanRequested:
			return p, nil
		}
		line.show(fmt.Sprintf("the plan is being made, for %s (a mover must run: waypost status)", time.Since(start).Round(time.Second)))
		a.pause(ctx, planPoll)
	}
}

// planned is a plan with its moves, for --json.
type planned struct {
	admin.Plan
	PlannedMoves []admin.PlanMove `json:"planned_moves,omitempty"`
}

// tellPlan prints a plan. The command fails with a plan that could not be made.
func (a *app) tellPlan(ctx context.Context, client *admin.Client, out *output, p admin.Plan, withMoves, every bool) error {
	full := planned{Plan: p}
	if withMoves && !p.Made.IsZero() {
		if err := client.PlanMoves(ctx, func(m admin.PlanMove) error { full.PlannedMoves = append(full.PlannedMoves, m); return nil }); err != nil {
			return err
		}
	}
	err := out.show(full, func(w io.Writer) {
		writePlanHead(w, p, time.Now())
		if p.Summary != nil {
			writeSummary(w, p, every)
		}
		if len(full.PlannedMoves) > 0 {
			fmt.Fprintln(w)
			t := newTable(w, "USER", "FROM", "TO", "SIZE", "MESSAGES", "WHY", "WHEN", "GROUP")
			for _, m := range full.PlannedMoves {
				t.row(m.User, m.From, m.To, size(m.Bytes), m.Messages, m.Why, orDash(m.When), orDash(m.Group))
			}
			t.end()
		}
		if p.State == director.PlanProposed && p.Moves > 0 {
			fmt.Fprintf(w, "\nNothing moves yet. To carry it out: waypost rebalance apply %s\n", p.ID)
		}
	})
	if err == nil && p.State == director.PlanFailed {
		if out.json {
			a.warn("the plan could not be made: %s", oneLine(p.Reason))
		}
		return errTold
	}
	return err
}

// writePlanHead tells in a few lines how far a plan is.
func writePlanHead(w io.Writer, p admin.Plan, now time.Time) {
	by := "by " + p.Policy.By
	if p.Policy.Goal != director.GoalLevel && p.Policy.Goal != "" {
		by = strings.TrimSpace(p.Policy.Goal+" "+string(p.Policy.Fill)) + " " + by
	}
	if p.Auto {
		by += ", continuous mode"
	}
	fmt.Fprintf(w, "plan %s (%s): %s", p.ID, by, p.State)
	switch p.State {
	case director.PlanRequested:
		fmt.Fprint(w, ", waits for a mover to make it")
	case director.PlanProposed:
		fmt.Fprintf(w, ": %d users, %s", p.Moves, size(p.Bytes))
	case director.PlanFailed:
	default:
		fmt.Fprintf(w, ": %d of %d users, %s of %s", p.Done, p.Moves, size(p.DoneBytes), size(p.Bytes))
		if p.Undone+p.Skipped > 0 {
			fmt.Fprintf(w, "; %d undone, %d skipped", p.Undone, p.Skipped)
		}
	}
	fmt.Fprintln(w)
	if p.Reason != "" {
		fmt.Fprintf(w, "  %s\n", oneLine(p.Reason))
	}
	if !p.ETA.IsZero() {
		fmt.Fprintf(w, "  to end at about %s, in %s\n", when(p.ETA), span(p.ETA.Sub(now)))
	}
	if p.Waiting != "" {
		fmt.Fprintf(w, "  waiting: %s\n", oneLine(p.Waiting))
	}
	for _, f := range p.Failures {
		fmt.Fprintf(w, "  not moved: %s: %s\n", f.User, oneLine(f.Reason))
	}
}

// span writes a time for people: 40s, 12m, 3h05m, 2d04h.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// writeSummary prints what a plan does: each backend's bars before and after.
func writeSummary(w io.Writer, p admin.Plan, every bool) {
	s := p.Summary
	if p.Moves > 0 {
		var why []string
		for _, reason := range slices.Sorted(maps.Keys(s.Reasons)) {
			why = append(why, fmt.Sprintf("%d %s", s.Reasons[reason], reason))
		}
		fmt.Fprintf(w, "  why: %s; %d messages\n", strings.Join(why, ", "), s.Messages)
		fmt.Fprintf(w, "  time: about %s of moving", span(time.Duration(s.Seconds)*time.Second))
		if s.ElapsedSeconds != s.Seconds {
			fmt.Fprintf(w, ", %s with the waits for the window %s", span(time.Duration(s.ElapsedSeconds)*time.Second), p.Policy.Window)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  farthest from its share: %s before, %s after\n", percent(s.ImbalanceBefore), percent(s.ImbalanceAfter))
	for _, n := range s.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
	fmt.Fprintln(w)
	t := newTable(w, "BACKEND", "STATE", "BEFORE", "", "AFTER", "", "SHARE", "USERS", "IN", "OUT")
	left := 0
	largest := largestMeasure(p)
	for _, b := range s.Backends {
		if b.MovesIn+b.MovesOut == 0 && !every && len(s.Backends) > 20 {
			left++
			continue
		}
		before, after := measureOf(p.Policy.By, b.Before), measureOf(p.Policy.By, b.After)
		scale := largest
		if p.Policy.By == director.ByBytes && b.CapacityBytes > 0 {
			scale = float64(b.CapacityBytes)
		}
		t.row(b.ID, b.State, planBar(before, scale), amount(p.Policy.By, before), planBar(after, scale), amount(p.Policy.By, after),
			amount(p.Policy.By, b.Share), fmt.Sprintf("%d > %d", b.Before.Users, b.After.Users), b.MovesIn, b.MovesOut)
	}
	t.end()
	if left > 0 {
		fmt.Fprintf(w, "and %d backends that stay as they are: --all\n", left)
	}
}

func measureOf(by string, u director.PlanUse) float64 {
	switch by {
	case director.ByUsers:
		return float64(u.Users)
	case director.ByMessages:
		return float64(u.Messages)
	case director.ByLoad:
		return u.Load
	}
	return float64(u.Bytes)
}

func largestMeasure(p admin.Plan) float64 {
	most := 0.0
	for _, b := range p.Summary.Backends {
		most = max(most, measureOf(p.Policy.By, b.Before), measureOf(p.Policy.By, b.After))
	}
	return most
}

func amount(by string, n float64) string {
	switch by {
	case director.ByBytes:
		return size(int64(n))
	case director.ByLoad:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

func planBar(n, scale float64) string {
	if scale <= 0 {
		return "-"
	}
	return strings.TrimSpace(bar(int64(n/scale*1000), 1000))
}

// setAuto changes the continuous mode, if change is not nil, and prints it.
func (a *app) setAuto(ctx context.Context, client *admin.Client, out *output, change func(*admin.PlanAuto)) error {
	auto, err := client.PlanAuto(ctx)
	if err == nil && change != nil {
		change(&auto)
		auto.Changed = time.Time{}
		auto, err = client.PutPlanAuto(ctx, auto)
	}
	if err != nil {
		return err
	}
	return out.show(auto, func(w io.Writer) {
		if !auto.On {
			fmt.Fprintln(w, "the continuous mode is off")
			return
		}
		p := auto.Policy
		fmt.Fprintf(w, "the continuous mode is on since %s: by %s, band %s, a look every %s, cool-down %s\n", when(auto.Changed), p.By, percent(p.Band),
			span(time.Duration(auto.EverySeconds)*time.Second), span(time.Duration(p.CoolDownSeconds)*time.Second))
		if p.Window != "" {
			fmt.Fprintf(w, "  window: %s\n", p.Window)
		}
		if p.MaxBytes > 0 {
			fmt.Fprintf(w, "  at most %s a plan\n", size(p.MaxBytes))
		}
		if p.Goal == director.GoalDrain {
			fmt.Fprintln(w, "  only backends that drain are emptied")
		}
	})
}

// completePlan gives a command the plan's ID when the shell asks.
func (a *app) completePlan(conn *connection) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
		defer cancel()
		var ids []string
		err := conn.with(func(client *admin.Client) error {
			p, err := client.Plan(ctx, false)
			ids = append(ids, p.ID)
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}
