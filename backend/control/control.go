// Package control is the contract between a backend and those who steer it:
// the mover, the director, and other backends. It holds the messages, the
// client, and nothing of a backend's inside, so that rebalance, director and
// proxy may import it.
//
// It is JSON over HTTP/1.1 on the node listener (ALPN waypost-control/1), with
// the caller's certificate deciding what it may call. Every call is
// idempotent, and a hint: a backend changes a fence only by its own
// linearizable read of the directory (R3). Calls of a move name the exact
// epoch of that move, the epoch of its busy record, and are refused with
// CodeEpoch otherwise.
package control

import (
	"errors"
	"time"

	"waypost/director"
)

// Paths of the calls, all POST.
const (
	// PathLook (LookRequest → FenceReply): read the directory, reconcile.
	PathLook = "/v1/look"
	// PathPrepare (PrepareRequest → FenceReply): R12, from the director: make
	// an empty mailbox, sealed at Epoch (the tombstone's, 0 without one), that
	// is adopted when the record is published.
	PathPrepare = "/v1/prepare"
	// PathStage (MoveRequest → FenceReply): at the target: fence Incoming at
	// Epoch, staging made or kept.
	PathStage = "/v1/stage"
	// PathPull (PullRequest → stream of PullProgress, one JSON object a line,
	// the last with Done): at the target: one pass from the source into staging.
	PathPull = "/v1/pull"
	// PathManifest (ManifestRequest → Manifest): at the source, to the target:
	// what the tree holds now, or exactly when frozen.
	PathManifest = "/v1/manifest"
	// PathFreeze (MoveRequest → ManifestSummary): at the source: fence Frozen
	// at Epoch; sessions are handed off.
	PathFreeze = "/v1/freeze"
	// PathSeal (SealRequest → ManifestSummary): at the target: staging equals
	// Digest, is durable, fence Sealed at Epoch.
	PathSeal = "/v1/seal"
	// PathUsage (UserRequest → UsageReply) for user show.
	PathUsage = "/v1/usage"
	// PathSessions (SessionsRequest → []Session), also served by proxies.
	PathSessions = "/v1/sessions"
	// PathKick (KickRequest → KickReply), also served by proxies.
	PathKick = "/v1/kick"
)

// Codes of refusals, in Error.Code.
const (
	// CodeEpoch: the call names another epoch than the move under way.
	CodeEpoch = "epoch"
	// CodeFence: the fence does not allow it now; Fence tells what it is.
	CodeFence = "fence"
	// CodeDiffers: staging is not equal to the manifest.
	CodeDiffers = "differs"
	// CodeNoRoom: the disk would not hold it.
	CodeNoRoom = "no_room"
	// CodeUnavailable: try again (directory or peer away, shutting down).
	CodeUnavailable = "unavailable"
	// CodeForbidden: the caller's certificate may not call this.
	CodeForbidden = "forbidden"
	// CodeBad: a malformed request.
	CodeBad = "bad_request"
)

// Error is a refusal by the other side. Anything else that a Client returns is
// a transport error: the call may or may not have been done; it can be repeated.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Text }

// IsCode reports whether err is a refusal with that code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// LookRequest asks to reconcile one user.
type LookRequest struct {
	User director.User `json:"user"`
}

// UserRequest names a user.
type UserRequest struct {
	User director.User `json:"user"`
}

// PrepareRequest asks for a new user's empty mailbox.
type PrepareRequest struct {
	User  director.User  `json:"user"`
	Epoch director.Epoch `json:"epoch"`
}

// MoveRequest names a move by its user and the epoch of its busy record.
type MoveRequest struct {
	User  director.User  `json:"user"`
	Epoch director.Epoch `json:"epoch"`
}

// PullRequest asks the target for one pass.
type PullRequest struct {
	User   director.User      `json:"user"`
	Epoch  director.Epoch     `json:"epoch"`
	Source director.BackendID `json:"source"`
	// Node is the source's node listener, host:port.
	Node string `json:"node"`
	// Final: the source is frozen; the pass must leave no difference.
	Final bool `json:"final"`
}

