package relay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"waypost/internal/lmtp"
	"waypost/mx/spool"
	"waypost/mx/spool/entries"
)

// verdict is how an attempt ended for one recipient.
type verdict int

const (
	later verdict = iota
	delivered
	failed
)

// outcome is what an attempt learned of one recipient.
type outcome struct {
	verdict verdict
	status  string // enhanced code (RFC 3463)
	text    string // for people
	// remote: text is what the smarthost said; passed: it will report itself.
	remote bool
	passed bool
}

func (o outcome) String() string { return strings.TrimSpace(o.status + " " + o.text) }

// outcomes are by address.
type outcomes map[string]outcome

func putOff(err error) outcome { return outcome{verdict: later, status: "4.4.0", text: err.Error()} }

// judge reads the smarthost's answer. What refuses our own commands or login is
// not proven permanent.
func judge(r lmtp.Reply) outcome {
	o := outcome{verdict: later, status: r.Enhanced, text: strings.TrimSpace(fmt.Sprintf("%d %s", r.Code, strings.ReplaceAll(r.Text, "\n", " "))), remote: true}
	switch {
	case r.OK():
		o.verdict = delivered
	case !r.Permanent():
	case r.Code == 501 && strings.HasPrefix(r.Enhanced, "5.1."):
		o.verdict = failed
	case r.Code <= 504 || r.Code == 555 || loginTrouble(r):
	default:
		o.verdict = failed
	}
	if o.status == "" {
		o.status = fmt.Sprintf("%d.0.0", r.Code/100)
	}
	if o.verdict == later && o.status[0] == '5' {
		o.status = "4" + o.status[1:]
	}
	return o
}

// loginTrouble: the smarthost wants other credentials (RFC 4954, Section 6).
func loginTrouble(r lmtp.Reply) bool {
	return r.Code == 530 || r.Code == 534 || r.Code == 535 || r.Code == 538
}

// attempt is one try of an entry.
type attempt struct {
	q   *Queue
	env Envelope // as it is on disk, unless dirty
	log *slog.Logger
	// dirty: a change could not be written.
	dirty error
	// hold: the smarthost is not to be used before. Such an attempt counts not.
	hold time.Time
	// soon: go on at once, and count not.
	soon bool
}

func (q *Queue) attempt(ctx context.Context, it *item, id laneID) {
	q.mu.Lock()
	a := &attempt{q: q, env: it.env, log: q.log.With("relay", it.env.ID)}
	dirty := it.dirty
	n := it.attempts
	q.mu.Unlock()
	before := len(a.env.Recipients)
	if dirty { // first of all
		a.dirty = errUnwritten
		a.settle(outcomes{})
	}
	if a.dirty == nil && before > 0 {
		switch id {
		case inward:
			a.inward(ctx)
		case outward:
			a.outward(ctx)
		}
	}
	if ctx.Err() == nil && a.hold.IsZero() {
		a.log.Info("relay entry tried", "attempt", n+1, "settled", before-len(a.env.Recipients), "left", len(a.env.Recipients))
	}
	q.finish(it, a, id)
}

// inward finds out what the recipients mean that were not looked at yet. Those
// of this cluster are spooled in one entry; members of lists who are outside
// become recipients.
func (a *attempt) inward(ctx context.Context) {
	res := outcomes{}
	var local []string
	var users []spool.Recipient
	next := slices.Clone(a.env.Recipients)
	for i, r := range next {
		if r.Outside || ctx.Err() != nil {
			continue
		}
		if r.Taken {
			res[r.To] = outcome{verdict: delivered, status: "2.1.5", text: "accepted by the recipient's mail server"}
			continue
		}
		m, err := a.q.deps.Resolve(ctx, r.To)
		switch {
		case errors.Is(err, ErrUnknown):
			res[r.To] = outcome{verdict: failed, status: "5.1.1", text: "No such user here"}
		case err != nil:
			res[r.To] = putOff(err)
		case m.Foreign:
			next[i].Outside = true
		default:
			local = append(local, r.To)
			users = append(users, m.Users...)
			for _, to := range m.Outside {
				next = append(next, Recipient{To: to, Outside: true, Notify: r.Notify})
			}
		}
	}
	next = distinct(next)
	if len(users) > 0 {
		if err := a.deliver(users); err != nil {
			for _, to := range local {
				res[to] = putOff(err)
			}
			a.settle(res) // the lists' members come with the next attempt
			return
		}
	}
	for _, to := range local {
		res[to] = outcome{verdict: delivered, status: "2.0.0", text: "delivered in this cluster"}
	}
	a.env.Recipients = next
	a.dirty = errUnwritten
	a.settle(res)
	a.soon = a.env.anyOutside()
}

