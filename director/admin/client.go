package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// Client calls the admin API. Safe for concurrent use. Each call ends with its
// context; there is no other limit on its time. An error that is no *Error is
// of the way there: the call may or may not have been done.
type Client struct {
	// Base is the beginning of all URLs, "https://host:port".
	Base string
	HTTP *http.Client
}

// NewClient calls the director at addr, host:port, as id, which must be an
// admin's or a director's. Any director of the same cluster may answer.
func NewClient(addr string, id *cluster.Identity) *Client {
	return &Client{
		Base: "https://" + addr,
		HTTP: id.HTTPClient(cluster.Peer{Role: cluster.RoleDirector}, "http/1.1"),
	}
}

// Close lets idle connections go.
func (c *Client) Close() { c.HTTP.CloseIdleConnections() }

const (
	// maxAnswer bounds an answer that is not a stream.
	maxAnswer = 256 << 20
	// maxLine bounds a line of a stream.
	maxLine = 1 << 20
	maxText = 4096
)

// CreateUser makes a user; ErrExists if it is there.
func (c *Client) CreateUser(ctx context.Context, req CreateUser) (User, error) {
	return call[User](ctx, c, http.MethodPost, "/v1/users", req)
}

// User tells all of one user, its usage included.
func (c *Client) User(ctx context.Context, u director.User) (User, error) {
	return call[User](ctx, c, http.MethodGet, "/v1/users/"+url.PathEscape(string(u)), nil)
}

// Users calls fn with every user that the filter chooses, ordered by key.
func (c *Client) Users(ctx context.Context, f UserFilter, fn func(User) error) error {
	q := query("domain", f.Domain, "home", string(f.Home), "prefix", f.Prefix)
	return stream(ctx, c, http.MethodGet, "/v1/users"+q, nil, fn)
}

// UpdateUser changes a user's account.
func (c *Client) UpdateUser(ctx context.Context, u director.User, req UpdateUser) (User, error) {
	return call[User](ctx, c, http.MethodPatch, "/v1/users/"+url.PathEscape(string(u)), req)
}

// DeleteUser leaves the tombstone; refused with ErrConflict during a move.
func (c *Client) DeleteUser(ctx context.Context, u director.User) (User, error) {
	return call[User](ctx, c, http.MethodDelete, "/v1/users/"+url.PathEscape(string(u)), nil)
}

// Import sends lines, each a CreateUser in JSON, and calls fn with each result
// as it comes. A reader that fails ends the import with its error; lines sent
// before are done. To resume, send all lines again.
func (c *Client) Import(ctx context.Context, lines io.Reader, fn func(ImportResult) error) error {
	src := &failingReader{r: lines}
	err := stream(ctx, c, http.MethodPost, "/v1/import", src, fn)
	if failed := src.failure(); err != nil && failed != nil {
		return fmt.Errorf("import: read lines: %w", failed)
	}
	return err
}

// failingReader remembers why reading ended, which http may hide.
type failingReader struct {
	r io.Reader

	mu  sync.Mutex // guards err: http reads in a goroutine of its own
	err error
}

func (f *failingReader) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *failingReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
	}
	return n, err
}

// Domains lists all domains by name.
func (c *Client) Domains(ctx context.Context) ([]Domain, error) {
	return call[[]Domain](ctx, c, http.MethodGet, "/v1/domains", nil)
}

// CreateDomain adds a domain; ErrExists if it is there.
func (c *Client) CreateDomain(ctx context.Context, name string) (Domain, error) {
	return call[Domain](ctx, c, http.MethodPost, "/v1/domains", CreateDomain{name})
}

// DeleteDomain removes a domain; ErrInUse while it has users or addresses.
func (c *Client) DeleteDomain(ctx context.Context, name string) error {
	_, err := call[Done](ctx, c, http.MethodDelete, "/v1/domains/"+url.PathEscape(name), nil)
	return err
}

// Addresses lists the addresses of a domain, or all if it is empty.
func (c *Client) Addresses(ctx context.Context, domain string) ([]Address, error) {
	return call[[]Address](ctx, c, http.MethodGet, "/v1/addresses"+query("domain", domain), nil)
}

// PutAddress sets what an address means.
func (c *Client) PutAddress(ctx context.Context, address string, members []string) (Address, error) {
	return call[Address](ctx, c, http.MethodPut, "/v1/addresses/"+url.PathEscape(address), PutAddress{members})
}

// DeleteAddress removes an address; ErrNotFound if there is none.
func (c *Client) DeleteAddress(ctx context.Context, address string) error {
	_, err := call[Done](ctx, c, http.MethodDelete, "/v1/addresses/"+url.PathEscape(address), nil)
	return err
}

// Backends lists all backends by id.
func (c *Client) Backends(ctx context.Context) ([]Backend, error) {
	return call[[]Backend](ctx, c, http.MethodGet, "/v1/backends", nil)
}

// PutBackend adds or alters a backend.
func (c *Client) PutBackend(ctx context.Context, id director.BackendID, req PutBackend) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPut, "/v1/backends/"+url.PathEscape(string(id)), req)
}

