package mx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"waypost/director"
	"waypost/internal/spoolapi"
	"waypost/mx/spool"
)

// Control serves package spoolapi's calls. Whoever mounts it admits only those
// who may steer mail: admin and director.
func (srv *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+spoolapi.PathList, srv.handleList)
	mux.HandleFunc("POST "+spoolapi.PathRetry, srv.handleRetry)
	mux.HandleFunc("POST "+spoolapi.PathDrop, srv.handleDrop)
	return mux
}

func (srv *Server) handleList(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	out := spoolapi.List{Node: srv.cfg.ID, Entries: []spoolapi.Entry{}}
	for _, e := range srv.spool.List() {
		a := spoolapi.Entry{
			ID: e.ID, Node: srv.cfg.ID, State: string(e.State), Sender: e.Sender, Client: e.Client, Received: e.Received,
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
	reply(w, out, nil)
}

func (srv *Server) handleRetry(w http.ResponseWriter, r *http.Request) {
	var req spoolapi.RetryRequest
	var out spoolapi.RetryReply
	err := request(r, &req)
	switch {
	case err != nil:
	case req.ID != "" && req.User == "" && !req.All:
		if err = srv.spool.Retry(req.ID); err == nil {
			out.Retried = 1
		}
	case req.ID == "" && req.User != "" && !req.All:
		var u director.User
		if u, err = director.ParseUser(req.User); err != nil {
			err = &spoolapi.Error{Code: spoolapi.CodeBad, Text: err.Error()}
			break
		}
		out.Retried = srv.spool.RetryUser(u)
	case req.ID == "" && req.User == "" && req.All:
		out.Retried = srv.spool.RetryAll()
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
		if err = srv.spool.Drop(req.ID); err == nil {
			out.Dropped = 1
		}
	}
	srv.log.Warn("spool drop", "delivery", req.ID, "dropped", out.Dropped, "err", err)
	reply(w, out, err)
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
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e, status := refusal(err)
		w.WriteHeader(status)
		v = e
	}
	json.NewEncoder(w).Encode(v) // the caller is gone if it fails
}

func refusal(err error) (*spoolapi.Error, int) {
	var e *spoolapi.Error
	switch {
	case errors.As(err, &e):
		return e, http.StatusBadRequest
	case errors.Is(err, spool.ErrNotFound):
		return &spoolapi.Error{Code: spoolapi.CodeNotFound, Text: err.Error()}, http.StatusNotFound
	case errors.Is(err, spool.ErrBusy):
		return &spoolapi.Error{Code: spoolapi.CodeBusy, Text: err.Error()}, http.StatusConflict
	}
	return &spoolapi.Error{Code: spoolapi.CodeInternal, Text: err.Error()}, http.StatusInternalServerError
}