// errUnwritten has settle write the envelope in any case.
var errUnwritten = errors.New("envelope not written yet")

// deliver spools the message for users of this cluster, under an id that comes
// of the entry's and theirs: again it is a no-op.
func (a *attempt) deliver(users []spool.Recipient) error {
	var distinct []spool.Recipient
	names := []string{a.env.ID}
	for _, u := range users {
		if !slices.ContainsFunc(distinct, func(x spool.Recipient) bool { return x.User == u.User }) {
			distinct = append(distinct, u)
			names = append(names, string(u.User))
		}
	}
	slices.Sort(names[1:])
	d, err := a.q.store.DraftOf(entries.Queue, a.env.ID)
	if err != nil {
		return err
	}
	defer d.Discard()
	id := derivedID("in", names...)
	err = a.q.deps.Inward.Add(d, spool.Envelope{ID: id, Sender: a.env.From, Recipients: distinct, Received: time.Now(),
		EightBit: a.env.EightBit, UTF8: a.env.UTF8}, 0)
	if err != nil && !exists(err) {
		return fmt.Errorf("deliver in this cluster: %w", err)
	}
	a.log.Info("relay entry goes inward", "delivery", id, "users", len(distinct))
	return nil
}

// derivedID is an id that is the same for the same parts.
func derivedID(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(kind + "\n" + strings.Join(parts, "\n")))
	return kind + "-" + hex.EncodeToString(sum[:20])
}

// outward sends to those outside, in batches by route and domain, and settles
// each batch before the next.
func (a *attempt) outward(ctx context.Context) {
	groups := map[Route][]Recipient{}
	res := outcomes{}
	for _, r := range a.env.Recipients {
		if !r.Outside {
			continue
		}
		route, err := a.q.deps.Route(ctx, domainOf(r.To))
		if err != nil {
			res[r.To] = putOff(err)
			continue
		}
		groups[route] = append(groups[route], r)
	}
	if len(res) > 0 {
		a.settle(res)
	}
	for route, rs := range groups {
		slices.SortStableFunc(rs, func(x, y Recipient) int { return strings.Compare(domainOf(x.To), domainOf(y.To)) })
		h := a.q.hosts.of(route)
		for batch := range slices.Chunk(rs, a.q.cfg.BatchRecipients) {
			if ctx.Err() != nil {
				return
			}
			res, err := a.send(ctx, h, batch)
			var held *holdError
			if errors.As(err, &held) {
				a.heldBack(held, rs)
				break
			}
			for _, o := range res {
				a.q.met.attempts.WithLabelValues(results[o.verdict]).Inc()
			}
			if a.settle(res); a.dirty != nil {
				return
			}
		}
	}
}

// heldBack: nothing can be sent now, which is nothing new of the recipients,
// unless their time is over.
func (a *attempt) heldBack(held *holdError, rs []Recipient) {
	a.hold = held.until
	a.log.Debug("relay entry waits for the smarthost", "err", held)
	res := outcomes{}
	for _, r := range rs {
		if slices.ContainsFunc(a.env.Recipients, func(x Recipient) bool { return x.To == r.To }) {
			res[r.To] = putOff(held.err)
		}
	}
	a.settle(res)
}

// started is when the time began that the entry has.
func (e Envelope) started() time.Time {
	if !e.Revived.IsZero() {
		return e.Revived
	}
	return e.Received
}
