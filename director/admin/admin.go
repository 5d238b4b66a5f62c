// Package admin is the contract of the admin API, which the director serves and
// the operator's tools call: the messages, the paths, the errors, and a Client.
//
// It is JSON over HTTPS (HTTP/1.1) at the admin address. The director proves
// itself with its cluster certificate, the caller with one of the role admin
// (directors may call, too); nothing else is asked for. Names are lower case
// with underscores, units are in the names, times are RFC 3339.
//
//	POST   /v1/users                CreateUser → User
//	GET    /v1/users                ?domain= &home= &prefix= → stream of User
//	GET    /v1/users/{user}         → User, with usage
//	PATCH  /v1/users/{user}         UpdateUser → User
//	DELETE /v1/users/{user}         → User, of state "deleted"
//	POST   /v1/users/{user}/repair  ?deep=1 → stream of CheckLine
//	GET    /v1/check                ?user= &backend= &deep=1 → stream of CheckLine
//	POST   /v1/import               stream of CreateUser → stream of ImportResult
//	GET    /v1/domains              → []Domain
//	POST   /v1/domains              CreateDomain → Domain
//	DELETE /v1/domains/{domain}     → Done
//	GET    /v1/addresses            ?domain= → []Address
//	PUT    /v1/addresses/{address}  PutAddress → Address
//	DELETE /v1/addresses/{address}  → Done
//	GET    /v1/backends             → []Backend
//	PUT    /v1/backends/{id}        PutBackend → Backend
//	PATCH  /v1/backends/{id}        UpdateBackend → Backend
//	DELETE /v1/backends/{id}        → Done
//	POST   /v1/backends/{id}/lost   DeclareLost → Backend
//	POST   /v1/users/{user}/restored  RestoredUser → User
//	POST   /v1/users/{user}/exchange  ExchangeUser → ExchangedUser
//	GET    /v1/status               → Status
//	GET    /v1/sessions             ?user= → Sessions
//	POST   /v1/sessions/kick        control.KickRequest → Kicked
//	GET    /v1/spool                ?user= &node= → Spool
//	POST   /v1/spool/retry          SpoolRequest → SpoolDone
//	POST   /v1/spool/drop           SpoolRequest → SpoolDone
//	GET    /v1/moves                ?all=1 → []Move
//	POST   /v1/moves                CreateMove → Move
//	GET    /v1/moves/{user}         → Move; ?watch=1 → stream of Move
//	POST   /v1/plan                 RequestPlan → Plan
//	GET    /v1/plan                 ?full=1 → Plan
//	GET    /v1/plan/moves           → stream of PlanMove
//	POST   /v1/plan/{verb}          SteerPlan → Plan; apply, pause, resume, abort
//	GET    /v1/plan/auto            → PlanAuto
//	PUT    /v1/plan/auto            PlanAuto → PlanAuto
//	GET    /v1/users/{user}/tags    → Tags; PUT: Tags → Tags
//	GET    /v1/backends/{id}/tags   → Tags; PUT: Tags → Tags
//	GET    /v1/moves/{user}/verify  → stream of VerifyLine
//	POST   /v1/moves/{user}/undo    → Move
//	GET    /v1/limits               → Limits
//	PATCH  /v1/limits               SetLimit → Limits
//	GET    /v1/lookup               ?user= → Lookup
//	GET    /                        a page for browsers
//
// A stream is one JSON object a line. It is complete when it ends in order; a
// line {"stream_error": Error} or a connection that breaks off says that it is
// not. Any other refusal is an Error with a status of 4xx or 5xx.
//
// Changes are durable in the directory before they are answered. A call whose
// answer was lost may be made again: it then finds what the first one did
// (ErrExists for a creation, ErrNotFound for a deletion). Any node and any tool
// may import this package.
package admin

import (
	"errors"
	"net/http"

	"waypost/director"
)

// Codes of refusals, in Error.Code.
const (
	CodeBad         = "bad_request" // malformed, or a name or value that is not taken
	CodeForbidden   = "forbidden"   // the certificate may not do this
	CodeNotFound    = "not_found"   // there is no such thing
	CodeExists      = "exists"      // it is there already
	CodeConflict    = "conflict"    // something else is under way, or was faster
	CodeIllegal     = "illegal"     // it cannot be done from this state
	CodeInUse       = "in_use"      // refused while something depends on it
	CodeNoRoom      = "no_room"     // no backend takes new users
	CodeUnavailable = "unavailable" // temporary; try again
	CodeUnknown     = "unknown"     // not known whether it was done; look
)

// Error is a refusal by the director. errors.Is finds the directory's errors in
// it (director.ErrNotFound and its like), and ErrInUse and ErrNoRoom.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// ErrInUse: a domain or backend that still has users or addresses.
// ErrNoRoom: no active, alive backend takes new users.
var (
	ErrInUse  = errors.New("still in use")
	ErrNoRoom = errors.New("no backend takes new users")
)

func (e *Error) Error() string { return e.Text }

// Is ties codes to sentinels.
func (e *Error) Is(target error) bool {
	for _, m := range meanings() {
		if m.err == target {
			return m.code == e.Code
		}
	}
	return false
}

// meaning ties a code to its HTTP status and to the error it stands for.
type meaning struct {
	code   string
	status int
	err    error
}

func meanings() []meaning {
	return []meaning{
		{CodeInUse, http.StatusConflict, ErrInUse},
		{CodeNoRoom, http.StatusServiceUnavailable, ErrNoRoom},
		{CodeNotFound, http.StatusNotFound, director.ErrNotFound},
		{CodeExists, http.StatusConflict, director.ErrExists},
		{CodeIllegal, http.StatusConflict, director.ErrIllegal},
		{CodeUnknown, http.StatusBadGateway, director.ErrUnknown},
		{CodeConflict, http.StatusConflict, director.ErrConflict},
		{CodeBad, http.StatusBadRequest, director.ErrInvalid},
		{CodeUnavailable, http.StatusServiceUnavailable, director.ErrUnavailable},
		{CodeForbidden, http.StatusForbidden, nil},
	}
}

// AsError makes any error a refusal that can be sent. What is not proven to be
// permanent is CodeUnavailable.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, m := range meanings() {
		if m.err != nil && errors.Is(err, m.err) {
			return &Error{m.code, err.Error()}
		}
	}
	return &Error{CodeUnavailable, err.Error()}
}

// Status is the HTTP status of a refusal.
func (e *Error) Status() int {
	for _, m := range meanings() {
		if m.code == e.Code {
			return m.status
		}
	}
	return http.StatusServiceUnavailable
}
