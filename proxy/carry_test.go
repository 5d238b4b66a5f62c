package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"

	"waypost/internal/frames"
	"waypost/internal/wire"
	"waypost/proxy/proxytest"
)

// carrier is a fake backend's play that hands off and goes on. It answers each line with
// itself, and some in other ways; its state is whether COMPRESS is on, and what it has read
// beyond.
func (b *fakeBackend) carry(h wire.Hello, c net.Conn, _ *bufio.Reader) {
	if h.Protocol == protoIMAP {
		fmt.Fprint(c, "* PREAUTH [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE] ready\r\n")
	}
	b.engine(c.(*frames.Stream), nil)
}

// goOn is a session that is resumed.
func (b *fakeBackend) goOn(h wire.Hello, s *frames.Stream) {
	b.mu.Lock()
	b.resumed = append(b.resumed, h)
	status, resume := b.status, b.resume
	b.mu.Unlock()
	if resume != nil {
		resume(h, s)
		return
	}
	state := s.State()
	if s.Welcome(wire.Welcome{Status: status}) == nil && status == wire.StatusOK {
		b.engine(s, state)
	}
}

func (b *fakeBackend) engine(s *frames.Stream, unread []byte) {
	b.mu.Lock()
	b.streams[s] = true
	b.mu.Unlock()
	defer func() { b.mu.Lock(); defer b.mu.Unlock(); delete(b.streams, s) }()
	buf := make([]byte, 4096)
	for {
		for {
			line, rest, ok := bytes.Cut(unread, []byte("\n"))
			if !ok {
				break
			}
			unread = rest
			if !b.line(s, string(line)+"\n", unread) {
				return
			}
		}
		n, err := s.Read(buf)
		unread = append(unread, buf[:n]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = s.HandOff(unread)
			return
		case err == io.EOF && s.ClientGone():
			fmt.Fprintf(s, "%s: %q left\r\n", b.id, unread)
			return
		case err != nil:
			return
		}
	}
}

// line executes one, and tells whether the session goes on.
func (b *fakeBackend) line(s *frames.Stream, line string, unread []byte) bool {
	var err error
	switch strings.TrimSpace(line) {
	case "a COMPRESS DEFLATE":
		if _, err = io.WriteString(s, "a OK begin\r\n"); err == nil {
			err = s.Compress()
		}
	case "COMPRESS and let go":
		if _, err = io.WriteString(s, "a OK begin\r\n"); err == nil && s.Compress() == nil {
			_ = s.HandOff(unread)
		}
		return false
	case "big":
		_, err = s.Write(bytes.Repeat([]byte("0123456789abcde\n"), 1<<16))
	case "big and let go":
		if _, err = s.Write(bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)); err == nil {
			_ = s.HandOff(unread)
		}
		return false
	case "literal and let go":
		if _, err = io.WriteString(s, "* 1 FETCH (BODY[] {20}\r\nSubject: x\r\n"); err == nil {
			_ = s.HandOff(unread)
		}
		return false
	case "where":
		_, err = fmt.Fprintf(s, "%s\r\n", b.id)
	case "LOGOUT":
		_, _ = io.WriteString(s, "* BYE bye\r\n")
		return false
	default:
		_, err = io.WriteString(s, line)
	}
	return err == nil
}

// set changes what it is like.
func (b *fakeBackend) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// onResume sets what becomes of sessions that are resumed.
func (b *fakeBackend) onResume(fn func(wire.Hello, *frames.Stream)) { b.set(func() { b.resume = fn }) }

// letGo has all sessions handed off.
func (b *fakeBackend) letGo() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		_ = s.SetReadDeadline(past)
	}
}

func (b *fakeBackend) goneOn() []wire.Hello {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]wire.Hello(nil), b.resumed...)
}

// restart serves again at the address where it was shut.
func (b *fakeBackend) restart(h *house) {
	h.t.Helper()
	ln, err := net.Listen("tcp", b.ln.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	b.mu.Lock()
	b.ln, b.draining = ln, make(chan struct{})
	b.mu.Unlock()
	b.accept(ln)
}

// carriers is a house with two backends that hand off, and alice on b1.
func carriers(h *house) (b1, b2 *fakeBackend) {
	b1, b2 = h.add(newFakeBackend(h.t, "b1")), h.add(newFakeBackend(h.t, "b2"))
	for _, b := range []*fakeBackend{b1, b2} {
		b.set(func() { b.play = b.carry })
	}
	h.dir.set(alice, active("b1", 1))
	return b1, b2
}

// move has alice moved, with her sessions.
func (h *house) move(from, to *fakeBackend) {
	h.dir.mu.Lock()
	epoch := h.dir.store[alice].Epoch
	h.dir.mu.Unlock()
	h.dir.set(alice, busy(from.id, to.id, epoch+1))
	from.letGo()
	h.dir.set(alice, active(to.id, epoch+2))
}

// notCarried gives how many sessions ended for a reason.
func (h *house) notCarried(reason string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "waypost_proxy_sessions_not_carried_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// parkedSession is a session whose backend has let go of it, for a move that lasts.
func parkedSession(h *house, from, to *fakeBackend) *proxytest.Client {
	h.t.Helper()
	k := h.imap()
	k.Run(nil, "C: where\nS: "+string(from.id))
	h.dir.set(alice, busy(from.id, to.id, 2))
	from.letGo()
	h.parkedNow(1)
	return k
}

func (h *house) parkedNow(n int) {
	h.t.Helper()
	h.until("sessions are parked", func() bool { return h.metric("sessions_parked") == float64(n) })
}

// underWay counts what happens at the same time.
type underWay struct{ now, most atomic.Int64 }

func (u *underWay) enter() (leave func()) {
	n := u.now.Add(1)
	for most := u.most.Load(); n > most && !u.most.CompareAndSwap(most, n); most = u.most.Load() {
	}
	return func() { u.now.Add(-1) }
}
