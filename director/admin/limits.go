package admin

import (
	"context"
	"net/http"

	"waypost/director"
)

// Limit bounds moves; 0 does not.
type Limit struct {
	BytesPerSecond int64 `json:"bytes_per_second"`
	Moves          int   `json:"moves"`
}

// Limits are those of all moves together, and those of backends that have one.
type Limits struct {
	Limit
	Backends []BackendLimit `json:"backends"`
}

// BackendLimit bounds the moves that leave or enter a backend.
type BackendLimit struct {
	Backend director.BackendID `json:"backend"`
	Limit
}

// SetLimit changes what is not nil, of a backend, or, without one, of all moves.
type SetLimit struct {
	Backend        director.BackendID `json:"backend,omitempty"`
	BytesPerSecond *int64             `json:"bytes_per_second,omitempty"`
	Moves          *int               `json:"moves,omitempty"`
}

// Limits tells what bounds moves.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	return call[Limits](ctx, c, http.MethodGet, "/v1/limits", nil)
}

// SetLimit changes a limit; it counts at once, for moves under way as well.
func (c *Client) SetLimit(ctx context.Context, req SetLimit) (Limits, error) {
	return call[Limits](ctx, c, http.MethodPatch, "/v1/limits", req)
}
