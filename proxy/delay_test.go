package proxy

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"waypost/director"
	"waypost/proxy/prelogin"
)

func TestLoginDelay(t *testing.T) {
	now := time.Unix(1000, 0)
	d := newLoginDelay(time.Minute)
	d.now, d.most = func() time.Time { return now }, 3
	login := func(u director.User, early bool) func() {
		t.Helper()
		undo, err := d.login(u)
		if errors.Is(err, prelogin.ErrDelay) != early || !early && err != nil {
			t.Fatalf("%s: %v", u, err)
		}
		return undo
	}
	undo := login("a", false)
	login("a", true)
	undo()
	undo = login("a", false) // the first came to nothing
	now = now.Add(59 * time.Second)
	login("a", true)
	now = now.Add(time.Second)
	login("a", false)
	undo() // of the login before: this one counts
	login("a", true)
	for i := range 10 {
		login(director.User(fmt.Sprint(i)), false)
	}
	if len(d.last) > 3 || len(d.order) > 3 {
		t.Errorf("%d and %d are remembered", len(d.last), len(d.order))
	}
	none := newLoginDelay(0)
	for range 2 {
		if _, err := none.login("a"); err != nil {
			t.Error(err)
		}
	}
}

// TestLoginDelayOverTheWire: a second login is refused, one that came to nothing
// does not count, and IMAP has no delay.
func TestLoginDelayOverTheWire(t *testing.T) {
	h := newHouse(t)
	h.cfg.POP3LoginDelay = time.Hour
	b := h.add(newFakeBackend(t, "b1"))
	h.dir.set(alice, active("b1", 1))
	h.start()
	b.answer("in_use")
	h.dial("pop3").Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR [IN-USE] ...")
	b.answer("ok")
	h.pop3().Run(nil, "C: QUIT\nS: +OK bye\nEND")
	h.dial("pop3").Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR [LOGIN-DELAY] ...")
	h.imap()
	hellos := b.said()
	if p := hellos[1].POP3; p == nil || p.UTF8 || fmt.Sprint(p.Capabilities) != "[USER SASL PLAIN LOGIN LOGIN-DELAY 3600]" {
		t.Errorf("%+v", p)
	}
	if hellos[2].POP3 != nil {
		t.Errorf("%+v", hellos[2].POP3)
	}
}
