// Package filter decides what becomes of a message at its delivery: it runs the
// site's Sieve scripts and the user's, the account's own reply and forwards, and
// makes of what they ask one plan for the store.
//
// # Contract
//
// Nothing a script does loses a message. A script that fails keeps it in INBOX; one
// that does not compile any more counts as none, and the site's scripts run all the
// same. Of the own script the user is told by a message in INBOX, once a day; of the
// site's the operator, by the log. A rejection is said in the session; a message
// that an mx has accepted before can only be kept (nothing is ever bounced to an
// outside sender). A message that this user has redirected or forwarded before is
// kept, and not sent again. A folder that is named more than once gets one copy.
//
// What the store cannot do now (a fence that moved on, a disk that does not answer)
// is no script's fault: Run fails, and the message comes again. The plans of two
// runs of one delivery have the same ids for what is to be sent, as long as no
// script or account was changed in between; those of different users differ.
//
// Scripts are compiled once and kept by name and digest of their source. A Filter
// holds no other state: vacation and duplicate memories are the mailbox's, and become
// durable with the delivery. It is safe for concurrent use.
//
// Covered: what RFC 5228, RFC 5230, RFC 5429 and RFC 5435 leave to the delivery
// agent; package sieve has the language.
package filter

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"waypost/backend/lmtp"
	"waypost/backend/mailbox"
	"waypost/backend/scripts"
	"waypost/backend/sieve"
	"waypost/director"
)

// Scripts gives the Sieve scripts of the user of a mailbox. Their errors are
// temporary, but for those that are named.
type Scripts interface {
	// Active gives the active script; without a name there is none.
	Active(box mailbox.Box) (scripts.Active, error)
	// Script gives a script for include: scripts.ErrNonexistent, ErrBadName.
	Script(box mailbox.Box, name string) ([]byte, error)
}

// Options are what a Filter is made of. Before, After and Global may be empty,
// Spam and Virus nil; all else is required.
type Options struct {
	Scripts Scripts
	Account func(director.User) (director.Account, bool)
	// Stage takes in messages that are made or changed here.
	Stage mailbox.Store
	// Before and After are files of scripts that run before and after each
	// user's; Global is the folder of scripts for include :global.
	Before, After []string
	Global        string
	// Naming is how scripts and subaddresses call folders.
	Naming mailbox.Naming
	// Hostname is this backend's.
	Hostname    string
	Limits      sieve.Limits
	Spam, Virus *sieve.Score
	Log         *slog.Logger
	Now         func() time.Time
}

// Filter implements lmtp.Filter.
type Filter struct {
	o             Options
	before, after []compiled
	cache         *cache
}

var _ lmtp.Filter = (*Filter)(nil)

// New compiles the site's scripts.
func New(o Options) (*Filter, error) {
	f := &Filter{o: o, cache: newCache(o.Limits)}
	var err error
	if f.before, err = compileSite(o.Before, o.Limits); err != nil {
		return nil, err
	}
	if f.after, err = compileSite(o.After, o.Limits); err != nil {
		return nil, err
	}
	return f, nil
}

// MayReject implements lmtp.Filter. What a script includes may reject as well.
func (f *Filter) MayReject(box mailbox.Box) bool {
	for _, site := range slices.Concat(f.before, f.after) {
		if site.rejects {
			return true
		}
	}
	a, err := f.o.Scripts.Active(box)
	if err != nil || a.Name == "" {
		return false // Run will meet the error, too
	}
	return f.cache.compile(a.Name, a.Source, a.Stamp).rejects
}

// Run implements lmtp.Filter.
func (f *Filter) Run(ctx context.Context, in lmtp.Incoming) (lmtp.Plan, error) {
	r := &run{Filter: f, ctx: ctx, in: in, user: in.Box.User()}
	r.account, _ = f.o.Account(r.user)
	r.plan.Discard = r.discard
	err := r.scripts()
	if err == nil && r.plan.Reject == "" {
		err = r.accountRules()
	}
	if err != nil {
		return r.plan, fmt.Errorf("filter for %s: %w", r.user, err)
	}
	if r.notice != nil {
		r.plan.Places = append(r.plan.Places, *r.notice)
	}
	// Another message may be answered at this very moment: the commit looks again.
	for _, m := range r.plan.Memories {
		if r.unknown[m.Key] {
			r.plan.Assumes = append(r.plan.Assumes, m.Key)
		}
	}
	return r.plan, nil
}

