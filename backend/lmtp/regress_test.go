package lmtp

import (
	"testing"

	"waypost/director"
)

// TestDisabled_onlyWhereTheUserLives: a home that is not the user's any more
// answers stale, and nothing for good.
func TestDisabled_onlyWhereTheUserLives(t *testing.T) {
	f := &fakeStore{}
	opt := options(f)
	opt.Accounts = func(director.User) (disabled, known bool) { return true, true }
	d := serve(t, opt)
	d.play(`
		S: 220 mx.test
		`)
}
