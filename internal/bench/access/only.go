package access

import (
	"fmt"
	"slices"
	"strings"
)

// The rows by short names, for Suite.Only: those that are read in all states, and the rest.
const (
	keySelect    = "select"
	keyFetch     = "fetch-"  // and the item
	keySearch    = "search-" // and the key
	keyPOPStat   = "pop3-stat"
	keyPOPList   = "pop3-list"
	keyPOPRetr   = "pop3-retr"
	keyLogin     = "login"
	keyAlone     = "login-alone"
	keyIdle      = "idle"
	keyStore     = "store"
	keyStoreOne  = "store-single"
	keyAppendOne = "append-single"
	keyAppend    = "append"
	keyMultiple  = "multiappend"
	keyCopy      = "copy"
	keyMove      = "move"
	keyExpunge   = "expunge"
	keyResync    = "resync"
)

func readKeys() []string {
	return []string{keySelect, keyFetch + "flags", keyFetch + "envelope", keyFetch + "bodystructure", keyFetch + "preview",
		keySearch + "subject", keySearch + "from", keySearch + "body", keyPOPStat, keyPOPList, keyPOPRetr}
}

func writeKeys() []string {
	return []string{keyStore, keyStoreOne, keyAppendOne, keyAppend, keyMultiple, keyCopy, keyMove, keyExpunge}
}

// RowNames are the short names that Suite.Only may have; those that are read may be preceded by a
// state, as in "cold:select".
func RowNames() []string {
	return slices.Concat(readKeys(), []string{keyLogin, keyAlone, keyIdle}, writeKeys(), []string{keyResync})
}

// prefix is how Only names a state: Restarted is what Cold is where we are not root.
func (s State) prefix() string {
	switch s {
	case NoIndex:
		return "new:"
	case Warm:
		return "warm:"
	default:
		return "cold:"
	}
}

// checkOnly fails for a name that no row has.
func (s *Suite) checkOnly() error {
	names := RowNames()
	for _, state := range []State{NoIndex, Warm, Cold} {
		for _, key := range readKeys() {
			names = append(names, state.prefix()+key)
		}
	}
	for _, only := range s.Only {
		if !slices.Contains(names, only) {
			return fmt.Errorf("%w: no row %q: want %s; what reads also with new:, warm: or cold: before it", ErrSuite, only, strings.Join(RowNames(), ", "))
		}
	}
	return nil
}

// wants tells whether a row is to be measured.
func (s *Suite) wants(state State, key string) bool { return chosen(s.Only, state, key) }

// chosen tells whether a row is among only; all are where that is empty.
func chosen(only []string, state State, key string) bool {
	return len(only) == 0 || slices.Contains(only, key) || slices.Contains(only, state.prefix()+key)
}

// wants tells whether a row is to be measured of this peer.
func (v *visit) wants(state State, key string) bool {
	return v.suite.wants(state, key) && chosen(v.peer.Rows, state, key)
}

// wantsAny tells whether one of them is.
func (v *visit) wantsAny(state State, keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return v.wants(state, key) })
}

// wantsLater tells whether a row is to be measured in a state that comes after NoIndex, in which
// the server has the mailbox's index.
func (v *visit) wantsLater(key string) bool { return v.wants(Warm, key) || v.wants(Cold, key) }

// wantsAnything tells whether there is a row for this peer.
func (v *visit) wantsAnything() bool {
	return v.wantsAny(NoIndex, readKeys()...) || v.wantsAny(Warm, RowNames()...) || v.wantsAny(Cold, readKeys()...)
}
