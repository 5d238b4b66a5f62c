package admin

import (
	"context"
	"net/http"
	"net/url"

	"waypost/backend/control"
	"waypost/director"
)

// CheckFilter says what is checked: one user at all backends, or all users of one
// backend or of all. Deep reads the contents of messages, too.
type CheckFilter struct {
	User    director.User
	Backend director.BackendID
	Deep    bool
}

// CheckLine is one line of a check or a repair: exactly one of its fields is set.
type CheckLine struct {
	Finding  *control.Finding `json:"finding,omitempty"`
	Step     *control.Step    `json:"step,omitempty"`
	Progress *CheckProgress   `json:"progress,omitempty"`
	// Missing tells that a node's part is missing.
	Missing *NodeError `json:"missing,omitempty"`
}

// CheckProgress tells how far a backend is.
type CheckProgress struct {
	Backend director.BackendID `json:"backend"`
	Checked int64              `json:"checked_users"`
	Total   int64              `json:"total_users"`
	Done    bool               `json:"done,omitempty"`
}

// Check has backends check, and calls fn with each line. It takes as long as it
// takes; ending ctx ends it everywhere.
func (c *Client) Check(ctx context.Context, f CheckFilter, fn func(CheckLine) error) error {
	q := query("user", string(f.User), "backend", string(f.Backend), "deep", flag(f.Deep))
	return stream(ctx, c, http.MethodGet, "/v1/check"+q, nil, fn)
}

// Repair has a user's home mend what is derived, and calls fn with each line; deep
// looks for what only the contents of messages tell. The error is
// director.ErrConflict where a human is needed.
func (c *Client) Repair(ctx context.Context, u director.User, deep bool, fn func(CheckLine) error) error {
	return stream(ctx, c, http.MethodPost, "/v1/users/"+url.PathEscape(string(u))+"/repair"+query("deep", flag(deep)), nil, fn)
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return ""
}
