package mx

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/lmtp"
	"waypost/internal/relayapi"
	"waypost/mx/relay"
)

// handover takes a message that leaves from a backend (package relayapi). The
// answer means that it is durable.
func (srv *Server) handover(w http.ResponseWriter, r *http.Request) {
	peer, _ := cluster.PeerFrom(r.Context())
	log := srv.log.With("peer", peer.String())
	if !srv.beginMessage() {
		answerHandover(w, relayapi.Reply{}, &relayapi.Error{Code: relayapi.CodeFull, Text: "shutting down"})
		return
	}
	defer srv.messages.Done()
	body := bufio.NewReader(&steady{http.NewResponseController(w), r.Body, srv.cfg.DataTimeout})
	m, err := relayapi.ReadMessage(body)
	var e relay.Envelope
	if err == nil {
		e, err = handedEnvelope(m)
	}
	if err != nil {
		log.Warn("handover refused", "err", err)
		answerHandover(w, relayapi.Reply{}, &relayapi.Error{Code: relayapi.CodeBad, Text: err.Error()})
		return
	}
	out := relayapi.Reply{ID: e.ID}
	if out.Known = srv.relay.Known(e.ID); !out.Known {
		err = srv.takeHandover(r, &e, body, peer)
	}
	if errors.Is(err, relay.ErrKnown) {
		out.Known, err = true, nil
	}
	log.Info("handover", "relay", e.ID, "id", m.ID, "kind", m.Kind, "user", m.User, "known", out.Known, "err", err)
	answerHandover(w, out, err)
}

// steady reads a body whose pieces each have a time to come.
type steady struct {
	rc      *http.ResponseController
	r       io.Reader
	timeout time.Duration
}

func (s *steady) Read(p []byte) (int, error) {
	// One that cannot have deadlines has the server's own.
	_ = s.rc.SetReadDeadline(time.Now().Add(s.timeout))
	return s.r.Read(p)
}

func handedEnvelope(m relayapi.Message) (relay.Envelope, error) {
	e := relay.Envelope{ID: relay.EntryID(m.ID), Kind: relay.Kind(m.Kind), From: m.From, UTF8: m.UTF8, Received: time.Now(), Remember: true}
	var err error
	if e.User, err = director.ParseUser(m.User); err != nil {
		return e, fmt.Errorf("user: %w", err)
	}
	if err := lmtp.CheckAddress(m.From); err != nil {
		return e, fmt.Errorf("from: %w", err)
	}
	for _, to := range m.To {
		if err := lmtp.CheckAddress(to); err != nil || to == "" {
			return e, fmt.Errorf("recipient %q is not usable", to)
		}
		e.Recipients = append(e.Recipients, relay.Recipient{To: to})
	}
	return e, nil
}

func (srv *Server) takeHandover(r *http.Request, e *relay.Envelope, body io.Reader, peer cluster.Peer) error {
	ctx := r.Context()
	if !srv.relay.Enabled() && srv.allForeign(r, *e) {
		return relay.ErrNoRoute
	}
	if a, _, ok := srv.dir.Account(e.User); ok {
		e.UserCreated = a.Created
	}
	// In doubt nobody is told: then it is a dead letter.
	e.Reports, _ = srv.owns(ctx, e.User, e.From)
	trace := fmt.Sprintf("Received: from %s\r\n\tby %s (%s of %s) id %s;\r\n\t%s\r\n", traceName(peer.ID), srv.cfg.Hostname,
		e.Kind, traceName(string(e.User)), e.ID, e.Received.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	d, err := srv.relay.Take(body, e, trace, srv.cfg.MaxMessageBytes)
	if err != nil {
		return err
	}
	defer d.Discard()
	return srv.relay.Add(d, *e)
}

// allForeign reports whether all recipients are known to be of other domains.
func (srv *Server) allForeign(r *http.Request, e relay.Envelope) bool {
	for _, to := range e.Recipients {
		if m, err := srv.meaning(r.Context(), to.To); err != nil || !m.Foreign {
			return false
		}
	}
	return true
}

func answerHandover(w http.ResponseWriter, out relayapi.Reply, err error) {
	if err == nil {
		writeJSON(w, http.StatusOK, out)
		return
	}
	e, status := handoverRefusal(err)
	writeJSON(w, status, e)
}

func handoverRefusal(err error) (*relayapi.Error, int) {
	var e *relayapi.Error
	var limit *relay.LimitError
	code, status := relayapi.CodeFull, http.StatusInsufficientStorage // the disk, most likely: later, or elsewhere
	switch {
	case errors.As(err, &e) && e.Code == relayapi.CodeBad:
		return e, http.StatusBadRequest
	case errors.As(err, &e):
		return e, http.StatusServiceUnavailable
	case errors.As(err, &limit):
		code, status = relayapi.CodeLimited, http.StatusTooManyRequests
	case errors.Is(err, relay.ErrLoop):
		code, status = relayapi.CodeLoop, http.StatusBadRequest
	case errors.Is(err, relay.ErrHeader):
		code, status = relayapi.CodeBad, http.StatusBadRequest
	case errors.Is(err, relay.ErrTooLarge):
		code, status = relayapi.CodeTooLarge, http.StatusBadRequest
	case errors.Is(err, relay.ErrNoRoute):
		code, status = relayapi.CodeNoRoute, http.StatusBadRequest
	case errors.Is(err, relay.ErrBusy):
		code, status = relayapi.CodeBusy, http.StatusConflict
	}
	return &relayapi.Error{Code: code, Text: err.Error()}, status
}
