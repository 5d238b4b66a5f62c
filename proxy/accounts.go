package proxy

import (
	"hash/maphash"
	"slices"
	"strings"

	"waypost/director"
)

// accountMark is what of an account a session rests on: a digest of the
// password's hash, comparable within this process only.
type accountMark uint64

func (s *Server) mark(a director.Account) accountMark {
	return accountMark(maphash.String(s.seed, a.Hash))
}

// watch ends the sessions of accounts that may not go on: deleted, disabled,
// the service taken away, or the password another. A changed location ends
// nothing here: that is the backend's to do.
func (s *Server) watch(ch director.Change) {
	switch {
	case ch.Key == "":
		for _, u := range s.registry.users() {
			if acct, _, known := s.dir.Account(u); known {
				s.recheck(u, acct)
			} else if rec, known, stale := s.dir.Location(u); known && !stale && rec.State == director.Deleted {
				s.endUser(u)
			}
		}
	case strings.HasPrefix(ch.Key, director.PrefixAccount):
		u := director.User(strings.TrimPrefix(ch.Key, director.PrefixAccount))
		if ch.Deleted {
			s.endUser(u)
			return
		}
		if len(s.registry.of(u)) == 0 {
			return
		}
		if acct, err := director.DecodeAccount(ch.Value); err == nil {
			s.recheck(u, acct)
		}
	}
}

func (s *Server) endUser(u director.User) {
	for _, sess := range s.registry.of(u) {
		sess.end(errDisabled)
	}
}

func (s *Server) recheck(u director.User, acct director.Account) {
	mark := s.mark(acct)
	for _, sess := range s.registry.of(u) {
		if s.registry.markOf(sess) != mark || !mayUse(acct, sess.protocol) {
			sess.end(errDisabled)
		}
	}
}

// mayUse reports whether an account may use a service now.
func mayUse(a director.Account, service string) bool {
	return !a.Disabled && (len(a.Services) == 0 || slices.Contains(a.Services, service))
}
