package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"waypost/director"
	"waypost/internal/handoff"
	"waypost/internal/wire"
	"waypost/proxy/prelogin"
)

const (
	// rereadEvery is how often held work reads the record by itself (R11).
	rereadEvery = 3 * time.Second
	// refusedEvery paces attempts on a home that refuses what the directory says.
	refusedEvery = 2 * time.Second
	// retryEvery paces attempts on a backend that does not answer.
	retryEvery = 300 * time.Millisecond
	// inUseEvery paces attempts on a maildrop whose session is to be resumed.
	inUseEvery = time.Second
	// slowestRetry is what that comes to for sessions that wait to be resumed.
	slowestRetry = 4 * retryEvery
	// stillEvery is how often a waiting IMAP client is told so.
	stillEvery = 15 * time.Second
)

// request is a login that was found right and wants its session.
type request struct {
	user     director.User
	protocol string
	client   netip.AddrPort
	local    netip.AddrPort // where the client connected to
	session  string
	password string // for backends that want it
	pop3     *wire.POP3
	still    func() error
}

// upstream is an open session on a backend, past its greeting.
type upstream struct {
	conn    net.Conn
	backend director.BackendID
	epoch   director.Epoch
	pending []byte // read behind the greeting
	// capabilities of IMAP, as the backend announced them; may be empty.
	capabilities string
}

// Answers of an attempt on a backend, besides prelogin's refusals, which are
// final. Everything else means that the backend does not answer.
var (
	errStale   = errors.New("stale")
	errBusy    = errors.New("busy")
	errRefused = errors.New("refused")
)

// open finds the home of a user and opens the session there. It waits for
// moves, R11's holds and dead backends within login_wait; errors are prelogin's.
func (s *Server) open(ctx context.Context, q request) (*upstream, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LoginWait)
	defer cancel()
	o := opening{Server: s, q: q, lastStill: time.Now()}
	o.try = o.attempt
	return o.settle(ctx)
}

func (o *opening) settle(ctx context.Context) (*upstream, error) {
	up, err := o.run(ctx)
	if o.held {
		o.metrics.held.Dec()
	}
	return up, err
}

// opening is the state of one open.
type opening struct {
	*Server
	q request
	// try is one attempt on a home: attempt.
	try       func(context.Context, director.Record) (*upstream, error)
	state     []byte    // of a session that is resumed; nil: a login
	after     time.Time // no older connection will do
	lastStill time.Time
	held      bool
	// refusals counts those at this (home, epoch); confirmed is set once the
	// store said after the first one that the record stands.
	refusedAt director.Record
	refusals  int
	confirmed bool
	alarmed   bool
	// deadSince is when the first attempt began that this home did not answer.
	deadHome  director.BackendID
	deadSince time.Time
	began     time.Time // of the last attempt
	retry     time.Duration
}

func (o *opening) run(ctx context.Context) (*upstream, error) {
	rec, err := o.locate(ctx)
	for err == nil {
		switch rec.State {
		case director.Deleted:
			// The memory may be behind: a user of that name may be there again.
			rec, err = o.fresh(ctx)
			if err == nil && rec.State == director.Deleted {
				err = fmt.Errorf("%s is deleted: %w", o.q.user, prelogin.ErrAuth)
			}
			continue
		case director.Busy:
			rec, err = o.hold(ctx, rec)
			continue
		}
		o.began = time.Now()
		var up *upstream
		up, err = o.try(ctx, rec)
		switch {
		case err == nil:
			up.epoch = rec.Epoch
			return up, nil
		case o.state != nil && errors.Is(err, prelogin.ErrInUse):
			rec, err = o.afterInUse(ctx, rec)
		case errors.Is(err, prelogin.ErrAuth), errors.Is(err, prelogin.ErrDisabled):
			rec, err = o.afterDenial(ctx, rec, err)
		case final(err):
			return nil, err
		case errors.Is(err, errStale), errors.Is(err, errBusy), errors.Is(err, errRefused):
			rec, err = o.afterRefusal(ctx, rec, err)
		default:
			rec, err = o.afterSilence(ctx, rec, err)
		}
	}
	return nil, err
}

