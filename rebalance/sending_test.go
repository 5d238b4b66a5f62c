package rebalance

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// TestSendingText: what WAITING says.
func TestSendingText(t *testing.T) {
	for want, r := range map[string]control.SendingReply{
		"a client is in the middle of sending a long message":                  {Sessions: 1},
		"a client is in the middle of sending a long message, 5 MB to come":    {Sessions: 1, Bytes: 4_000_001},
		"2 clients are in the middle of sending a long message, 20 MB to come": {Sessions: 2, Bytes: 20_000_000},
	} {
		if got := sendingText(r); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}

// sendingWorld has a source of whose user so many sessions are sending, and counts the target's hot
// passes.
func sendingWorld(t *testing.T) (w *world, sessions, passes, asked *atomic.Int32) {
	t.Helper()
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	sessions, passes, asked = new(atomic.Int32), new(atomic.Int32), new(atomic.Int32)
	sessions.Store(1)
	w.nodes["b1"].onSending = func() (control.SendingReply, error) {
		asked.Add(1)
		return control.SendingReply{Sessions: int(sessions.Load()), Bytes: 7_000_000}, nil
	}
	w.nodes["b2"].onPull = func(_ context.Context, req control.PullRequest, _ func(control.PullProgress)) error {
		if !req.Final {
			passes.Add(1)
		}
		return nil
	}
	return w, sessions, passes, asked
}

func waiting(d time.Duration) Config {
	return Config{ID: "r1", SendingEvery: time.Millisecond, SendingWait: &d}
}

// TestWaitsForWhoIsSending: the user is not busy before the message is there, and what came meanwhile
// is copied before.
func TestWaitsForWhoIsSending(t *testing.T) {
	w, sessions, passes, asked := sendingWorld(t)
	w.plan(t, "b2", "m1")
	w.moverWith(t, waiting(time.Hour), new(atomic.Int32), 0)
	_, r := w.wait(t, "the move waits", func(m director.Move, _ director.Record) bool {
		return m.Waiting == "a client is in the middle of sending a long message, 7 MB to come" && asked.Load() > 3
	})
	if r.State != director.Active || passes.Load() != 1 {
		t.Errorf("record %s after %d passes", r, passes.Load())
	}
	if !w.deliver(t.Context(), "meanwhile") {
		t.Error("the user is held")
	}
	sessions.Store(0)
	m, _ := w.wait(t, "the move", finished)
	if m.Phase != director.PhaseDone || m.Waiting != "" || passes.Load() != 2 {
		t.Errorf("journal %+v after %d passes", m, passes.Load())
	}
	w.check(t, []string{"first", "meanwhile"})
}

// TestSendingHasAnEnd: a client that does not end is not waited for for ever, one of whom nobody knows
// not at all, and nobody is where that is switched off.
func TestSendingHasAnEnd(t *testing.T) {
	for name, x := range map[string]struct {
		patience      time.Duration
		old           bool
		passes, asked int32 // at least
	}{
		"patience": {patience: 20 * time.Millisecond, passes: 2, asked: 1},
		"off":      {passes: 1},
		"old":      {patience: time.Hour, old: true, passes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, passes, asked := sendingWorld(t)
			if x.old {
				w.nodes["b1"].onSending = nil
			}
			w.plan(t, "b2", "m1")
			w.moverWith(t, waiting(x.patience), new(atomic.Int32), 0)
			m, _ := w.wait(t, "the move", finished)
			if m.Phase != director.PhaseDone || m.Waiting != "" || passes.Load() != x.passes || asked.Load() < x.asked || x.asked == 0 && asked.Load() > 0 {
				t.Errorf("journal %+v, %d passes, asked %d times", m, passes.Load(), asked.Load())
			}
			w.check(t, []string{"first"})
		})
	}
}