// run is one message for one recipient.
type run struct {
	*Filter
	ctx     context.Context
	in      lmtp.Incoming
	user    director.User
	account director.Account
	plan    lmtp.Plan
	message sieve.Message
	staged  []mailbox.Staged
	// edited are messages made of a header that a script has changed.
	edited map[*sieve.Header]mailbox.Staged
	// mustKeep: something was asked for that cannot be done, so that the message
	// has to be somewhere in the mailbox.
	mustKeep bool
	// answered: a script has planned a vacation reply.
	answered bool
	// notice tells the user of a script that fails.
	notice *mailbox.Place
	// unknown are the keys that were not remembered when they were asked for.
	unknown map[string]bool
	// trouble is the first error that is no script's fault.
	trouble error
}

func (r *run) discard() {
	for _, m := range r.staged {
		m.Discard()
	}
}

// sequence gives the scripts to run: the site's, the user's, the site's.
func (r *run) sequence() (list []*sieve.Script, err error) {
	for _, s := range r.before {
		list = append(list, s.script)
	}
	a, err := r.o.Scripts.Active(r.in.Box)
	if err != nil {
		return nil, err
	}
	if a.Name != "" {
		own := r.cache.compile(a.Name, a.Source, a.Stamp)
		if own.err != nil {
			r.failed(own.err)
		} else {
			list = append(list, own.script)
		}
	}
	for _, s := range r.after {
		list = append(list, s.script)
	}
	return list, nil
}

func (r *run) scripts() error {
	list, err := r.sequence()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return r.keep(nil, nil)
	}
	result, err := sieve.Run(r.ctx, list, r.look(), r.environment(), r.o.Limits)
	if err := r.judge(err); err != nil {
		return err
	}
	for _, m := range result.Memories {
		r.plan.Memories = append(r.plan.Memories, mailbox.Memory(m))
	}
	for _, a := range result.Actions {
		if err := r.do(a); err != nil {
			return err
		}
	}
	if r.mustKeep && len(r.plan.Places) == 0 {
		return r.keep(nil, nil)
	}
	return nil
}

// judge parts what a script is to blame for, which is told, from what is
// temporary, which it returns.
func (r *run) judge(err error) error {
	failed := new(sieve.RunError)
	switch {
	case err == nil:
		return nil
	case r.trouble != nil || r.ctx.Err() != nil:
		return cmp.Or(r.trouble, r.ctx.Err())
	case !errors.As(err, &failed):
		return err
	case ofSite(failed.Script):
		r.o.Log.Error("filter: a script of the site failed; the message is kept", "id", r.in.ID, "user", r.user, "error", err)
		return nil
	}
	r.failed(err)
	return nil
}

// ours notes an error that is no script's fault.
func (r *run) ours(err error) error {
	r.trouble = cmp.Or(r.trouble, err)
	return err
}

// look gives the message as scripts see it. Its header is read once.
func (r *run) look() sieve.Message {
	if r.message == nil {
		r.message = sieve.NewMessage(r.in.Message.WireSize(), r.open)
	}
	return r.message
}

// out plans an outbound message. Its id is the same when the delivery is
// repeated; the mx know no more of it, so that the user is in it: one message for
// two users has one delivery id.
func (r *run) out(kind, from string, to []string, m mailbox.Staged) {
	all := make([]string, len(to))
	for i, one := range to {
		all[i] = bare(one)
	}
	user := sha256.Sum256([]byte(r.user))
	id := fmt.Sprintf("%s.%s.%s.%d", r.in.ID, hex.EncodeToString(user[:8]), kind, len(r.plan.Outbound))
	r.plan.Outbound = append(r.plan.Outbound, mailbox.Outbound{UTF8: r.in.UTF8, ID: id, Kind: kind, From: from, To: all, Message: m})
}
