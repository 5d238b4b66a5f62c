package simtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/rebalance"
)

const modelFile = "../../docs/model/move.pml"

func model(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(modelFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	me    = director.BackendID("b1")
	other = director.BackendID("b2")
	third = director.BackendID("b3")
)

// TestModelIsTheCode: what spin checks is what runs. The lines of the model that
// are its transition table are held against the code, cell by cell.
func TestModelIsTheCode(t *testing.T) {
	t.Run("fence.Reconcile", modelFence)
	t.Run("rebalance.Next", modelNext)
	t.Run("director.Record", modelRecord)
}

var whenLine = regexp.MustCompile(`WHEN\((\w+),\s*(\w+),\s*(\w+),\s*(\w+)\)\s*->\s*(\w+)\((\d)\)`)

func modelFence(t *testing.T) {
	table := map[string]string{}
	for _, m := range whenLine.FindAllStringSubmatch(model(t), -1) {
		cell := strings.Join(m[1:5], " ")
		if table[cell] != "" {
			t.Errorf("%s is there twice", cell)
		}
		table[cell] = m[5] + m[6]
	}
	states := map[fence.State]string{
		fence.Missing: "Gone", fence.Gone: "Gone", fence.Serving: "Serving", fence.Frozen: "Frozen",
		fence.Incoming: "Incoming", fence.Sealed: "Sealed",
	}
	met := map[string]bool{}
	for state, inModel := range states {
		for at := director.Epoch(0); at < 7; at++ {
			for _, rec := range records(7) {
				if rec.State == director.Deleted {
					continue // the model has no deletions
				}
				f := fence.Fence{State: state, Epoch: at}
				cell := strings.Join([]string{whose(rec), stateName(rec), than(rec.Epoch, at), inModel}, " ")
				met[cell] = true
				if got, want := shown(fence.Reconcile(me, f, &rec), f, rec), table[cell]; got != want {
					t.Errorf("%s, record %q: the code does %q, the model %q (%s)", f, rec, got, want, cell)
				}
			}
		}
	}
	for cell := range table {
		if !met[cell] {
			t.Errorf("the model has %q, which the code never meets", cell)
		}
	}
	if len(met) != 2*2*3*5 {
		t.Errorf("%d cells were compared", len(met))
	}
}

// records gives all records of epochs below n.
func records(n director.Epoch) (all []director.Record) {
	for e := director.Epoch(1); e < n; e++ {
		for _, home := range []director.BackendID{me, other, third} {
			all = append(all, director.Record{Home: home, Epoch: e, State: director.Active}, director.Record{Home: home, Epoch: e, State: director.Deleted})
			for _, peer := range []director.BackendID{me, other, third} {
				if peer != home {
					all = append(all, director.Record{Home: home, Epoch: e, State: director.Busy, Peer: peer})
				}
			}
		}
	}
	return all
}

func whose(r director.Record) string {
	if r.Home == me {
		return "Me"
	}
	return "Other"
}

func stateName(r director.Record) string {
	return map[director.State]string{director.Active: "Active", director.Busy: "Busy", director.Deleted: "Deleted"}[r.State]
}

func than(rec, at director.Epoch) string {
	switch {
	case rec > at:
		return "Above"
	case rec == at:
		return "Equal"
	}
	return "Below"
}

// shown writes a decision as the model does; "" is what it does not write: keep.
func shown(d fence.Decision, f fence.Fence, rec director.Record) string {
	for _, a := range []struct {
		action fence.Action
		name   string
		end    fence.State
	}{{fence.Serve, "SERVE", fence.Serving}, {fence.Adopt, "ADOPT", fence.Serving}, {fence.Trash, "TRASH", fence.Gone}, {fence.Drop, "DROP", fence.Gone}} {
		if d.Action == a.action && d.Next.State == a.end && d.Next.Digest == "" {
			return a.name + strconv.Itoa(int(rec.Epoch)-int(d.Next.Epoch))
		}
	}
	switch {
	case d.Action == fence.Keep && d.Next == f:
		return ""
	case d.Action == fence.Refuse && d.Next == f:
		return "REFUSE0"
	}
	return fmt.Sprintf("%s to %s", d.Action, d.Next)
}

var nextLine = regexp.MustCompile(`NEXT\((\w+),\s*(\w+)\)[^}\n]*goto (\w+)`)

func modelNext(t *testing.T) {
	table := map[string]string{}
	for _, m := range nextLine.FindAllStringSubmatch(model(t), -1) {
		table[m[1]+" "+m[2]] = m[3]
	}
	phases := map[director.MovePhase]string{
		director.PhasePlanned: "Planned", director.PhaseCopying: "Copying", director.PhaseBusy: "Marked", director.PhaseFrozen: "Frozen_",
		director.PhaseSealed: "Sealed_", director.PhaseFlipped: "Flipped", director.PhaseDone: "Done", director.PhaseUndone: "Undone",
	}
	const e = director.Epoch(3)
	for phase, inModel := range phases {
		for _, rec := range records(8) {
			class := "Else"
			switch rec {
			case director.Record{Home: me, Epoch: e, State: director.Active}:
				class = "Before"
			case director.Record{Home: me, Epoch: e + 1, State: director.Busy, Peer: other}:
				class = "Mine"
			}
			m := director.Move{User: alice, Source: me, Target: other, Epoch: e, Phase: phase}
			if got, want := string(rebalance.Next(m, rec)), table[inModel+" "+class]; got != want {
				t.Errorf("phase %s, record %q: the code does %q, the model %q", phase, rec, got, want)
			}
		}
	}
	if len(table) != len(phases)*3 {
		t.Errorf("the model has %d lines NEXT for %d phases", len(table), len(phases))
	}
}

var recordLine = regexp.MustCompile(`inline (\w+)\(\w*\)\s*\{ if :: RECORD\((\w+), (\w+), (\w+), (\w+)\) fi \}`)

func modelRecord(t *testing.T) {
	code := map[string]func(director.Record) (director.Record, error){
		"mark_busy":   func(r director.Record) (director.Record, error) { return r.MarkBusy(third) },
		"flip_record": director.Record.Flip,
		"roll_back":   director.Record.Rollback,
	}
	lines := recordLine.FindAllStringSubmatch(model(t), -1)
	if len(lines) != len(code) {
		t.Fatalf("the model has %d transitions", len(lines))
	}
	for _, m := range lines {
		do := code[m[1]]
		if do == nil {
			t.Fatalf("the code has no %s", m[1])
		}
		for _, r := range records(5) {
			if r.Home == third && m[1] == "mark_busy" {
				continue // a move to where the user is: nobody plans it
			}
			backend := map[string]director.BackendID{"home": r.Home, "peer": r.Peer, "target": third, "NONE": ""}
			got, err := do(r)
			if legal := stateName(r) == m[2]; legal != (err == nil) {
				t.Errorf("%s from %q: the code says %v", m[1], r, err)
			}
			want := director.Record{Home: backend[m[4]], Epoch: r.Epoch + 1, State: map[string]director.State{"Active": director.Active, "Busy": director.Busy}[m[3]], Peer: backend[m[5]]}
			if err == nil && got != want {
				t.Errorf("%s from %q: the code gives %q, the model %q", m[1], r, got, want)
			}
		}
	}
}

// modelRun is one run of spin.
type modelRun struct {
	flags string
	// harm is part of the assertion that must fail; "" for none.
	harm string
	// slow ones are compiled with optimisation.
	slow bool
	// full ones take half a minute and more: the CI's, which sets WAYPOST_MODEL=full. In
	// their places others run the same with one move.
	full bool
}

// modelRuns are the CI's configuration, and for each rule the smallest in which
// its absence does harm. A rule that the design marks * has one.
var modelRuns = []modelRun{
	{flags: "-DMOVES=1 -DDEATHS=1 -DEXPIRE=0 -DCRASHES=1"},
	{flags: "-DMOVES=2 -DDEATHS=1 -DEXPIRE=0 -DCRASHES=1", slow: true, full: true},
	{flags: "-DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=1"},
	{flags: "-DSESSION -DNM=0 -DMOVES=2 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=1", slow: true, full: true},
	{flags: "-DRESTORES=1 -DMOVES=1 -DDEATHS=1 -DEXPIRE=0 -DCRASHES=0"},
	{flags: "-DMOVES=1 -DDEATHS=2 -DEXPIRE=1 -DCRASHES=0", slow: true},
	// R1
	{flags: "-DNO_RECHECK -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "acked& ~(stg[b])"},
	// R3*, own read
	{flags: "-DNO_OWNREAD -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "(fs[0]==1)+(fs[1]==1)"},
	// R3*, exact epochs
	{flags: "-DNO_EXACT -DMOVES=2 -DDEATHS=0 -DEXPIRE=1 -DCRASHES=0", harm: "assertion violated"},
	// R4*, adoption at any higher epoch, and after a crash in its middle
	{flags: "-DNO_LATE -DRESTORES=1 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "acked=="},
	{flags: "-DNO_FINISH -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=1", harm: "assertion violated"},
	{flags: "-DFENCE_FIRST -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=1", harm: "assertion violated"},
	// R5*
	{flags: "-DNO_SEAL -DMOVES=2 -DDEATHS=0 -DEXPIRE=1 -DCRASHES=0", harm: "acked& ~(stg[b])"},
	// R7*
	{flags: "-DNO_TAKEBACK -DMOVES=1 -DDEATHS=2 -DEXPIRE=0 -DCRASHES=0", harm: "state==0"},
	// I3*, ids move along
	{flags: "-DNO_IDS -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "(live[h]&m)==0"},
	// sessions: an unknown outcome is BYE, an id is accepted once
	{flags: "-DNO_BYE -DSESSION -DNM=0 -DMOVES=2 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "ran==1", slow: true},
	{flags: "-DNO_ONCE -DNO_BYE -DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "ran==1"},
	// quiet hand-offs: only a session at rest has one; the former session is ended first, a newer one never;
	// the strict protocol, without them, holds, too
	{flags: "-DNO_REST -DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "ran==1"},
	{flags: "-DNO_FORMER -DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "left[0]"},
	{flags: "-DNO_NEWER -DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=0", harm: "harmed"},
	{flags: "-DNO_QUIET -DSESSION -DNM=0 -DMOVES=1 -DDEATHS=0 -DEXPIRE=0 -DCRASHES=1"},
}

var (
	errorCount = regexp.MustCompile(`errors: (\d+)`)
	stateCount = regexp.MustCompile(`(\d+) states, stored`)
	violation  = regexp.MustCompile(`pan:1: (.*)`)
)

// TestModelBySpin: the model holds, and does not without any of its rules.
func TestModelBySpin(t *testing.T) {
	spin, err := exec.LookPath("spin")
	if err != nil {
		t.Skip("spin is not installed")
	}
	file, err := filepath.Abs(modelFile)
	if err != nil {
		t.Fatal(err)
	}
	full := os.Getenv("WAYPOST_MODEL") == "full"
	for _, r := range modelRuns {
		if r.full && !full {
			continue
		}
		t.Run(r.flags, func(t *testing.T) {
			dir, optimise := t.TempDir(), "-O0"
			flags := append(strings.Fields(r.flags), "-a", file)
			if r.harm != "" {
				// Show the harm itself, and not the alarm before it.
				flags = append([]string{"-DNO_ALARM"}, flags...)
			}
			if r.slow {
				optimise = "-O2"
			}
			tool(t, dir, spin, flags...)
			tool(t, dir, "gcc", "-w", optimise, "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=3800", "-o", "pan", "pan.c")
			out, took := tool(t, dir, "./pan", "-m200000", "-w24", "-E")
			n := errorCount.FindStringSubmatch(out)
			if n == nil || strings.Contains(out, "max search depth too small") || strings.Contains(out, "Search not completed") && n[1] == "0" {
				t.Fatalf("the search did not end:\n%s", out)
			}
			t.Logf("%s states, %.1f s, errors: %s %s", stateCount.FindStringSubmatch(out)[1], took.Seconds(), n[1], violation.FindString(out))
			if (r.harm != "") != (n[1] != "0") || !strings.Contains(violation.FindString(out), r.harm) {
				t.Errorf("wanted the violation %q:\n%s", r.harm, out)
			}
		})
	}
}

// tool runs a program, and gives what it says and its processor time.
func tool(t *testing.T, dir, name string, args ...string) (string, time.Duration) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out), cmd.ProcessState.UserTime()
}
