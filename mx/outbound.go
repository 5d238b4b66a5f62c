package mx

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/lmtp"
	"waypost/mx/relay"
	"waypost/mx/spool"
)

// openRelay opens the queue of what leaves. It lies within the spool's folder,
// because entries of both share their messages by hard links.
func (srv *Server) openRelay(deps Deps) (err error) {
	srv.relay, err = relay.Open(filepath.Join(srv.cfg.SpoolDir, "relay"), srv.cfg.Relay, relay.Deps{
		Hostname: srv.cfg.Hostname, Inward: srv.spool, Resolve: srv.meaning, Log: srv.log, Metrics: deps.Metrics, MemoryBytes: srv.cfg.MemoryBytes,
	})
	return err
}

// resolve finds what an address leads to here.
func (srv *Server) resolve(ctx context.Context, address string) (cache.Resolution, error) {
	ctx, cancel := context.WithTimeout(ctx, srv.cfg.DirectoryTimeout)
	defer cancel()
	res, err := srv.dir.Resolve(ctx, address)
	if errors.Is(err, cache.ErrUnknownDomain) && srv.isPostmaster(address) {
		return srv.dir.Resolve(ctx, "postmaster")
	}
	return res, err
}

// meaning is what the relay asks of an address.
func (srv *Server) meaning(ctx context.Context, address string) (relay.Meaning, error) {
	var m relay.Meaning
	res, err := srv.resolve(ctx, address)
	switch {
	case errors.Is(err, cache.ErrUnknownDomain):
		m.Foreign = true
		return m, nil
	case err != nil && !errors.Is(err, cache.ErrUnknownUser):
		return m, err
	}
	if m.Outside, err = srv.outsiders(ctx, res.Unresolved); err != nil {
		return m, err
	}
	for _, to := range res.Recipients {
		r := spool.Recipient{User: to.User, Folder: to.Folder}
		if rec, known, _ := srv.dir.Location(to.User); known {
			r.Home, r.Epoch = rec.Home, rec.Epoch
		}
		if a, _, known := srv.dir.Account(to.User); known {
			r.AccountCreated = a.Created
		}
		m.Users = append(m.Users, r)
	}
	if len(m.Users)+len(m.Outside) == 0 {
		return m, fmt.Errorf("%s: %w", address, relay.ErrUnknown)
	}
	return m, nil
}

// outsiders are the members of lists that are addresses of other domains; those
// of ours who are gone lead nowhere.
func (srv *Server) outsiders(ctx context.Context, members []string) (out []string, err error) {
	for _, m := range members {
		_, err := srv.resolve(ctx, m)
		switch {
		case errors.Is(err, cache.ErrUnknownDomain) && canLeave(m):
			out = append(out, m)
		case err == nil, errors.Is(err, cache.ErrUnknownDomain), errors.Is(err, cache.ErrUnknownUser):
		default:
			return nil, err
		}
	}
	return out, nil
}

// canLeave reports whether an address is one that the smarthost can be given:
// with a domain, not a host's number.
func canLeave(address string) bool {
	at := strings.LastIndexByte(address, '@')
	domain := address[at+1:]
	return at > 0 && strings.Contains(domain, ".") && !strings.ContainsAny(domain, "[]: ") && lmtp.CheckAddress(address) == nil
}

// mayUse says whether the user may send by that address, which is to lead to
// the user; the null sender is everybody's.
func (srv *Server) mayUse(ctx context.Context, u director.User, from string) *smtp.SMTPError {
	owns, err := srv.owns(ctx, u, from)
	switch {
	case from == "" || owns:
		return nil
	case err != nil:
		return replyLater
	}
	return replyNotYours
}

// owns reports whether an address leads to the user. An error is temporary.
func (srv *Server) owns(ctx context.Context, u director.User, address string) (bool, error) {
	if address == "" {
		return false, nil
	}
	if base, _ := director.SplitSubaddress(address); base == string(u) {
		return true, nil
	}
	res, err := srv.resolve(ctx, address)
	if errors.Is(err, cache.ErrUnknownUser) || errors.Is(err, cache.ErrUnknownDomain) {
		return false, nil
	}
	return slices.ContainsFunc(res.Recipients, func(r cache.Recipient) bool { return r.User == u }), err
}

