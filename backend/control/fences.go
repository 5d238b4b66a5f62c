package control

import (
	"context"

	"waypost/director"
)

// PathFences (FencesRequest → FencesReply): from directors and admins: a page of
// the fences on this backend's disk, in the order of users. It is answered also
// while the backend waits for the directory, and changes nothing: by it a lost
// directory is restored (R10).
const PathFences = "/v1/fences"

// MaxFences bounds a page.
const MaxFences = 5000

// FencesRequest asks for the fences of users after After, at most Limit.
type FencesRequest struct {
	After director.User `json:"after,omitempty"`
	Limit int           `json:"limit,omitempty"` // 0: MaxFences
}

// FencesReply is a page.
type FencesReply struct {
	// Disk is what this disk is, and its start count (R9).
	Disk   director.Incarnation `json:"disk"`
	Fences []UserFence          `json:"fences"`
	// More: there are users after the last of these.
	More bool `json:"more"`
}

// UserFence is one user's fence. State is one of package fence's, "unreadable"
// included.
type UserFence struct {
	User  director.User  `json:"user"`
	State string         `json:"state"`
	Epoch director.Epoch `json:"epoch"`
	// Digest is what sealed staging was verified against.
	Digest string `json:"digest,omitempty"`
}

// Fences calls fn with every fence, page by page, and gives what the disk is.
func (c *Client) Fences(ctx context.Context, fn func(UserFence) error) (director.Incarnation, error) {
	var req FencesRequest
	for {
		page, err := Call[FencesReply](ctx, c, PathFences, req)
		if err != nil {
			return page.Disk, err
		}
		for _, f := range page.Fences {
			if err := fn(f); err != nil {
				return page.Disk, err
			}
			req.After = f.User
		}
		if !page.More || len(page.Fences) == 0 {
			return page.Disk, nil
		}
	}
}
