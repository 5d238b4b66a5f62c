package rebalance

import (
	"testing"

	"waypost/director"
)

// TestNext: every phase with every record a move can meet.
func TestNext(t *testing.T) {
	const e = director.Epoch(5)
	recs := map[string]director.Record{
		"before":     {Home: "b1", Epoch: e, State: director.Active},
		"busy":       {Home: "b1", Epoch: e + 1, State: director.Busy, Peer: "b2"},
		"rolledback": {Home: "b1", Epoch: e + 2, State: director.Active},
		"flipped":    {Home: "b2", Epoch: e + 2, State: director.Active},
		"otherbusy":  {Home: "b1", Epoch: e + 1, State: director.Busy, Peer: "b3"},
		"later":      {Home: "b3", Epoch: e + 4, State: director.Active},
		"deleted":    {Home: "b1", Epoch: e + 1, State: director.Deleted},
	}
	none := map[string]Step{"before": StepNone, "busy": StepNone, "rolledback": StepNone, "flipped": StepNone, "otherbusy": StepNone, "later": StepNone, "deleted": StepNone}
	early := func(busy Step) map[string]Step {
		return map[string]Step{"before": StepCopy, "busy": busy, "rolledback": StepUndone, "flipped": StepUndone, "otherbusy": StepUndone, "later": StepUndone, "deleted": StepUndone}
	}
	forward := map[string]Step{"before": StepFinish, "busy": StepFinish, "rolledback": StepFinish, "flipped": StepFinish, "otherbusy": StepFinish, "later": StepFinish, "deleted": StepFinish}
	want := map[director.MovePhase]map[string]Step{
		director.PhasePlanned: early(StepFreeze),
		director.PhaseCopying: early(StepFreeze),
		director.PhaseBusy:    early(StepFreeze),
		director.PhaseFrozen:  early(StepSeal),
		director.PhaseSealed:  early(StepFlip),
		director.PhaseFlipped: forward,
		director.PhaseDone:    none,
		director.PhaseUndone:  none,
	}
	for phase, row := range want {
		for name, rec := range recs {
			m := director.Move{User: "a@example.test", Source: "b1", Target: "b2", Epoch: e, Phase: phase}
			if got := Next(m, rec); got != row[name] {
				t.Errorf("%s, record %s: got %s, want %s", phase, name, got, row[name])
			}
			if Next(m, rec).Describe(m) == "" {
				t.Errorf("%s, record %s: no description", phase, name)
			}
		}
	}
}
