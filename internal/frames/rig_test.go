package frames

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waypost/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long what must come may take.
const patience = 20 * time.Second

// rig is a connection with both ends; served has a backend's streams.
type rig struct {
	t        testing.TB
	client   *Client
	served   chan *Stream
	states   chan []byte // of sessions that are resumed
	near     net.Conn    // the proxy's end of the network
	far      net.Conn
	ended    chan error
	draining chan struct{}
	leave    func() // handlers return
}

func newRig(t testing.TB, near, far net.Conn, opt Options) *rig {
	t.Helper()
	r := &rig{t: t, served: make(chan *Stream, 1000), states: make(chan []byte, 1000), near: near, far: far, ended: make(chan error, 1), draining: make(chan struct{})}
	over := make(chan struct{})
	r.leave = sync.OnceFunc(func() { close(over) })
	opt.Draining = r.draining
	go func() {
		br := bufio.NewReader(far)
		var h wire.Hello
		if err := wire.Read(br, &h); err != nil || h.Protocol != wire.ProtocolFrames {
			r.ended <- err
			return
		}
		err := Serve(context.Background(), far, br, opt, func(_ context.Context, s *Stream, h *wire.Hello) {
			if state := s.State(); state != nil {
				r.states <- state
			}
			if h.User == "nobody" {
				_ = s.Welcome(wire.Welcome{Status: wire.StatusStale, Text: "not here"})
				return
			}
			if h.User == "silent" {
				_ = s.WaitRead()
				return
			}
			if s.Welcome(wire.Welcome{Status: wire.StatusOK}) != nil {
				return
			}
			r.served <- s
			<-over
		})
		r.ended <- err
	}()
	c, err := Dial(t.Context(), near, opt)
	if err != nil {
		t.Fatal(err)
	}
	r.client = c
	t.Cleanup(func() {
		r.leave()
		c.Close()
		<-r.ended
		_ = far.Close()
	})
	return r
}

// pipe is a rig over memory without any buffer, tcp one over loopback.
func pipe(t testing.TB) *rig {
	t.Helper()
	near, far := net.Pipe()
	return newRig(t, near, far, Options{})
}

func tcp(t testing.TB, opt Options) *rig {
	t.Helper()
	near, far := tcpPair(t)
	return newRig(t, near, far, opt)
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// open gives both ends of a session.
func (r *rig) open() (proxy, backend *Stream) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	proxy, w, err := r.client.Open(ctx, wire.Hello{User: "alice"})
	if err != nil || w.Status != wire.StatusOK {
		r.t.Fatalf("open: %+v, %v", w, err)
	}
	backend = <-r.served
	for _, s := range []*Stream{proxy, backend} {
		if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
			r.t.Fatal(err)
		}
	}
	return proxy, backend
}

func send(t testing.TB, s *Stream, text string) {
	t.Helper()
	if n, err := io.WriteString(s, text); n != len(text) || err != nil {
		t.Fatalf("write of %.40q: %d, %v", text, n, err)
	}
}

func expect(t testing.TB, s *Stream, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(s, got); err != nil || string(got) != text {
		t.Fatalf("read %.40q, %v; want %.40q", got[:n], err, text)
	}
}

func expectEnd(t testing.TB, s *Stream, want error) {
	t.Helper()
	n, err := s.Read(make([]byte, 10))
	if n != 0 || !errors.Is(err, want) || want == io.EOF && err != io.EOF {
		t.Fatalf("read %d bytes, %v; want %v", n, err, want)
	}
}

// until waits for a condition that nothing tells of.
func until(t interface{ Fatalf(string, ...any) }, what string, ok func() bool) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// idle tells whether a stream holds no buffer.
func (s *Stream) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.first == nil && s.tail.first == nil
}

// counters are what a backend has consumed and sent.
func (s *Stream) counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counters{s.consumed, s.sent}
}

// unconsumed is what a proxy keeps of the client's bytes.
func (s *Stream) unconsumed() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tail.bytes()
}

// kept is how many bytes a stream holds.
func (s *Stream) kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.in.len, s.tail.len)
}

func pattern(n int, seed byte) []byte {
	b := bytes.Repeat([]byte{seed}, n)
	for i := range b {
		b[i] += byte(i * 7)
	}
	return b
}
