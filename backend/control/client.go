package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"waypost/internal/cluster"
)

// Client calls one node. Safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// NewClient calls the node at host:port, which must prove to be want.
func NewClient(id *cluster.Identity, node string, want cluster.Peer) *Client {
	return &Client{base: "https://" + node, http: id.HTTPClient(want, cluster.ProtoControl)}
}

// maxReply bounds an answer; a manifest of a million messages fits.
const maxReply = 512 << 20

// Call makes one call and decodes its answer into reply.
func Call[Reply any](ctx context.Context, c *Client, path string, req any) (Reply, error) {
	var reply Reply
	body, err := c.post(ctx, path, req)
	if err != nil {
		return reply, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxReply)).Decode(&reply); err != nil {
		return reply, fmt.Errorf("%s: answer: %w", path, err)
	}
	return reply, nil
}

func (c *Client) post(ctx context.Context, path string, req any) (io.ReadCloser, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.Header.Set("Content-Type", "application/json")
	// net/http repeats a request on a connection that went stale only when it
	// knows it to be idempotent; every call here is.
	r.Header.Set("Idempotency-Key", "waypost")
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var e Error
	if json.Unmarshal(text, &e) == nil && e.Code != "" {
		return nil, fmt.Errorf("%s: %w", path, &e)
	}
	return nil, fmt.Errorf("%s: answer %s: %s", path, resp.Status, strings.TrimSpace(string(text)))
}

// errSilent: the other side stopped saying that it lives.
var errSilent = errors.New("the backend fell silent")

// Pull runs one pass and calls progress with each report, the last included.
func (c *Client) Pull(ctx context.Context, req PullRequest, progress func(PullProgress)) (PullProgress, error) {
	return c.watched(ctx, PathPull, req, progress)
}

// watched makes a call that takes long and tells how it goes.
func (c *Client) watched(ctx context.Context, path string, req any, progress func(PullProgress)) (PullProgress, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	body, err := c.post(ctx, path, req)
	if err != nil {
		return PullProgress{}, err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var p PullProgress
		quiet.Reset(silence)
		if err := dec.Decode(&p); err != nil {
			return p, fmt.Errorf("%s: broken off: %w", path, errors.Join(err, context.Cause(ctx)))
		}
		if p.Error != nil {
			return p, fmt.Errorf("%s: %w", path, p.Error)
		}
		progress(p)
		if p.Done {
			return p, nil
		}
	}
}

// Handle adapts a call to HTTP for a server: it decodes the request, checks
// the caller's role, and encodes the answer or the refusal.
func Handle[Req, Reply any](fn func(ctx context.Context, from cluster.Peer, req Req) (Reply, error), allowed ...cluster.Role) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, req, err := Decode[Req](r, allowed...)
		if err != nil {
			WriteError(w, err)
			return
		}
		reply, err := fn(r.Context(), from, req)
		if err != nil {
			WriteError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply) // the caller is gone: it asks again
	})
}

// maxRequest bounds a request's body in bytes.
const maxRequest = 64 << 10

// Decode reads a request and checks its caller.
func Decode[Req any](r *http.Request, allowed ...cluster.Role) (cluster.Peer, Req, error) {
	var req Req
	from, ok := cluster.PeerFrom(r.Context())
	if !ok || !slices.Contains(allowed, from.Role) {
		return from, req, &Error{CodeForbidden, fmt.Sprintf("%s may not call %s", from, r.URL.Path)}
	}
	if r.Method != http.MethodPost {
		return from, req, &Error{CodeBad, "use POST"}
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&req); err != nil {
		return from, req, &Error{CodeBad, err.Error()}
	}
	return from, req, nil
}

// WriteError sends a refusal. What is no *Error is CodeUnavailable: temporary
// unless proven permanent.
func WriteError(w http.ResponseWriter, err error) {
	e := AsError(err)
	status := http.StatusConflict
	switch e.Code {
	case CodeForbidden:
		status = http.StatusForbidden
	case CodeBad:
		status = http.StatusBadRequest
	case CodeUnavailable:
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the caller is gone: it asks again
}

// AsError makes any error a refusal that can be sent.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{CodeUnavailable, err.Error()}
}
