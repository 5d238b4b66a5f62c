// Package relayapi is the contract by which a backend hands a message that
// leaves (a redirect, a vacation reply, a notification, a rejection) to an mx.
// It holds the messages and a client; the mx serves it (mx.Server.Control) on
// its node listener, to backends alone.
//
// It is HTTP/1.1. The request is one line of JSON, a Message, and after it the
// message itself, with LF or CRLF line ends, as it is to leave: the mx adds its
// Received line and, on redirects, HeaderLoop, and nothing else of the backend's
// is changed. The answer is JSON, and comes when the message is durable there.
//
// An ID is taken once by each mx: whoever repeats asks the same mx first, which
// Order is for. An error that is not Permanent may be repeated for days.
package relayapi

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
)

// PathSend: POST Message line and body → Reply.
const PathSend = "/v1/relay"

// ContentType of a request.
const ContentType = "application/vnd.waypost.outbound"

// HeaderLoop is the field by which the mx marks a redirect with its user. A
// backend does not redirect a message that carries it with the same user; the
// mx refuses it with CodeLoop.
const HeaderLoop = "X-Waypost-Loop"

// Kinds of messages. All but redirects are sent with the null sender.
const (
	KindRedirect = "redirect"
	KindVacation = "vacation"
	KindNotify   = "notify"
	KindReject   = "reject"
	KindEcho     = "echo"
)

// Message says what leaves. Addresses are without brackets.
type Message struct {
	// ID tells it from all others, and is the same at a repetition. At most 200
	// bytes.
	ID   string `json:"id"`
	Kind string `json:"kind"`
	// User is on whose behalf it is sent.
	User string `json:"user"`
	// From is the envelope sender; of a redirect, the original one. Only if it
	// is an address of User is a failure reported.
	From string   `json:"from,omitempty"`
	To   []string `json:"to"` // 1 to MaxRecipients
	// UTF8: the message or its addresses need SMTPUTF8.
	UTF8 bool `json:"utf8,omitempty"`
}

// Limits of a Message.
const (
	MaxRecipients = 100
	MaxIDBytes    = 200
	maxLineBytes  = 128 << 10
	maxReplyBytes = 64 << 10
)

// Reply says that the message is durable.
type Reply struct {
	// ID is the entry's, as operators see it.
	ID string `json:"id"`
	// Known: it was taken before, and nothing was done.
	Known bool `json:"known,omitempty"`
}

// Codes of refusals, in Error.Code.
const (
	CodeBad       = "bad_request" // permanent
	CodeLoop      = "loop"        // permanent
	CodeTooLarge  = "too_large"   // permanent
	CodeNoRoute   = "no_route"    // permanent: no mail leaves this cluster
	CodeLimited   = "limited"     // the user has sent too much: later
	CodeFull      = "full"        // the queue or its disk: later, or another mx
	CodeBusy      = "busy"        // the same id is being taken: again
	CodeForbidden = "forbidden"
	CodeInternal  = "internal"
)

// Error is a refusal by the mx.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text + " (" + e.Code + ")" }

// Permanent reports whether err says that this message will never be taken.
func Permanent(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case CodeBad, CodeLoop, CodeTooLarge, CodeNoRoute:
		return true
	}
	return false
}

// IsCode reports whether err is a refusal with that code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// ReadMessage reads the line that a request begins with; what follows is the
// message.
func ReadMessage(r *bufio.Reader) (Message, error) {
	var m Message
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLineBytes {
			return m, errors.New("the first line is too long")
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return m, fmt.Errorf("the first line: %w", err)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, fmt.Errorf("the first line: %w", err)
	}
	switch {
	case m.ID == "" || len(m.ID) > MaxIDBytes:
		return m, fmt.Errorf("id: want 1 to %d bytes", MaxIDBytes)
	case len(m.To) == 0 || len(m.To) > MaxRecipients:
		return m, fmt.Errorf("%d recipients: want 1 to %d", len(m.To), MaxRecipients)
	}
	switch m.Kind {
	case KindRedirect, KindVacation, KindNotify, KindReject, KindEcho:
		return m, nil
	}
	return m, fmt.Errorf("unknown kind %q", m.Kind)
}

// Client calls one mx.
type Client struct {
	HTTP *http.Client
	// Base is the mx's URL without a path, like "https://mx1:4434".
	Base string
}

// Send hands a message over, reading it from body once. With nil it is durable
// there. Any error but an *Error leaves it open whether it was taken: repeat.
func (c *Client) Send(ctx context.Context, m Message, body io.Reader) (Reply, error) {
	var out Reply
	line, err := json.Marshal(m)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Base+PathSend, io.MultiReader(bytes.NewReader(append(line, '\n')), body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", ContentType)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return out, fmt.Errorf("relay %s: %w", m.ID, err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxReplyBytes))
	if resp.StatusCode == http.StatusOK {
		if err := dec.Decode(&out); err != nil {
			return out, fmt.Errorf("relay %s: %w", m.ID, err)
		}
		return out, nil
	}
	var e Error
	if dec.Decode(&e) != nil || e.Code == "" {
		return out, fmt.Errorf("relay %s: %s", m.ID, resp.Status)
	}
	return out, &e
}

// Order gives the nodes in the order in which they are asked for an id: the
// same each time, whoever asks, so that a repetition meets the mx that has it;
// and spread, so that each is the first for its share.
func Order(id string, nodes []string) []string {
	weight := func(node string) uint64 {
		h := fnv.New64a()
		io.WriteString(h, id+"\x00"+node)
		v := h.Sum64() // its high bits mix poorly in short texts
		v ^= v >> 33
		v *= 0xff51afd7ed558ccd
		return v ^ v>>33
	}
	out := slices.Clone(nodes)
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(weight(a), weight(b)), cmp.Compare(a, b)) })
	return out
}