// outward are those of a message who are outside, and what its submitter wants
// to hear.
type outward struct {
	user     director.User // logged in; empty: nobody is
	ret      string
	envid    string
	rcpts    []relay.Recipient
	notified []relay.Recipient // of this cluster, who wants to hear of success
}

// leaving gives those whom an address leads to outside, and the error that is
// left of its look-up. Only who is logged in may name outsiders; members of our
// lists get what their list gets.
func (t *transaction) leaving(ctx context.Context, address string, res cache.Resolution, err error) ([]string, error) {
	switch {
	case !t.srv.relay.Enabled():
	case errors.Is(err, cache.ErrUnknownDomain) && t.out.user != "":
		if canLeave(address) {
			return []string{address}, nil
		}
		return nil, errCannotLeave
	case len(res.Unresolved) > 0 && (err == nil || errors.Is(err, cache.ErrUnknownUser)):
		out, oerr := t.srv.outsiders(ctx, res.Unresolved)
		if oerr != nil {
			return nil, oerr
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, err
}

// errCannotLeave: an address that no smarthost can be given.
var errCannotLeave = errors.New("not a usable address of another domain")

// limited refuses what would be over the user's limit.
func (t *transaction) limited(more int) *smtp.SMTPError {
	if t.out.user == "" || more == 0 {
		return nil
	}
	var limit *relay.LimitError
	if errors.As(t.srv.relay.Check(t.out.user, len(t.out.rcpts)+more), &limit) {
		t.srv.met.refused.WithLabelValues("limited").Inc()
		t.log.Warn("recipient refused: the user's limit", "limit", limit.Limit, "per", limit.Per)
		return replyLimited(limit)
	}
	return nil
}

func replyLimited(e *relay.LimitError) *smtp.SMTPError {
	return answer(450, "4.7.1", fmt.Sprintf("You may send to %d recipients outside within a %s: try again later", e.Limit, e.Per))
}

// addOutside adds them, each once, with the DSN parameters of the RCPT.
func (t *transaction) addOutside(addresses []string, opts *smtp.RcptOptions) {
	for _, to := range addresses {
		if slices.ContainsFunc(t.out.rcpts, func(r relay.Recipient) bool { return r.To == to }) {
			continue
		}
		t.out.rcpts = append(t.out.rcpts, relayRecipient(to, opts))
		t.log.Info("recipient is outside", "rcpt", to)
	}
}

func relayRecipient(to string, opts *smtp.RcptOptions) relay.Recipient {
	r := relay.Recipient{To: to, Outside: true}
	if opts == nil {
		return r
	}
	for _, n := range opts.Notify {
		r.Notify = append(r.Notify, string(n))
	}
	if opts.OriginalRecipient != "" {
		r.Original = strings.ToLower(string(opts.OriginalRecipientType)) + ";" + opts.OriginalRecipient
	}
	return r
}

// notifyLocal remembers that success is to be told of a recipient of ours (RFC
// 3461, Section 5.2.2); homes tell nobody.
func (t *transaction) notifyLocal(address string, opts *smtp.RcptOptions) {
	if t.out.user == "" || opts == nil || !slices.Contains(opts.Notify, smtp.DSNNotifySuccess) {
		return
	}
	r := relayRecipient(address, opts)
	r.Outside, r.Taken = false, true
	t.out.notified = append(t.out.notified, r)
}

// relayEnvelope is the entry of those outside; false: there is nobody.
func (t *transaction) relayEnvelope() (relay.Envelope, bool) {
	e := relay.Envelope{
		ID: t.id, Kind: relay.Forward, User: t.out.user, From: t.sender, Received: t.trace.date, EightBit: t.eightBit, UTF8: t.utf8,
		Return: t.out.ret, EnvelopeID: t.out.envid, Recipients: slices.Concat(t.out.rcpts, t.out.notified),
	}
	if t.out.user != "" {
		// The sender was found to be an address of the user's at MAIL.
		e.Kind, e.Reports = relay.Submission, t.sender != ""
		if a, _, ok := t.srv.dir.Account(t.out.user); ok {
			e.UserCreated = a.Created
		}
	}
	return e, len(e.Recipients) > 0
}
