package director

import (
	"fmt"
	"time"
)

// Keys of plans.
const (
	PrefixPlan      = "plan/"
	KeyPlan         = PrefixPlan + "head"
	KeyPlanAuto     = PrefixPlan + "auto"
	KeyPlanOwner    = PrefixPlan + "owner"
	prefixPlanChunk = PrefixPlan + "chunk/"
)

func planChunkKey(set string, n int) string { return fmt.Sprintf("%s%s/%06d", prefixPlanChunk, set, n) }
func planSummaryKey(set string) string      { return prefixPlanChunk + set + "/summary" }

// Plan is plan/head. It stays small: it is written each time some moves end.
type Plan struct {
	Version int       `json:"v"`
	ID      string    `json:"id"`
	State   PlanState `json:"state"`
	// Apply: it runs as soon as it is made. Auto: the continuous mode asked for it.
	Apply   bool       `json:"apply,omitempty"`
	Auto    bool       `json:"auto,omitempty"`
	Policy  PlanPolicy `json:"policy"`
	Created time.Time  `json:"created"`
	Made    time.Time  `json:"made,omitzero"`
	Started time.Time  `json:"started,omitzero"`
	Ended   time.Time  `json:"ended,omitzero"`
	// Set names the chunks with the entries: Moves of them, in chunks of
	// PlanChunkEntries. Bytes is what they are to copy.
	Set   string `json:"set,omitempty"`
	Moves int    `json:"moves"`
	Bytes int64  `json:"bytes"`
	// Reason is why it failed, or why there is nothing to move.
	Reason string `json:"reason,omitempty"`
	// Waiting is why no further move begins now; "" while moves begin.
	Waiting string `json:"waiting,omitempty"`
	// Done, Undone and Skipped count the entries that have ended: moved; left where
	// they were by a move that was undone; not begun, because they live elsewhere
	// or are gone.
	Done      int   `json:"done"`
	Undone    int   `json:"undone"`
	Skipped   int   `json:"skipped"`
	DoneBytes int64 `json:"done_bytes"`
	// Low: all entries before it have ended, and are counted. Those after it that
	// have ended by now are counted, too, but found out again by the next owner.
	Low      int           `json:"low"`
	LowTally PlanTally     `json:"low_tally"`
	Failures []PlanFailure `json:"failures,omitempty"`
	// ETA is when the last move is expected to end.
	ETA time.Time `json:"eta,omitzero"`
	// Owner is the mover at it, for people.
	Owner   string    `json:"owner,omitempty"`
	Updated time.Time `json:"updated,omitzero"`
}

// PlanTally counts entries that have ended.
type PlanTally struct {
	Done    int   `json:"done"`
	Undone  int   `json:"undone"`
	Skipped int   `json:"skipped"`
	Bytes   int64 `json:"bytes"`
}

// PlanFailure is an entry that was undone or skipped.
type PlanFailure struct {
	User   User   `json:"user"`
	Reason string `json:"reason"`
}

// MaxPlanFailures bounds the failures that are told, PlanChunkEntries the entries
// of a chunk: with the longest names it stays under the store's 1.5 MB.
const (
	MaxPlanFailures  = 20
	PlanChunkEntries = 1000
)

// PlanEntry is one user of a plan.
type PlanEntry struct {
	User     User      `json:"u"`
	From     BackendID `json:"f"`
	To       BackendID `json:"t"`
	Bytes    int64     `json:"b,omitempty"`
	Messages int64     `json:"m,omitempty"`
	// Group is the sharing group that moves together; its entries follow each other.
	Group string `json:"g,omitempty"`
	// Why is the reason, and When how much the user is at work: see PlanWhy.
	Why  string `json:"w"`
	When string `json:"c,omitempty"`
}

// Reasons of an entry, in Why.
const (
	WhyDrain = "drain" // its home is being emptied
	WhyTags  = "tags"  // its tags do not let it live there
	WhyOver  = "over"  // its home has more than its share
	WhyFill  = "fill"  // another has less than its share
)

// Classes of an entry, in When: they move in this order.
const (
	WhenQuiet  = ""
	WhenHot    = "hot"    // much more load than the others of its home
	WhenActive = "active" // at work when the plan was made
)

// PlanSummary is what a plan does to the backends.
type PlanSummary struct {
	Version  int           `json:"v"`
	Backends []PlanBackend `json:"backends"`
	// Imbalance is the largest distance of a backend from its share, as a part of it.
	ImbalanceBefore float64 `json:"imbalance_before"`
	ImbalanceAfter  float64 `json:"imbalance_after"`
	// Seconds is the estimated time in which moves begin and end; ElapsedSeconds
	// has the waits for the window in it.
	Seconds        int64 `json:"seconds"`
	ElapsedSeconds int64 `json:"elapsed_seconds"`
	Messages       int64 `json:"messages"`
	// Reasons counts the entries by Why.
	Reasons map[string]int `json:"reasons"`
	// Notes are in words: who could not be placed, and why.
	Notes []string `json:"notes,omitempty"`
}

// PlanUse is what a backend holds.
type PlanUse struct {
	Users    int64   `json:"users"`
	Bytes    int64   `json:"bytes"`
	Messages int64   `json:"messages"`
	Load     float64 `json:"load"`
}

// PlanBackend is one backend before and after a plan.
type PlanBackend struct {
	ID            BackendID    `json:"id"`
	State         BackendState `json:"state"`
	CapacityBytes int64        `json:"capacity_bytes"` // 0: not known
	// Share is what it should have of what the policy levels: bytes, users,
	// messages or load.
	Share    float64 `json:"share"`
	Before   PlanUse `json:"before"`
	After    PlanUse `json:"after"`
	MovesIn  int     `json:"moves_in"`
	MovesOut int     `json:"moves_out"`
}

// PlanAuto is plan/auto: the continuous mode. While it is on, the plans' owner makes
// and runs a plan by itself whenever a backend is outside the band, or drains.
type PlanAuto struct {
	Version int        `json:"v"`
	On      bool       `json:"on"`
	Policy  PlanPolicy `json:"policy"`
	// EverySeconds is the least time between two plans that moved nobody; 0 is 600.
	EverySeconds int64     `json:"every_seconds"`
	Changed      time.Time `json:"changed,omitzero"`
}

// DecodePlan reads a stored Plan.
func DecodePlan(b []byte) (Plan, error) { return decode[Plan]("plan", b) }

// DecodePlanAuto reads a stored PlanAuto.
func DecodePlanAuto(b []byte) (PlanAuto, error) { return decode[PlanAuto]("continuous mode", b) }

type planChunk struct {
	Version int         `json:"v"`
	Entries []PlanEntry `json:"entries"`
}
