package mx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/relayapi"
	"waypost/internal/spoolapi"
	"waypost/mx/relay"
	"waypost/mx/spool"
)

// Control serves package spoolapi's calls, which are for those who may steer
// mail, and package relayapi's, which is for backends: each is refused to the
// others. Whoever mounts it admits only admin, director and backend.
func (srv *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+spoolapi.PathList, steering(srv.handleList))
	mux.Handle("POST "+spoolapi.PathRetry, steering(srv.handleRetry))
	mux.Handle("POST "+spoolapi.PathDrop, steering(srv.handleDrop))
	mux.HandleFunc("POST "+relayapi.PathSend, func(w http.ResponseWriter, r *http.Request) {
		if p, ok := cluster.PeerFrom(r.Context()); !ok || p.Role != cluster.RoleBackend {
			writeJSON(w, http.StatusForbidden, &relayapi.Error{Code: relayapi.CodeForbidden, Text: "for backends"})
			return
		}
		srv.handover(w, r)
	})
	return mux
}

// steering keeps backends off.
func steering(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := cluster.PeerFrom(r.Context()); ok && p.Role != cluster.RoleAdmin && p.Role != cluster.RoleDirector {
			writeJSON(w, http.StatusForbidden, &spoolapi.Error{Code: spoolapi.CodeForbidden, Text: "for operators"})
			return
		}
		h(w, r)
	})
}

func (srv *Server) handleList(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	out := spoolapi.List{Node: srv.cfg.ID, Entries: []spoolapi.Entry{}}
	for _, e := range srv.spool.List() {
		a := spoolapi.Entry{
			ID: e.ID, Node: srv.cfg.ID, Queue: spoolapi.QueueIn, State: string(e.State), Sender: e.Sender, Client: e.Client, Received: e.Received,
			AgeSeconds: int64(now.Sub(e.Received).Seconds()), SizeBytes: e.Size, Attempts: e.Attempts, LastError: e.Error,
		}
		if e.State == spool.Queued {
			a.NextTry = e.Next
		}
		for _, r := range e.Recipients {
			a.Recipients = append(a.Recipients, spoolapi.Recipient{User: string(r.User), Folder: r.Folder, Home: string(r.Home), Error: r.Error})
		}
		out.Entries = append(out.Entries, a)
	}
	for _, e := range srv.relay.List() {
		out.Entries = append(out.Entries, srv.outEntry(e, now))
	}
	slices.SortStableFunc(out.Entries, func(a, b spoolapi.Entry) int { return a.Received.Compare(b.Received) })
	reply(w, out, nil)
}

// outEntry is an entry of the relay as operators see it.
func (srv *Server) outEntry(e relay.Entry, now time.Time) spoolapi.Entry {
	a := spoolapi.Entry{
		ID: e.ID, Node: srv.cfg.ID, Queue: spoolapi.QueueOut, Kind: string(e.Kind), User: string(e.User), State: string(e.State), Sender: e.From,
		Received: e.Received, AgeSeconds: int64(now.Sub(e.Received).Seconds()), SizeBytes: e.Size, Attempts: e.Attempts, NextTry: e.Next, LastError: e.Error,
	}
	for _, r := range e.Recipients {
		a.Recipients = append(a.Recipients, spoolapi.Recipient{Address: r.To, Error: r.Error})
	}
	return a
}

func (srv *Server) handleRetry(w http.ResponseWriter, r *http.Request) {
	var req spoolapi.RetryRequest
	var out spoolapi.RetryReply
	err := request(r, &req)
	switch {
	case err != nil:
	case req.ID != "" && req.User == "" && !req.All:
		out.Retried, err = either(req.ID, srv.spool.Retry, srv.relay.Retry)
	case req.ID == "" && req.User != "" && !req.All:
		var u director.User
		if u, err = director.ParseUser(req.User); err != nil {
			err = &spoolapi.Error{Code: spoolapi.CodeBad, Text: err.Error()}
			break
		}
		out.Retried = srv.spool.RetryUser(u) + srv.relay.RetryUser(u)
	case req.ID == "" && req.User == "" && req.All:
		out.Retried = srv.spool.RetryAll() + srv.relay.RetryAll()
	default:
		err = &spoolapi.Error{Code: spoolapi.CodeBad, Text: "say one of id, user, all"}
	}
	srv.log.Info("spool retry", "id", req.ID, "user", req.User, "all", req.All, "retried", out.Retried, "err", err)
	reply(w, out, err)
}

func (srv *Server) handleDrop(w http.ResponseWriter, r *http.Request) {
	var req spoolapi.DropRequest
	var out spoolapi.DropReply
	err := request(r, &req)
	if err == nil {
		out.Dropped, err = either(req.ID, srv.spool.Drop, srv.relay.Drop)
	}
	srv.log.Warn("spool drop", "delivery", req.ID, "dropped", out.Dropped, "err", err)
	reply(w, out, err)
}

// either changes the entries of an id, of which there may be one in each queue,
// and counts them. An error is the first that is not that there is none.
func either(id string, in, out func(string) error) (n int, err error) {
	errIn, errOut := in(id), out(id)
	missing := errors.Is(errIn, spool.ErrNotFound)
	switch {
	case errIn == nil && errOut == nil:
		return 2, nil
	case errIn == nil && errors.Is(errOut, relay.ErrNotFound), missing && errOut == nil:
		return 1, nil
	case errIn != nil && !missing:
		return 0, errIn
	}
	return 0, errOut
}

func request(r *http.Request, v any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, spoolapi.MaxRequestBytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &spoolapi.Error{Code: spoolapi.CodeBad, Text: fmt.Sprintf("request: %v", err)}
	}
	return nil
}

func reply(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		v, status = refusal(err)
	}
	writeJSON(w, status, v)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // the caller is gone if it fails
}

func refusal(err error) (*spoolapi.Error, int) {
	var e *spoolapi.Error
	switch {
	case errors.As(err, &e):
		return e, http.StatusBadRequest
	case errors.Is(err, spool.ErrNotFound), errors.Is(err, relay.ErrNotFound):
		return &spoolapi.Error{Code: spoolapi.CodeNotFound, Text: err.Error()}, http.StatusNotFound
	case errors.Is(err, spool.ErrBusy), errors.Is(err, relay.ErrBusy):
		return &spoolapi.Error{Code: spoolapi.CodeBusy, Text: err.Error()}, http.StatusConflict
	}
	return &spoolapi.Error{Code: spoolapi.CodeInternal, Text: err.Error()}, http.StatusInternalServerError
}
