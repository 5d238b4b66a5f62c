package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/filter"
	"waypost/backend/mailbox"
	"waypost/backend/managesieve"
	"waypost/backend/outbox"
	"waypost/backend/scripts"
	"waypost/backend/sieve"
	"waypost/director"
	"waypost/internal/relayapi"
	"waypost/internal/vfs"
)

// sieveLimits bound what scripts may use; the defaults of package sieve.
var sieveLimits = sieve.Limits{Redirects: MaxRedirects}

// newFilter makes what decides about deliveries.
func (b *Server) newFilter() (*filter.Filter, error) {
	if b.cfg.SieveGlobal != "" {
		if st, err := os.Stat(b.cfg.SieveGlobal); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("backend %s: sieve_global: %s is no folder: %w", b.cfg.ID, b.cfg.SieveGlobal, err)
		}
	}
	return filter.New(filter.Options{
		Scripts: userScripts{b}, Stage: b, Before: b.cfg.SieveBefore, After: b.cfg.SieveAfter, Global: b.cfg.SieveGlobal,
		Account: func(u director.User) (director.Account, bool) {
			a, _, known := b.cache.Account(u)
			return a, known
		},
		Spam: score(b.cfg.SieveSpamHeader, b.cfg.SieveSpamMax), Virus: score(b.cfg.SieveVirusHeader, b.cfg.SieveVirusMax),
		Naming: b.naming, Hostname: b.cfg.Hostname, Limits: sieveLimits, Log: b.log, Now: time.Now,
	})
}

// score says where a verdict stands; nil for nowhere.
func score(header string, most float64) *sieve.Score {
	if header == "" {
		return nil
	}
	return &sieve.Score{Header: header, Max: most}
}

// userScripts reads users' scripts under their locks and fences.
type userScripts struct{ b *Server }

// with runs do on the scripts of the user of box, under the user's lock, if the
// fence is still at the box's epoch.
func (s userScripts) with(box mailbox.Box, do func(u *user, store *scripts.Store) error) error {
	h, ok := box.(*handle)
	if !ok {
		return fmt.Errorf("scripts of %s: a mailbox of another store", box.User())
	}
	leave, err := h.u.Enter(h.epoch)
	if err != nil {
		return err
	}
	defer leave()
	return do(h.u, scripts.New(vfs.OS, s.b.disk.live(h.u.name), scripts.Limits{}))
}

// Active implements filter.Scripts. It is kept with the open mailbox: only this
// process changes it.
func (s userScripts) Active(box mailbox.Box) (a scripts.Active, err error) {
	err = s.with(box, func(u *user, store *scripts.Store) error {
		if u.script == nil || u.acct == nil {
			a, err := store.Active()
			if errors.Is(err, scripts.ErrNonexistent) {
				s.b.log.Warn("the active script is not there", "user", u.name)
				err = nil
			}
			if err != nil {
				return err
			}
			u.script = &a
		}
		a = *u.script
		return nil
	})
	return a, err
}

// Script implements filter.Scripts.
func (s userScripts) Script(box mailbox.Box, name string) (src []byte, err error) {
	err = s.with(box, func(_ *user, store *scripts.Store) error {
		src, err = store.Get(name)
		return err
	})
	return src, err
}

// send hands an outbound message to an mx, the first that answers for its id.
func (b *Server) send(ctx context.Context, e outbox.Entry, message vfs.File) error {
	byAddr := b.mxNodes()
	addrs := slices.Sorted(maps.Keys(byAddr))
	if len(addrs) == 0 {
		return errors.New("no mx is alive")
	}
	var all error
	for _, addr := range relayapi.Order(e.ID, addrs) {
		if _, err := message.Seek(0, 0); err != nil {
			return err
		}
		c := relayapi.Client{HTTP: b.peers.http(addr, byAddr[addr]), Base: "https://" + addr}
		_, err := c.Send(ctx, relayapi.Message{ID: e.ID, Kind: e.Kind, User: string(e.User), From: e.From, To: e.To, UTF8: e.UTF8}, message)
		if err == nil {
			return nil
		}
		if relayapi.Permanent(err) {
			return fmt.Errorf("%w: %w", outbox.ErrRefused, err)
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", byAddr[addr], err))
	}
	return all
}

// newManageSieve makes the server of users' scripts.
func (b *Server) newManageSieve(reg prometheus.Registerer) *managesieve.Server {
	return managesieve.New(managesieve.Options{
		Extensions: sieve.Extensions(), Notify: sieve.NotifyMethods(), MaxRedirects: MaxRedirects,
		SASL: "PLAIN LOGIN", Log: b.log, Metrics: reg,
		Compile: func(name string, src []byte) (string, error) {
			s, err := sieve.Compile(name, src, sieveLimits)
			if err != nil {
				return "", err
			}
			var warnings []string
			for _, w := range s.Warnings() {
				warnings = append(warnings, w.Error())
			}
			return strings.Join(warnings, "\n"), nil
		},
	})
}

// MaxRedirects is what a script may redirect a message to.
const MaxRedirects = 4

// guarded gives the scripts of the user of box to a ManageSieve session.
func (s userScripts) guarded(box mailbox.Box) managesieve.Guarded {
	return managesieve.Guarded{Name: box.User(), Ended: box.Done(), Do: func(write bool, op func(*scripts.Store) error) error {
		return s.with(box, func(u *user, store *scripts.Store) error {
			if write {
				u.script = nil
			}
			return op(store)
		})
	}}
}
