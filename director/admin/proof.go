package admin

import (
	"context"
	"net/http"
	"net/url"

	"waypost/backend/control"
	"waypost/director"
)

// VerifyLine is one line of a verification: exactly one of its fields is set.
// Verified comes once, at the end.
type VerifyLine struct {
	Finding  *control.Finding `json:"finding,omitempty"`
	Verified *Verified        `json:"verified,omitempty"`
}

// Verified is the result: what became of the messages that a user's last move
// brought.
type Verified struct {
	User director.User      `json:"user"`
	From director.BackendID `json:"from"`
	To   director.BackendID `json:"to"`
	control.Verified
}

// VerifyMove has a user's home look whether all that the last move brought is there,
// or was expunged since, and calls fn with each line. ErrNotFound if no move brought
// the user there, or its receipt is kept no more.
func (c *Client) VerifyMove(ctx context.Context, u director.User, fn func(VerifyLine) error) error {
	return stream(ctx, c, http.MethodGet, "/v1/moves/"+url.PathEscape(string(u))+"/verify", nil, fn)
}

// UndoMove plans the move that takes a user, and the members of its sharing group,
// back to where the last one came from.
func (c *Client) UndoMove(ctx context.Context, u director.User) (Move, error) {
	return call[Move](ctx, c, http.MethodPost, "/v1/moves/"+url.PathEscape(string(u))+"/undo", nil)
}
