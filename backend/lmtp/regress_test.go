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
	d.Play(hello + `
		C: MAIL FROM:<a@out.test> XDELIVERY=id-1
		C: RCPT TO:<ann@x.test> XHOME=b1 XEPOCH=6
		C: RCPT TO:<ann@x.test> XHOME=b1 XEPOCH=7
		S: 250 2.1.0 OK
		S: 451 4.3.0 [STALE] look the user up again
		S: 550 5.2.1 mailbox disabled`)
	d.Conn.Close()
	d.served.Wait()
	if f.open != 0 {
		t.Errorf("%d boxes left open", f.open)
	}
}
