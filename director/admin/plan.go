package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"waypost/director"
)

// RequestPlan asks for a plan. What the policy leaves out gets its default. With
// Apply it runs as soon as it is made, else when it is approved.
type RequestPlan struct {
	Policy director.PlanPolicy `json:"policy"`
	Apply  bool                `json:"apply,omitempty"`
}

// SteerPlan names the plan that is meant: whoever approves says which he has seen.
// An empty ID means whichever there is.
type SteerPlan struct {
	ID string `json:"id,omitempty"`
}

// Plan is the plan there is, how far it is, and what it does.
type Plan struct {
	ID      string              `json:"id"`
	State   director.PlanState  `json:"state"`
	Apply   bool                `json:"apply"`
	Auto    bool                `json:"auto"`
	Policy  director.PlanPolicy `json:"policy"`
	Created time.Time           `json:"created"`
	Made    time.Time           `json:"made,omitzero"`
	Started time.Time           `json:"started,omitzero"`
	Ended   time.Time           `json:"ended,omitzero"`
	Moves   int                 `json:"moves"`
	Bytes   int64               `json:"bytes"`
	// Done, Undone and Skipped count the moves that have ended, DoneBytes what has
	// been moved.
	Done      int   `json:"done"`
	Undone    int   `json:"undone"`
	Skipped   int   `json:"skipped"`
	DoneBytes int64 `json:"done_bytes"`
	// Reason is why it failed, or moves nobody; Waiting why no further move begins.
	Reason  string `json:"reason,omitempty"`
	Waiting string `json:"waiting,omitempty"`
	// ETA is when the last move is expected to end.
	ETA time.Time `json:"eta,omitzero"`
	// Owner is the mover that carries it out.
	Owner    string                 `json:"owner,omitempty"`
	Updated  time.Time              `json:"updated,omitzero"`
	Failures []director.PlanFailure `json:"failures,omitempty"`
	// Summary is there where it was asked for, and the plan is made.
	Summary *director.PlanSummary `json:"summary,omitempty"`
	// OnTheirWay are the journals of its moves, where they were asked for.
	OnTheirWay []Move `json:"on_their_way,omitempty"`
}

// PlanOf makes the API's form of a plan's head.
func PlanOf(p director.Plan) Plan {
	return Plan{
		ID: p.ID, State: p.State, Apply: p.Apply, Auto: p.Auto, Policy: p.Policy, Created: p.Created, Made: p.Made, Started: p.Started, Ended: p.Ended,
		Moves: p.Moves, Bytes: p.Bytes, Done: p.Done, Undone: p.Undone, Skipped: p.Skipped, DoneBytes: p.DoneBytes,
		Reason: p.Reason, Waiting: p.Waiting, ETA: p.ETA, Owner: p.Owner, Updated: p.Updated, Failures: p.Failures,
	}
}

// PlanMove is one user of a plan.
type PlanMove struct {
	User     director.User      `json:"user"`
	From     director.BackendID `json:"from"`
	To       director.BackendID `json:"to"`
	Bytes    int64              `json:"bytes"`
	Messages int64              `json:"messages"`
	Group    string             `json:"group,omitempty"`
	// Why is drain, tags, over or fill; When is "", "hot" or "active": they move in
	// this order.
	Why  string `json:"why"`
	When string `json:"when,omitempty"`
}

// PlanAuto is the continuous mode: while it is on, plans are made and carried out
// whenever a backend is outside the policy's band, or drains.
type PlanAuto struct {
	On     bool                `json:"on"`
	Policy director.PlanPolicy `json:"policy"`
	// EverySeconds is the time between two looks; 0 means 600.
	EverySeconds int64     `json:"every_seconds"`
	Changed      time.Time `json:"changed,omitzero"`
}

// Tags mark a backend, or limit where plans move a user: to backends that have all
// of the user's.
type Tags struct {
	Tags []string `json:"tags"`
}

// RequestPlan asks for a plan, which a mover then makes: see Plan. The error is
// director.ErrConflict while another one is under way.
func (c *Client) RequestPlan(ctx context.Context, req RequestPlan) (Plan, error) {
	return call[Plan](ctx, c, http.MethodPost, "/v1/plan", req)
}

// Plan tells of the plan there is, director.ErrNotFound before the first; with full
// also its summary and the moves on their way.
func (c *Client) Plan(ctx context.Context, full bool) (Plan, error) {
	return call[Plan](ctx, c, http.MethodGet, "/v1/plan"+query("full", flag(full)), nil)
}

// PlanMoves calls fn with each move of the plan, in the order in which they begin.
func (c *Client) PlanMoves(ctx context.Context, fn func(PlanMove) error) error {
	return stream(ctx, c, http.MethodGet, "/v1/plan/moves", nil, fn)
}

// SteerPlan applies, pauses, resumes or aborts the plan with that id.
func (c *Client) SteerPlan(ctx context.Context, verb director.PlanVerb, id string) (Plan, error) {
	return call[Plan](ctx, c, http.MethodPost, "/v1/plan/"+url.PathEscape(string(verb)), SteerPlan{id})
}

// PlanAuto tells of the continuous mode.
func (c *Client) PlanAuto(ctx context.Context) (PlanAuto, error) {
	return call[PlanAuto](ctx, c, http.MethodGet, "/v1/plan/auto", nil)
}

// PutPlanAuto sets it.
func (c *Client) PutPlanAuto(ctx context.Context, a PlanAuto) (PlanAuto, error) {
	return call[PlanAuto](ctx, c, http.MethodPut, "/v1/plan/auto", a)
}

// UserTags tells a user's tags.
func (c *Client) UserTags(ctx context.Context, u director.User) (Tags, error) {
	return call[Tags](ctx, c, http.MethodGet, "/v1/users/"+url.PathEscape(string(u))+"/tags", nil)
}

// PutUserTags sets all of a user's tags.
func (c *Client) PutUserTags(ctx context.Context, u director.User, tags []string) (Tags, error) {
	return call[Tags](ctx, c, http.MethodPut, "/v1/users/"+url.PathEscape(string(u))+"/tags", Tags{tags})
}

// BackendTags tells a backend's tags.
func (c *Client) BackendTags(ctx context.Context, id director.BackendID) (Tags, error) {
	return call[Tags](ctx, c, http.MethodGet, "/v1/backends/"+url.PathEscape(string(id))+"/tags", nil)
}

// PutBackendTags sets all of a backend's tags.
func (c *Client) PutBackendTags(ctx context.Context, id director.BackendID, tags []string) (Tags, error) {
	return call[Tags](ctx, c, http.MethodPut, "/v1/backends/"+url.PathEscape(string(id))+"/tags", Tags{tags})
}
