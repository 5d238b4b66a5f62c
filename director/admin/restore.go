package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"waypost/director"
)

// DeclareLost says that a backend will not come back. Force: although it seems to
// be alive.
type DeclareLost struct {
	Force bool `json:"force,omitempty"`
}

// RestoredUser publishes a user whose tree was restored, and sealed, at To: one who
// is not there, with Account; one whose home is lost; or one whose home To is.
type RestoredUser struct {
	To      director.BackendID `json:"to"`
	Account *director.Account  `json:"account,omitempty"`
}

// ExchangeUser has the home exchange a user's mailbox for the restored one that was
// made ready there: see control.RestoreExchangeRequest.
type ExchangeUser struct {
	Digest string    `json:"digest"`
	Taken  time.Time `json:"taken"`
	Exact  bool      `json:"exact,omitempty"`
}

// ExchangedUser tells what an exchange did.
type ExchangedUser struct {
	User  director.User      `json:"user"`
	Home  director.BackendID `json:"home"`
	Epoch director.Epoch     `json:"epoch"`
	Kept  int                `json:"kept_messages"`
}

// DeclareLost declares a backend lost; ErrInUse while it is alive.
func (c *Client) DeclareLost(ctx context.Context, id director.BackendID, req DeclareLost) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPost, "/v1/backends/"+url.PathEscape(string(id))+"/lost", req)
}

// RestoredUser publishes a restored user. It may be called again.
func (c *Client) RestoredUser(ctx context.Context, u director.User, req RestoredUser) (User, error) {
	return call[User](ctx, c, http.MethodPost, "/v1/users/"+url.PathEscape(string(u))+"/restored", req)
}

// ExchangeUser exchanges a mailbox.
func (c *Client) ExchangeUser(ctx context.Context, u director.User, req ExchangeUser) (ExchangedUser, error) {
	return call[ExchangedUser](ctx, c, http.MethodPost, "/v1/users/"+url.PathEscape(string(u))+"/exchange", req)
}
