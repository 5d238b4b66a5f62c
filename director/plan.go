package director

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A plan says which users are to live elsewhere, so that backends are used
// evenly, or emptied. There is at most one: its head is plan/head, its entries
// lie in chunks under plan/chunk/<set>/. A mover makes it when it is asked for,
// and another or the same one feeds its moves into journals, a few at a time.
// The head has no lease; plan/owner has. What becomes of a single move stands in
// its journal and receipt, under an id that is made from the plan's; so whoever
// takes a plan over finds out what has been done.

// PlanState is how far a plan is.
type PlanState string

const (
	// PlanRequested: asked for; a mover has to make it.
	PlanRequested PlanState = "requested"
	// PlanProposed: made; nothing moves before it is approved.
	PlanProposed PlanState = "proposed"
	// PlanRunning: its moves are fed to the movers.
	PlanRunning PlanState = "running"
	// PlanPaused: moves on their way end, no others begin.
	PlanPaused PlanState = "paused"
	// PlanAborting: what has not flipped is being undone.
	PlanAborting PlanState = "aborting"
	// PlanDone: every move has ended, or could not be begun.
	PlanDone PlanState = "done"
	// PlanAborted: given up, and nothing of it is on its way any more.
	PlanAborted PlanState = "aborted"
	// PlanFailed: it could not be made; Reason says why.
	PlanFailed PlanState = "failed"
)

// Ended reports whether nobody needs to do anything for the plan.
func (s PlanState) Ended() bool { return s == PlanDone || s == PlanAborted || s == PlanFailed }

// UnderWay reports whether another plan would be in its way. One that is only
// proposed is simply replaced.
func (s PlanState) UnderWay() bool { return s != "" && s != PlanProposed && !s.Ended() }

// PlanVerb is what an operator, or the plan's owner, does to a plan.
type PlanVerb string

const (
	VerbApply  PlanVerb = "apply"
	VerbPause  PlanVerb = "pause"
	VerbResume PlanVerb = "resume"
	VerbAbort  PlanVerb = "abort"
	// The owner's: the plan was made, could not be made, has nothing left to do.
	verbMade  PlanVerb = "made"
	verbFail  PlanVerb = "fail"
	verbEnded PlanVerb = "ended"
)

type planStep struct {
	from PlanState
	verb PlanVerb
}

// planTable has every transition of a plan; there are no others.
func planTable() map[planStep]PlanState {
	return map[planStep]PlanState{
		{PlanRequested, verbMade}:  PlanProposed,
		{PlanRequested, verbFail}:  PlanFailed,
		{PlanRequested, VerbAbort}: PlanAborted,
		{PlanProposed, VerbApply}:  PlanRunning,
		{PlanProposed, VerbAbort}:  PlanAborted,
		{PlanRunning, VerbPause}:   PlanPaused,
		{PlanRunning, VerbAbort}:   PlanAborting,
		{PlanRunning, verbEnded}:   PlanDone,
		{PlanPaused, VerbResume}:   PlanRunning,
		{PlanPaused, VerbAbort}:    PlanAborting,
		{PlanAborting, verbEnded}:  PlanAborted,
	}
}

// After gives the state that a verb leads to. A verb that has been obeyed
// already leads nowhere else; ErrIllegal for one that does not start here.
func (s PlanState) After(v PlanVerb) (PlanState, error) {
	if to, ok := planTable()[planStep{s, v}]; ok {
		return to, nil
	}
	switch {
	case v == VerbApply && s == PlanRunning, v == VerbPause && s == PlanPaused,
		v == VerbResume && s == PlanRunning, v == VerbAbort && (s == PlanAborting || s == PlanAborted):
		return s, nil
	}
	return s, fmt.Errorf("%s a plan that is %s: %w", v, s, ErrIllegal)
}

// What a plan levels, in PlanPolicy.By.
const (
	ByBytes    = "bytes"
	ByUsers    = "users"
	ByMessages = "messages"
	ByLoad     = "load"
)

