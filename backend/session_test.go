package backend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/frames"
	"waypost/internal/wire"
)

// A proxy of before frames has a connection for each session; a present one has many
// sessions on one. Both are answered by the same rules, and see the same mailbox.
func TestSessionsPlainAndInFrames(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "Subject: one\r\n\r\nhello\r\n"))
	proxy := r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dial := func() interface {
		io.ReadWriteCloser
		SetDeadline(time.Time) error
	} {
		c, err := proxy.Dial(ctx, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, cluster.ProtoSession)
		r.must(err)
		r.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
		return c
	}
	hello := func(protocol string, epoch director.Epoch) wire.Hello {
		return wire.Hello{Version: wire.Version, Protocol: protocol, User: string(alice), Home: "b1", Epoch: uint64(epoch), Client: "192.0.2.1:1", Session: protocol}
	}
	stat := func(c io.ReadWriter, br *bufio.Reader) {
		t.Helper()
		_, err := io.WriteString(c, "STAT\r\nQUIT\r\n")
		r.must(err)
		line, err := br.ReadString('\n')
		r.must(err)
		if !strings.HasPrefix(line, "+OK 1 ") {
			t.Errorf("STAT: %q", line)
		}
		if _, err := io.ReadAll(br); err != nil {
			t.Errorf("the end: %v", err)
		}
	}

	for epoch, want := range map[director.Epoch]wire.Status{rec.Epoch: wire.StatusOK, rec.Epoch + 7: wire.StatusStale} {
		c := dial()
		br := bufio.NewReader(c)
		var w wire.Welcome
		r.must(wire.Write(c, hello("pop3", epoch)))
		r.must(wire.Read(br, &w))
		if w.Status != want || w.Version != 0 {
			t.Errorf("plain, epoch %d: %+v", epoch, w)
		}
		if w.Status == wire.StatusOK {
			stat(c, br)
		}
		c.Close()
	}

	conn, err := proxy.Dial(ctx, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, cluster.ProtoSession)
	r.must(err)
	link, err := frames.Dial(ctx, conn, frames.Options{})
	r.must(err)
	defer link.Close()
	if s, w, err := link.Open(ctx, hello("pop3", rec.Epoch+7)); s != nil || w.Status != wire.StatusStale || err != nil {
		t.Errorf("in frames, stale: %+v, %v", w, err)
	}
	imap, w, err := link.Open(ctx, hello("imap", rec.Epoch))
	r.must(err)
	if w.Status != wire.StatusOK {
		t.Fatalf("imap: %+v", w)
	}
	r.must(imap.SetDeadline(time.Now().Add(20 * time.Second)))
	greeting, err := bufio.NewReader(imap).ReadString('\n')
	r.must(err)
	if !strings.HasPrefix(greeting, "* PREAUTH ") {
		t.Errorf("greeting: %q", greeting)
	}
	pop, w, err := link.Open(ctx, hello("pop3", rec.Epoch))
	r.must(err)
	if w.Status != wire.StatusOK {
		t.Fatalf("pop3: %+v", w)
	}
	r.must(pop.SetDeadline(time.Now().Add(20 * time.Second)))
	list, err := call[[]control.Session](r, r.admin, "b1", control.PathSessions, control.SessionsRequest{User: alice})
	if err != nil || len(list) != 2 {
		t.Errorf("listed: %+v, %v", list, err)
	}
	stat(pop, bufio.NewReader(pop))
	r.must(imap.HangUp())
	eventually(t, "the session ends with its client", func() error {
		_, err := io.Copy(io.Discard, imap)
		return err
	})
}

// A login whose answer was lost is tried again, under the same id, over another connection: what it
// left, of which the backend has not heard that it is lost, gives the maildrop back.
func TestLoginTriedAgain(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	proxy := r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	login := func(id string) (*frames.Stream, wire.Status) {
		conn, err := proxy.Dial(ctx, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, cluster.ProtoSession)
		r.must(err)
		link, err := frames.Dial(ctx, conn, frames.Options{HandOff: true})
		r.must(err)
		t.Cleanup(func() { link.Close() })
		s, w, err := link.Open(ctx, wire.Hello{Version: wire.Version, Protocol: "pop3", User: string(alice), Home: "b1", Epoch: uint64(rec.Epoch),
			Client: "192.0.2.1:1", Session: id})
		r.must(err)
		return s, w.Status
	}
	for range 3 {
		if _, st := login("again"); st != wire.StatusOK {
			t.Fatalf("the login, tried again: %s", st)
		}
	}
	if _, st := login("another"); st != wire.StatusInUse {
		t.Errorf("another one: %s", st)
	}
	eventually(t, "one session is left", func() error {
		list, err := call[[]control.Session](r, r.admin, "b1", control.PathSessions, control.SessionsRequest{User: alice})
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%+v", list)
		}
		return err
	})
}
