package rebalance

import (
	"fmt"

	"waypost/director"
)

// Step is what a mover does next for a move. Run, resume, undo and the
// documentation all read the same table.
type Step string

const (
	// StepCopy: hot passes into the target's staging, while the user works.
	StepCopy Step = "copy"
	// StepFreeze: the source freezes and says what it holds.
	StepFreeze Step = "freeze"
	// StepSeal: the last difference goes over; the target proves it and seals.
	StepSeal Step = "seal"
	// StepFlip: the one commit point.
	StepFlip Step = "flip"
	// StepFinish: the target adopts and serves, the source lets go.
	StepFinish Step = "finish"
	// StepUndone: the record says that the move did not happen; the journal is
	// closed and both sides are told to look.
	StepUndone Step = "undone"
	// StepNone: the journal is closed.
	StepNone Step = "none"
)

// Next decides from record and journal alone what comes next, whoever did what
// came before, and whether or not its mover is still alive. The journal's
// phase and the record change in one transaction, so they never contradict
// each other in what counts: a flip is in the journal or did not happen.
func Next(m director.Move, rec director.Record) Step {
	switch {
	case m.Phase.Finished():
		return StepNone
	case m.Phase == director.PhaseFlipped:
		return StepFinish
	case rec == director.Record{Home: m.Source, Epoch: m.Epoch, State: director.Active}:
		return StepCopy
	case rec == director.Record{Home: m.Source, Epoch: m.Epoch + 1, State: director.Busy, Peer: m.Target}:
		switch m.Phase {
		case director.PhaseFrozen:
			return StepSeal
		case director.PhaseSealed:
			return StepFlip
		default:
			return StepFreeze
		}
	default:
		return StepUndone
	}
}

// Describe says a step in words, for status and logs.
func (s Step) Describe(m director.Move) string {
	switch s {
	case StepCopy:
		return fmt.Sprintf("copying from %s to %s while the user works", m.Source, m.Target)
	case StepFreeze:
		return fmt.Sprintf("freezing on %s", m.Source)
	case StepSeal:
		return fmt.Sprintf("copying the last difference to %s and proving it", m.Target)
	case StepFlip:
		return fmt.Sprintf("making %s the home", m.Target)
	case StepFinish:
		return fmt.Sprintf("waiting until %s serves", m.Target)
	case StepUndone:
		return fmt.Sprintf("the user stays on %s", m.Source)
	default:
		return "nothing left to do"
	}
}