// PullProgress tells how a pass goes; counts are of this pass.
type PullProgress struct {
	// Files and Bytes transferred; Total* are what the pass has to transfer.
	Files      int64 `json:"files"`
	Bytes      int64 `json:"bytes"`
	TotalFiles int64 `json:"total_files"`
	TotalBytes int64 `json:"total_bytes"`
	// Renamed and Removed in staging, without a transfer.
	Renamed int64 `json:"renamed"`
	Removed int64 `json:"removed"`
	Done    bool  `json:"done,omitempty"`
	// Error ends the stream instead of Done.
	Error *Error `json:"error,omitempty"`
}

// ManifestRequest asks the source for its tree. Frozen: only if the fence is
// Frozen at exactly Epoch.
type ManifestRequest struct {
	User   director.User  `json:"user"`
	Epoch  director.Epoch `json:"epoch"`
	Frozen bool           `json:"frozen"`
}

// SealRequest asks the target to verify and seal.
type SealRequest struct {
	User   director.User  `json:"user"`
	Epoch  director.Epoch `json:"epoch"`
	Digest string         `json:"digest"`
	// Maildrop is the session that the freeze has named: the target keeps the maildrop
	// for it, for some minutes (RFC 1939, Section 4: nobody else may have it meanwhile).
	Maildrop string `json:"maildrop,omitempty"`
}

// ManifestSummary is a manifest without its entries.
type ManifestSummary struct {
	Digest   string `json:"digest"` // hex SHA-256 over the whole manifest
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"` // of messages, on disk
	Files    int64  `json:"files"`
	// Maildrop, in the answer to a freeze, is the id of the POP3 session that has the
	// maildrop and goes on after the move; empty for none.
	Maildrop string `json:"maildrop,omitempty"`
}

// Manifest is what one user's tree holds: every file and folder, ordered by
// path, derived files and litter excepted.
type Manifest struct {
	Entries []ManifestEntry `json:"entries"`
}

// ManifestEntry is one file or folder. Folders have a path ending in "/" and
// nothing else.
type ManifestEntry struct {
	Path TreePath `json:"path"` // relative to the user's folder
	Size int64    `json:"size,omitempty"`
	// MTime is the modification time in whole seconds: INTERNALDATE. It counts
	// for messages only.
	MTime int64 `json:"mtime,omitempty"`
	// Digest is the hex SHA-256 of the contents.
	Digest string `json:"digest,omitempty"`
}

// FenceReply.State of a backend that serves the user, of one that has let go of it, and of one
// that has nothing of it.
const (
	FenceServing = "serving"
	FenceGone    = "gone"
	FenceMissing = ""
)

// FenceReply tells a user's fence after the call.
type FenceReply struct {
	State string         `json:"state"`
	Epoch director.Epoch `json:"epoch"`
}

// UsageReply is what a user's mailbox holds.
type UsageReply struct {
	Bytes    int64 `json:"bytes"`
	Messages int64 `json:"messages"`
	Sessions int   `json:"sessions"`
}

// SessionsRequest filters by user; empty lists all.
type SessionsRequest struct {
	User director.User `json:"user,omitempty"`
}

// Session is one client's session.
type Session struct {
	ID       string             `json:"id"`
	User     director.User      `json:"user"`
	Protocol string             `json:"protocol"`
	Client   string             `json:"client"`
	Node     string             `json:"node"` // the node that lists it
	Backend  director.BackendID `json:"backend"`
	Started  time.Time          `json:"started"`
	BytesIn  int64              `json:"bytes_in"`
	BytesOut int64              `json:"bytes_out"`
}

// KickRequest ends sessions: of one id, or all of a user.
type KickRequest struct {
	ID   string        `json:"id,omitempty"`
	User director.User `json:"user,omitempty"`
}

// KickReply counts the sessions that are gone: closed, not merely asked to.
type KickReply struct {
	Kicked int `json:"kicked"`
}
