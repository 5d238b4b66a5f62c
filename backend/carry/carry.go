// Package carry has the order in which a backend begins a session that a proxy asks for,
// new or resumed, and who ends whom where two have one id (ARCHITECTURE.md, "Sessions that
// survive").
//
// Begin owns the order of the Steps and nothing else: what a step took its caller gives back,
// whether Begin fails or the session ends. It promises: the mailbox is opened at (home, epoch)
// before all else, so that a proxy that came too early, or to the wrong place, tries again with
// a hand-off that is not used up; what is left of the same session here is ended before the
// state is proven, but never by a try that its proxy has given up; a hand-off's id is accepted,
// once, when all that can be refused is behind it, unless it is quiet; nothing is said to the
// client before the Welcome.
//
// A crash before the acceptance leaves a hand-off that can be used again, one after it a session
// that nobody has: its proxy cannot know which of them it was, and ends it. Nothing here
// survives a crash but what Accept writes.
//
// Package backend calls it for its sessions, and deploy/simtest for simulated ones.
package carry

import (
	"context"
	"errors"
	"fmt"

	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/handoff"
	"waypost/internal/wire"
)

// Steps are what begins one session, in the order in which Begin takes them. An error ends it,
// and is the answer, by Refuse.
type Steps interface {
	// Open opens the mailbox at the Hello's home and epoch.
	Open() error
	// Register makes the session known by its id, and gives it, and who had the id before,
	// by Names.Add.
	Register() (x, former *Session, err error)
	// Speak lets the session's protocol begin. Of one that is resumed the engine proves that
	// its state is what the mailbox has. Nothing is said to the client yet.
	Speak() error
	// Accept uses a hand-off up, durably; first is false when it was before. After an error
	// it was not, and can be tried again.
	Accept(id handoff.ID) (first bool, err error)
	// Welcome says that the session has begun. Its error is that of a connection that is
	// lost, to which nothing can be answered.
	Welcome() error
}

// ErrOvertaken: its proxy has asked for the session again, and has it.
var ErrOvertaken = errors.New("a later try of this session has begun")

// Begin begins a session of a protocol, by its steps; state is what it is resumed with, nil for
// a new one. An error that is to be answered is a *Refused, another one the Welcome's.
func Begin(protocol string, state []byte, s Steps) error {
	var id handoff.ID
	if state != nil {
		var err error
		if id, _, _, err = handoff.OpenBase(state, protocol); err != nil {
			return Refuse(err)
		}
	}
	if err := s.Open(); err != nil {
		return Refuse(err)
	}
	x, former, err := s.Register()
	if err != nil {
		return Refuse(err)
	}
	if err := x.endFormer(former); err != nil {
		return Refuse(err)
	}
	if err := s.Speak(); err != nil {
		return Refuse(err)
	}
	if state != nil && !id.Quiet() { // else there is nothing that could be done twice
		first, err := s.Accept(id)
		if err != nil {
			return Refuse(fmt.Errorf("accept the hand-off: %w", err))
		}
		if !first {
			return Refuse(&handoff.Error{Reason: handoff.Twice})
		}
	}
	return s.Welcome()
}

// Session is what is known of a session from its registration to its end.
type Session struct {
	ID   string // wire.Hello.Session; empty: a proxy's that gives none
	User director.User
	Try  uint64 // wire.Hello.Try
	// End ends it, for good with cause handoff.ErrKicked. It can be called at any time.
	End context.CancelCauseFunc

	former *Session // has the same id; nil: none had when this one came
	gone   bool     // Remove was called
}

// endFormer ends what is left here of the session that is resumed, or whose beginning is tried
// again: its proxy has lost it, which it may not have noticed. One that the proxy asked for
// later is not left over: then this one is, which was opened for longer than the proxy waited.
func (x *Session) endFormer(former *Session) error {
	switch {
	case x.ID == "" || former == nil || former.User != x.User:
		return nil
	case x.late(former):
		return ErrOvertaken
	}
	former.End(handoff.ErrKicked)
	return nil
}

// late tells whether a session that has the same id was asked for after x was.
func (x *Session) late(former *Session) bool {
	return x.ID != "" && former.User == x.User && x.Try != 0 && former.Try > x.Try
}

// Names has the last session of each id: after a restart all come within moments, and each
// asks. The zero value is not usable, make is. A lock of its owner's guards it.
type Names map[string]*Session

// Add makes x the last one of its id, and gives the one that was, nil if none was. One that was
// asked for later stays the last: the next try is to end that one, not x, which is refused.
func (n Names) Add(x *Session) (former *Session) {
	former = n[x.ID]
	if former == nil || !x.late(former) {
		x.former, n[x.ID] = former, x
	}
	return former
}

// Remove forgets x, which is added no more. Its id is its former's again if that has not ended:
// then x was refused.
func (n Names) Remove(x *Session) {
	former := x.former
	x.former, x.gone = nil, true
	if n[x.ID] != x {
		return
	}
	delete(n, x.ID)
	if former != nil && !former.gone {
		n[x.ID] = former
	}
}

// Refused is the end of a session that never began.
type Refused struct {
	Status wire.Status    // never wire.StatusOK
	Reason handoff.Reason // of wire.StatusUnresumable
	Err    error
}

// Refuse makes an error the answer to a Hello: unresumable is what can go on nowhere, for good;
// all else can be tried again. One that is a *Refused stays as it is.
func Refuse(err error) error {
	var is *Refused
	if errors.As(err, &is) {
		return err
	}
	if reason, never := handoff.ReasonOf(err); never {
		return &Refused{Status: wire.StatusUnresumable, Reason: reason, Err: err}
	}
	status := wire.StatusRefused
	switch {
	case errors.Is(err, mailbox.ErrStale):
		status = wire.StatusStale
	case errors.Is(err, mailbox.ErrFrozen):
		status = wire.StatusBusy
	}
	return &Refused{Status: status, Err: err}
}

// Error implements error.
func (e *Refused) Error() string { return string(e.Status) + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Refused) Unwrap() error { return e.Err }

// Welcome is the answer to the Hello.
func (e *Refused) Welcome() wire.Welcome {
	if e.Status == wire.StatusUnresumable {
		return wire.Welcome{Status: e.Status, Text: string(e.Reason)}
	}
	return wire.Welcome{Status: e.Status, Text: e.Error()}
}