// UpdateBackend changes a backend's state (drain, activate), weight or capacity.
func (c *Client) UpdateBackend(ctx context.Context, id director.BackendID, req UpdateBackend) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPatch, "/v1/backends/"+url.PathEscape(string(id)), req)
}

// RemoveBackend removes a backend; ErrInUse while it is the home of users.
func (c *Client) RemoveBackend(ctx context.Context, id director.BackendID) error {
	_, err := call[Done](ctx, c, http.MethodDelete, "/v1/backends/"+url.PathEscape(string(id)), nil)
	return err
}

// Status tells of the whole cluster.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Sessions lists sessions of a user, or all if it is empty.
func (c *Client) Sessions(ctx context.Context, u director.User) (Sessions, error) {
	return call[Sessions](ctx, c, http.MethodGet, "/v1/sessions"+query("user", string(u)), nil)
}

// Kick ends sessions and waits until they are gone.
func (c *Client) Kick(ctx context.Context, req control.KickRequest) (Kicked, error) {
	return call[Kicked](ctx, c, http.MethodPost, "/v1/sessions/kick", req)
}

// Spool lists spooled mail, of a user and of an mx where those are not empty.
func (c *Client) Spool(ctx context.Context, u director.User, node string) (Spool, error) {
	return call[Spool](ctx, c, http.MethodGet, "/v1/spool"+query("user", string(u), "node", node), nil)
}

// SpoolRetry has entries tried now.
func (c *Client) SpoolRetry(ctx context.Context, req SpoolRequest) (SpoolDone, error) {
	return call[SpoolDone](ctx, c, http.MethodPost, "/v1/spool/retry", req)
}

// SpoolDrop removes an entry for good.
func (c *Client) SpoolDrop(ctx context.Context, req SpoolRequest) (SpoolDone, error) {
	return call[SpoolDone](ctx, c, http.MethodPost, "/v1/spool/drop", req)
}

// Moves lists the moves on their way; with finished, all that left a journal.
func (c *Client) Moves(ctx context.Context, finished bool) ([]Move, error) {
	all := ""
	if finished {
		all = "1"
	}
	return call[[]Move](ctx, c, http.MethodGet, "/v1/moves"+query("all", all), nil)
}

// CreateMove writes the journal of a move, for a mover to carry out, and those of the
// other members of the user's sharing group.
func (c *Client) CreateMove(ctx context.Context, u string, to director.BackendID) (Move, error) {
	return call[Move](ctx, c, http.MethodPost, "/v1/moves", CreateMove{u, to})
}

// Move reads a user's last move.
func (c *Client) Move(ctx context.Context, u director.User) (Move, error) {
	return call[Move](ctx, c, http.MethodGet, "/v1/moves/"+url.PathEscape(string(u)), nil)
}

// WatchMove calls fn with the journal as it is and at each change, until the
// move has ended; the last one is returned. It does not matter which director
// answers, so a call that broke off can be made again.
func (c *Client) WatchMove(ctx context.Context, u director.User, fn func(Move)) (Move, error) {
	var last Move
	err := stream(ctx, c, http.MethodGet, "/v1/moves/"+url.PathEscape(string(u))+"?watch=1", nil, func(m Move) error {
		last = m
		fn(m)
		return nil
	})
	return last, err
}

// Lookup tells where a user is served.
func (c *Client) Lookup(ctx context.Context, user string) (Lookup, error) {
	return call[Lookup](ctx, c, http.MethodGet, "/v1/lookup"+query("user", user), nil)
}

// query makes a query string of pairs of name and value, leaving empty ones out.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// call makes one call with req, nil for none, as its JSON body.
func call[Reply any](ctx context.Context, c *Client, method, path string, req any) (Reply, error) {
	var reply Reply
	var body io.Reader
	if req != nil {
		b, err := json.Marshal(req)
		if err != nil {
			return reply, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body, "application/json")
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&reply); err != nil {
		return reply, fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return reply, nil
}

// stream makes a call that is answered by lines.
func stream[Line any](ctx context.Context, c *Client, method, path string, body io.Reader, fn func(Line) error) error {
	resp, err := c.do(ctx, method, path, body, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var broken struct {
			Error *Error `json:"stream_error"`
		}
		var line Line
		if err := errors.Join(json.Unmarshal(lines.Bytes(), &broken), json.Unmarshal(lines.Bytes(), &line)); err != nil {
			return fmt.Errorf("%s %s: answer: %w", method, path, err)
		}
		if broken.Error != nil {
			return broken.Error
		}
		if err := fn(line); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s %s: the answer broke off: %w", method, path, err)
	}
	return nil
}

// do sends a request and gives its answer if that is no refusal.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader, kind string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if body != nil {
		r.Header.Set("Content-Type", kind)
	}
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return nil, fmt.Errorf("call the director: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxText))
	if err != nil {
		return nil, fmt.Errorf("%s %s: answer %s: %w", method, path, resp.Status, err)
	}
	var e Error
	if json.Unmarshal(text, &e) == nil && e.Code != "" {
		return nil, &e
	}
	return nil, fmt.Errorf("%s %s: answer %s: %s", method, path, resp.Status, strings.TrimSpace(string(text)))
}
