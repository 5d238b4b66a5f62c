package backend

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/control"
	"waypost/director"
)

// sends has a session begin an APPEND of 8 MB, and sends most of it. It gives what is left to send.
func (r *rig) sends(c *rider) (left string) {
	r.t.Helper()
	text := "Subject: long\r\n\r\n" + strings.Repeat("0123456789abcdef", 8<<20/16)
	c.asks(fmt.Sprintf("a APPEND INBOX {%d}\r\n", len(text)), "+ ")
	const most = 5 << 20
	c.say(text[:most])
	eventually(r.t, "the backend tells of it", func() error {
		got, err := call[control.SendingReply](r, r.mover, "b1", control.PathSending, control.UserRequest{User: alice})
		if err == nil && got != (control.SendingReply{Sessions: 1, Bytes: int64(len(text) - most)}) {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})
	return text[most:] + "\r\n"
}

// TestSending: a backend tells who is in the middle of what can neither end after a freeze nor be
// carried, as long as he is.
func TestSending(t *testing.T) {
	r := newRig(t, "b1")
	r.two("b1")
	p := newFakeProxy(r)
	p.company() // whose literals are short
	c := p.ride("imap", "long")
	left := r.sends(c)
	for user, want := range map[string]int{string(alice): 1, "bob@example.test": 0} {
		got, err := call[control.SendingReply](r, r.mover, "b1", control.PathSending, control.UserRequest{User: director.User(user)})
		if err != nil || got.Sessions != want {
			t.Errorf("%s: %+v, %v", user, got, err)
		}
	}
	if _, err := call[control.SendingReply](r, r.admin, "b1", control.PathSending, control.UserRequest{User: alice}); !control.IsCode(err, control.CodeForbidden) {
		t.Errorf("an operator: %v", err)
	}
	c.asks(left, "a OK [APPENDUID ")
	got, err := call[control.SendingReply](r, r.mover, "b1", control.PathSending, control.UserRequest{User: alice})
	if err != nil || got.Sessions != 0 {
		t.Errorf("behind it: %+v, %v", got, err)
	}
}

// TestSendingWhileStopping: a backend that stops takes the rest, and hands the session off behind it.
func TestSendingWhileStopping(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.two("b1")
	c := newFakeProxy(r).ride("imap", "long")
	left := r.sends(c)
	b := r.nodes["b1"]
	cfg := b.cfg
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.stop()
	}()
	eventually(t, "b1 stops", func() error {
		if !b.stopping.Load() {
			return fmt.Errorf("it serves")
		}
		return nil
	})
	c.asks(left, "a OK [APPENDUID ")
	<-stopped
	if got := value(b.metrics.handedOff.WithLabelValues("stopping")); got != 1 {
		t.Errorf("%v sessions were handed off", got)
	}
	r.start(cfg)
	c.went(1)
	c.asks("b SELECT INBOX\r\n", "b OK ")
	if n := r.count("b1", rec.Epoch); n != 3 {
		t.Errorf("%d messages", n)
	}
}