// What a plan is for, in PlanPolicy.Goal.
const (
	// GoalLevel brings every backend within the band around its share, and
	// empties those that drain.
	GoalLevel = "level"
	// GoalDrain only empties those that drain.
	GoalDrain = "drain"
	// GoalFill brings one backend, a new one, up to its share.
	GoalFill = "fill"
)

// PlanPolicy says what a plan is to reach, and within which limits.
type PlanPolicy struct {
	// By is what is levelled: bytes, users, messages, or load. One session counts
	// as much load as one delivery a minute. Empty: bytes.
	By string `json:"by"`
	// Goal is level, drain or fill; empty: level. Fill names the backend of fill.
	Goal string    `json:"goal"`
	Fill BackendID `json:"fill,omitempty"`
	// Band is how far from its share a backend may be before anything is moved,
	// as a part of that share: 0.1 is a tenth. What is moved brings it to half of that.
	Band float64 `json:"band"`
	// Headroom is the part of a backend's capacity that stays free; 0.1.
	Headroom float64 `json:"headroom"`
	// MaxBytes and MaxMoves bound the plan; 0 bytes are no bound, 0 moves are
	// MaxPlanMoves.
	MaxBytes int64 `json:"max_bytes,omitempty"`
	MaxMoves int   `json:"max_moves"`
	// Window, "01:00-05:00", is when moves may begin, by the mover's local time;
	// empty: always. It may reach over midnight.
	Window string `json:"window,omitempty"`
	// Concurrency is how many users of the plan are on their way at once, PerBackend
	// how many of them come from or go to one backend.
	Concurrency int `json:"concurrency"`
	PerBackend  int `json:"per_backend"`
	// CoolDownSeconds is how long a user who was moved is left alone; a draining
	// home does not wait for that.
	CoolDownSeconds int64 `json:"cool_down_seconds"`
	// MinGain is what levelling must gain, as a part of a share, to be worth it.
	MinGain float64 `json:"min_gain"`
	// BytesPerSecond is what all moves together are expected to copy; it only
	// serves the estimate of the time.
	BytesPerSecond int64 `json:"bytes_per_second"`
}

// Limits of a policy.
const (
	MaxPlanMoves       = 100_000
	MaxPlanConcurrency = 200
)

// WithDefaults fills in what was left out.
func (p PlanPolicy) WithDefaults() PlanPolicy {
	def(&p.By, ByBytes)
	def(&p.Goal, GoalLevel)
	def(&p.Band, 0.1)
	def(&p.Headroom, 0.1)
	def(&p.MaxMoves, MaxPlanMoves)
	def(&p.Concurrency, 8)
	def(&p.PerBackend, 2)
	def(&p.CoolDownSeconds, 24*3600)
	def(&p.MinGain, p.Band/4)
	def(&p.BytesPerSecond, 50<<20)
	return p
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate says what is wrong with a policy that has its defaults.
func (p PlanPolicy) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("plan: %s: %w", fmt.Sprintf(format, a...), ErrInvalid)
	}
	switch {
	case p.By != ByBytes && p.By != ByUsers && p.By != ByMessages && p.By != ByLoad:
		return bad("by %q: say bytes, users, messages or load", p.By)
	case p.Goal != GoalLevel && p.Goal != GoalDrain && p.Goal != GoalFill:
		return bad("goal %q: say level, drain or fill", p.Goal)
	case (p.Goal == GoalFill) != (p.Fill != ""):
		return bad("fill names the backend of the goal fill, and of no other")
	case p.Fill != "" && ValidBackendID(p.Fill) != nil:
		return bad("fill %q is no backend", p.Fill)
	case !(p.Band >= 0.001 && p.Band <= 1): // NaN is neither
		return bad("band %v: say 0.001 to 1", p.Band)
	case !(p.Headroom >= 0 && p.Headroom < 1):
		return bad("headroom %v: say 0 to below 1", p.Headroom)
	case !(p.MinGain >= 0 && p.MinGain <= 1):
		return bad("min_gain %v: say 0 to 1", p.MinGain)
	case p.MaxBytes < 0, p.CoolDownSeconds < 0, p.BytesPerSecond < 1:
		return bad("max_bytes, cool_down_seconds: not below 0; bytes_per_second: above 0")
	case p.MaxMoves < 1 || p.MaxMoves > MaxPlanMoves:
		return bad("max_moves %d: say 1 to %d", p.MaxMoves, MaxPlanMoves)
	case p.Concurrency < 1 || p.Concurrency > MaxPlanConcurrency || p.PerBackend < 1 || p.PerBackend > MaxPlanConcurrency:
		return bad("concurrency %d, per_backend %d: say 1 to %d", p.Concurrency, p.PerBackend, MaxPlanConcurrency)
	}
	_, err := ParseWindow(p.Window)
	return err
}