func final(err error) bool {
	if _, notCarried := handoff.ReasonOf(err); notCarried {
		return true
	}
	for _, f := range []error{prelogin.ErrAuth, prelogin.ErrDisabled, prelogin.ErrInUse, prelogin.ErrLimit, prelogin.ErrThrottled, prelogin.ErrDelay, prelogin.ErrTemporary} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

// locate answers from memory, and from the store what memory does not know.
func (o *opening) locate(ctx context.Context) (director.Record, error) {
	if rec, known, _ := o.dir.Location(o.q.user); known {
		return rec, nil
	}
	return o.fresh(ctx)
}

func (o *opening) fresh(ctx context.Context) (director.Record, error) {
	rec, err := o.dir.Fresh(ctx, o.q.user)
	return rec, directoryError(err)
}

// directoryError: that there is no such user is the directory's word; all else
// is temporary.
func directoryError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, director.ErrNotFound):
		return fmt.Errorf("%w: %w", prelogin.ErrAuth, err)
	}
	return fmt.Errorf("%w: %w", prelogin.ErrTemporary, err)
}

func (o *opening) attempt(ctx context.Context, rec director.Record) (*upstream, error) {
	b, ok := o.dir.Backend(rec.Home)
	if !ok {
		return nil, fmt.Errorf("backend %s is not in the directory", rec.Home)
	}
	switch {
	case o.state != nil:
		return o.resumeAt(ctx, rec, b)
	case b.Kind == director.KindWaypost:
		return o.openWaypost(ctx, rec, b, o.q)
	case b.Kind == director.KindDovecot:
		if b.Dovecot == nil {
			return nil, fmt.Errorf("backend %s is of kind dovecot and has no dovecot settings", rec.Home)
		}
		return o.openDovecot(ctx, rec.Home, *b.Dovecot, o.q)
	}
	return nil, fmt.Errorf("backend %s is of unknown kind %q", rec.Home, b.Kind)
}

// afterDenial: a backend of kind dovecot knows no epoch, so a home that the user
// has left looks like a wrong password. The client is told so only of the home
// that the store names.
func (o *opening) afterDenial(ctx context.Context, rec director.Record, why error) (director.Record, error) {
	next, err := o.fresh(ctx)
	if err == nil && next == rec {
		err = why
	}
	return next, err
}

// afterRefusal re-reads the directory once and tries again; a login that is
// refused the same (home, epoch) once more is held, with attempts far apart: the
// home may recover without a new epoch (R11).
func (o *opening) afterRefusal(ctx context.Context, rec director.Record, why error) (director.Record, error) {
	o.metrics.refusals.WithLabelValues(string(rec.Home), answer(why)).Inc()
	o.deadHome = "" // it does answer
	if o.refusedAt != rec {
		o.refusedAt, o.refusals, o.confirmed, o.alarmed = rec, 0, false, false
	}
	if o.refusals++; o.refusals == 1 {
		next, err := o.dir.Fresh(ctx, o.q.user)
		if !errors.Is(err, director.ErrUnavailable) || ctx.Err() != nil {
			o.confirmed = err == nil && next == rec
			return next, directoryError(err)
		}
	}
	// "Refused" says that the home cannot now, not that it knows better than the
	// directory: too many sessions, or etcd out of its reach.
	if o.refusals > 1 && o.confirmed && !o.alarmed && !errors.Is(why, errRefused) {
		o.alarmed = true
		o.metrics.refusedTwice.WithLabelValues(string(rec.Home)).Inc()
		o.log.Error("refused twice at the same home and epoch: login or session held", "session", o.q.session, "user", string(o.q.user),
			"home", string(rec.Home), "epoch", uint64(rec.Epoch), "answer", why.Error())
	}
	return o.hold(ctx, rec)
}

// answer names a refusal for metrics.
func answer(why error) string {
	for _, e := range []error{errStale, errBusy} {
		if errors.Is(why, e) {
			return e.Error()
		}
	}
	return errRefused.Error()
}

