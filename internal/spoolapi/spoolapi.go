// Package spoolapi is the contract by which an mx's queues, the spool inward and
// the relay outward, are looked at and steered: by the director's console and by
// `waypost spool`. It holds the messages and a client; the mx serves them
// (mx.Server.Control) on its node listener, where the caller's certificate decides.
//
// It is JSON over HTTP/1.1. Changes are idempotent: retrying what is being
// tried, or dropping twice, does no harm.
package spoolapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Paths of the calls.
const (
	// PathList: GET → List.
	PathList = "/v1/spool"
	// PathRetry: POST RetryRequest → RetryReply.
	PathRetry = "/v1/spool/retry"
	// PathDrop: POST DropRequest → DropReply.
	PathDrop = "/v1/spool/drop"
)

// States of an Entry.
const (
	StateQueued = "queued" // tried again by itself
	StateHeld   = "held"   // too old: waits for the operator
	StateDead   = "dead"   // its recipients are gone: waits for the operator
)

// Queues of an Entry.
const (
	QueueIn  = "in"
	QueueOut = "out"
)

// Recipient is a mailbox, or an address, that an entry waits for.
type Recipient struct {
	User   string `json:"user"`
	Folder string `json:"folder,omitempty"`
	Home   string `json:"home,omitempty"` // as last known
	Error  string `json:"error,omitempty"`
	// Address is set in place of User and Folder in the outward queue.
	Address string `json:"address,omitempty"`
}

// Entry is a message that waits.
type Entry struct {
	ID   string `json:"id"` // the delivery id
	Node string `json:"node"`
	// Queue is "in" for mail that waits for homes, "out" for what leaves.
	Queue string `json:"queue"`
	// Kind and User say why and on whose behalf a message leaves: "submission",
	// "forward", "redirect", "vacation", …
	Kind       string      `json:"kind,omitempty"`
	User       string      `json:"user,omitempty"`
	State      string      `json:"state"`
	Sender     string      `json:"sender"` // empty: the null reverse-path
	Recipients []Recipient `json:"recipients"`
	Client     string      `json:"client"`
	Received   time.Time   `json:"received"`
	AgeSeconds int64       `json:"age_seconds"`
	SizeBytes  int64       `json:"size_bytes"`
	// Attempts are those since the mx was started.
	Attempts  int       `json:"attempts"`
	NextTry   time.Time `json:"next_try,omitzero"`
	LastError string    `json:"last_error,omitempty"`
}

// List is all entries of one mx, the oldest first.
type List struct {
	Node    string  `json:"node"`
	Entries []Entry `json:"entries"`
}

// RetryRequest names what is tried now: one entry (held and dead ones too), a
// user's, or all that is queued or held. Exactly one is set.
type RetryRequest struct {
	ID   string `json:"id,omitempty"`
	User string `json:"user,omitempty"`
	All  bool   `json:"all,omitempty"`
}

// RetryReply counts the entries that are tried.
type RetryReply struct {
	Retried int `json:"retried"`
}

// DropRequest names an entry to remove for good, its dead letter included.
type DropRequest struct {
	ID string `json:"id"`
}

// DropReply counts the entries that are gone.
type DropReply struct {
	Dropped int `json:"dropped"`
}

// Codes of refusals, in Error.Code.
const (
	CodeNotFound  = "not_found"
	CodeBusy      = "busy" // being delivered at this moment; try again
	CodeBad       = "bad_request"
	CodeForbidden = "forbidden"
	CodeInternal  = "internal"
)

// Error is a refusal by the mx.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text + " (" + e.Code + ")" }

// IsCode reports whether err is a refusal with that code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// MaxRequestBytes bounds a request; maxReplyBytes a reply.
const (
	MaxRequestBytes = 4 << 10
	maxReplyBytes   = 256 << 20
)

// Client calls one mx.
type Client struct {
	HTTP *http.Client
	// Base is the mx's URL without a path, like "https://mx1:4434".
	Base string
}

// List gives the spool.
func (c *Client) List(ctx context.Context) (List, error) {
	var out List
	err := c.call(ctx, http.MethodGet, PathList, nil, &out)
	return out, err
}

// Retry has entries tried now. CodeNotFound, CodeBusy.
func (c *Client) Retry(ctx context.Context, r RetryRequest) (RetryReply, error) {
	var out RetryReply
	err := c.call(ctx, http.MethodPost, PathRetry, r, &out)
	return out, err
}

// Drop removes an entry for good. CodeNotFound, CodeBusy.
func (c *Client) Drop(ctx context.Context, r DropRequest) (DropReply, error) {
	var out DropReply
	err := c.call(ctx, http.MethodPost, PathDrop, r, &out)
	return out, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxReplyBytes))
	if resp.StatusCode == http.StatusOK {
		if err := dec.Decode(out); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
	var e Error
	if dec.Decode(&e) != nil || e.Code == "" {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return &e
}