// Window is a time of the day, in minutes since midnight. From equal to To is all
// day.
type Window struct{ From, To int }

// ParseWindow reads "01:00-05:00"; "" is all day.
func ParseWindow(s string) (Window, error) {
	if s == "" {
		return Window{}, nil
	}
	from, to, ok := strings.Cut(s, "-")
	a, err := time.Parse("15:04", from)
	b, err2 := time.Parse("15:04", to)
	if !ok || err != nil || err2 != nil || a.Equal(b) {
		return Window{}, fmt.Errorf("window %q: want two times like 01:00-05:00: %w", s, ErrInvalid)
	}
	return Window{a.Hour()*60 + a.Minute(), b.Hour()*60 + b.Minute()}, nil
}

// Open reports whether t, in its own location, is inside.
func (w Window) Open(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	switch {
	case w.From == w.To:
		return true
	case w.From < w.To:
		return m >= w.From && m < w.To
	}
	return m >= w.From || m < w.To
}

// Next gives the time at or after t at which it is open.
func (w Window) Next(t time.Time) time.Time {
	if w.Open(t) {
		return t
	}
	at := time.Date(t.Year(), t.Month(), t.Day(), w.From/60, w.From%60, 0, 0, t.Location())
	if at.Before(t) {
		at = time.Date(t.Year(), t.Month(), t.Day()+1, w.From/60, w.From%60, 0, 0, t.Location())
	}
	return at
}

// Part is how much of a day it is open: 1 for all day.
func (w Window) Part() float64 {
	if w.From == w.To {
		return 1
	}
	return float64((w.To-w.From+24*60)%(24*60)) / (24 * 60)
}

// MaxTags and MaxTag bound what an account or a backend is marked with.
const (
	MaxTags = 8
	maxTag  = 32
)

// ValidTags takes up to MaxTags different tags of 1 to 32 of a-z, 0-9, '-', '_'.
// A user may live on a backend that has all of the user's tags.
func ValidTags(tags []string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, more than %d: %w", len(tags), MaxTags, ErrInvalid)
	}
	seen := map[string]bool{}
	for _, t := range tags {
		if ValidBackendID(BackendID(t)) != nil || len(t) > maxTag {
			return fmt.Errorf("tag %q: want 1 to %d of a-z, 0-9, '-' and '_': %w", t, maxTag, ErrInvalid)
		}
		if seen[t] {
			return fmt.Errorf("tag %q is there twice: %w", t, ErrInvalid)
		}
		seen[t] = true
	}
	return nil
}

// MayLive reports whether a user with these tags may live on a backend with those.
func MayLive(user, backend []string) bool {
next:
	for _, want := range user {
		for _, have := range backend {
			if want == have {
				continue next
			}
		}
		return false
	}
	return true
}

// ErrPlanUnderWay: there is a plan that has not ended.
var ErrPlanUnderWay = errors.New("another plan is under way")