// afterSilence waits a little for a backend that does not answer; a changed
// record ends the wait.
func (o *opening) afterSilence(ctx context.Context, rec director.Record, why error) (director.Record, error) {
	if !errors.Is(why, errSilent) {
		o.metrics.backendErrors.WithLabelValues(string(rec.Home)).Inc()
	}
	if o.deadHome != rec.Home {
		o.deadHome, o.deadSince, o.retry = rec.Home, o.began, retryEvery
		level := slog.LevelWarn
		if o.state != nil {
			level = slog.LevelDebug // all sessions of that backend are here
		}
		o.log.Log(ctx, level, "backend does not answer", "session", o.q.session, "user", string(o.q.user), "backend", string(rec.Home), "error", why)
	}
	patience := o.cfg.DeadWait
	if o.state != nil {
		patience = o.cfg.ResumeWait
	}
	left := patience - time.Since(o.deadSince)
	if left <= 0 || ctx.Err() != nil {
		return rec, fmt.Errorf("%w: backend %s: %w", prelogin.ErrTemporary, rec.Home, why)
	}
	next, err := o.waitChange(ctx, rec, min(left, o.jitter(o.retry)))
	if o.state != nil {
		o.retry = min(2*o.retry, slowestRetry)
	}
	if err == nil {
		return next, nil
	}
	return rec, nil // the next attempt, or the end of ctx there, decides
}

// afterInUse waits for the end of a session that the backend has not noticed to be
// over: the one that is to be resumed.
func (o *opening) afterInUse(ctx context.Context, rec director.Record) (director.Record, error) {
	o.deadHome = ""
	next, err := o.waitChange(ctx, rec, o.jitter(inUseEvery))
	switch {
	case err == nil:
		return next, nil
	case ctx.Err() != nil:
		return rec, fmt.Errorf("%w: %w", prelogin.ErrTemporary, context.Cause(ctx))
	}
	return rec, nil
}

// hold waits until the record is another than rec. An active rec it returns
// again after a while, for one more attempt: also when the store cannot be
// asked, for the home's own fence decides.
func (o *opening) hold(ctx context.Context, rec director.Record) (director.Record, error) {
	if !o.held && o.state == nil {
		o.held = true
		o.metrics.held.Inc()
		o.metrics.heldTotal.Inc()
		o.log.Info("login held", "session", o.q.session, "user", string(o.q.user), "record", rec.String())
	}
	pause := rereadEvery
	if rec.State == director.Active {
		pause = refusedEvery
	}
	for {
		next, err := o.waitChange(ctx, rec, o.jitter(pause))
		if err == nil {
			return next, nil
		}
		if ctx.Err() != nil {
			return rec, fmt.Errorf("%w: record stayed %q: %w", prelogin.ErrTemporary, rec, context.Cause(ctx))
		}
		next, err = o.dir.Fresh(ctx, o.q.user)
		switch {
		case err == nil && next != rec:
			return next, nil
		case err == nil:
			o.confirmed = true
		case errors.Is(err, director.ErrNotFound):
			return rec, directoryError(err)
		}
		if err := o.tellStill(); err != nil {
			return rec, fmt.Errorf("%w: client: %w", prelogin.ErrTemporary, err)
		}
		if rec.State == director.Active {
			return rec, nil
		}
	}
}

func (o *opening) waitChange(ctx context.Context, rec director.Record, d time.Duration) (director.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return o.dir.WaitChange(ctx, o.q.user, rec.Epoch)
}

func (o *opening) tellStill() error {
	if o.q.still == nil || time.Since(o.lastStill) < stillEvery {
		return nil
	}
	o.lastStill = time.Now()
	return o.q.still()
}

// jitter spreads what many sessions would do at once: between d/2 and 3d/2.
func (s *Server) jitter(d time.Duration) time.Duration {
	if s.deps.Jitter != nil {
		return s.deps.Jitter(d)
	}
	return d/2 + rand.N(d)
}

// statusError makes a Welcome that is not ok an answer of an attempt.
func statusError(w wire.Welcome) error {
	switch w.Status {
	case wire.StatusStale:
		return errStale
	case wire.StatusBusy:
		return errBusy
	case wire.StatusRefused:
		return errRefused
	case wire.StatusInUse:
		return prelogin.ErrInUse
	}
	return fmt.Errorf("backend answered %q", w.Status)
}
