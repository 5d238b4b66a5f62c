package frames

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"waypost/internal/wire"
)

// A backend that drains ends the connection with its last session, and opens none.
func TestDrain(t *testing.T) {
	r := tcp(t, Options{})
	proxy, backend := r.open()
	close(r.draining)
	until(t, "the proxy knows", func() bool { return !r.client.Usable() })
	send(t, backend, "* OK still here\r\n")
	expect(t, proxy, "* OK still here\r\n")
	if _, _, err := r.client.Open(t.Context(), wire.Hello{}); !errors.Is(err, ErrRetired) {
		t.Errorf("open: %v", err)
	}
	select {
	case err := <-r.ended:
		t.Fatalf("ended with a session: %v", err)
	default:
	}
	r.leave()
	if err := <-r.ended; !errors.Is(err, ErrDrained) {
		t.Errorf("serve: %v", err)
	}
	r.ended <- nil
	expectEnd(t, proxy, io.EOF)
	<-r.client.Done()
}

// An OPEN that crosses GO-AWAY is closed: the proxy goes elsewhere.
func TestOpenWhileDraining(t *testing.T) {
	near, far := tcpPair(t)
	draining, drained := make(chan struct{}), make(chan error, 1)
	go func() {
		br := bufio.NewReader(far)
		var h wire.Hello
		if err := wire.Read(br, &h); err != nil {
			drained <- err
			return
		}
		drained <- Serve(context.Background(), far, br, Options{MaxStreams: 1, Draining: draining}, func(_ context.Context, s *Stream, _ *wire.Hello) {
			_ = s.Welcome(wire.Welcome{Status: wire.StatusOK})
			_ = s.WaitRead()
		})
		_ = far.Close()
	}()
	c, err := Dial(t.Context(), near, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Open(t.Context(), wire.Hello{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Open(t.Context(), wire.Hello{}); !errors.Is(err, ErrPeerClosed) {
		t.Errorf("one too many: %v", err)
	}
	c.Close()
	if err := <-drained; err == nil {
		t.Error("ended without a reason")
	}
}

// A connection that nobody needs is closed, and one that is retired with its last
// session.
func TestUnneeded(t *testing.T) {
	r := tcp(t, Options{Ping: time.Millisecond, Idle: 10 * time.Millisecond})
	<-r.client.Done()
	r = tcp(t, Options{})
	proxy, _ := r.open()
	r.client.Retire()
	if _, _, err := r.client.Open(t.Context(), wire.Hello{}); !errors.Is(err, ErrRetired) {
		t.Error(err)
	}
	proxy.Close()
	<-r.client.Done()
}

// Silence is death, and pings are no silence.
func TestSilence(t *testing.T) {
	hourLater := func(t *testing.T, opt Options) (proxy, backend *Stream) {
		near, far := net.Pipe()
		proxy, backend = newRig(t, near, far, opt).open()
		<-time.After(time.Hour)
		for _, s := range []*Stream{proxy, backend} {
			if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
		}
		return proxy, backend
	}
	synctest.Test(t, func(t *testing.T) {
		proxy, backend := hourLater(t, Options{})
		send(t, proxy, "x")
		expect(t, backend, "x")
	})
	synctest.Test(t, func(t *testing.T) {
		proxy, backend := hourLater(t, Options{Ping: 24 * time.Hour})
		expectEnd(t, proxy, ErrLost)
		expectEnd(t, backend, ErrLost)
		// Nobody takes that for a deadline of the stream's own, behind which it is asked again.
		for _, s := range []*Stream{proxy, backend} {
			if _, err := s.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}
	})
}

// A network that takes nothing is as dead.
func TestWriteStuck(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		br := bufio.NewReader(far)
		var h wire.Hello
		_ = errors.Join(wire.Read(br, &h), wire.Write(far, wire.Welcome{Status: wire.StatusOK, Version: wire.VersionFrames}))
	}()
	c, err := Dial(t.Context(), near, Options{Write: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Open(t.Context(), wire.Hello{}); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
}

func TestDialFails(t *testing.T) {
	for name, c := range map[string]struct {
		answer any
		want   error
	}{
		"older":   {wire.Welcome{Status: wire.StatusRefused, Text: "protocol?"}, ErrPlain},
		"refused": {wire.Welcome{Status: wire.StatusRefused, Version: wire.VersionFrames}, nil},
		"hung up": {nil, io.EOF},
	} {
		near, far := tcpPair(t)
		go func() {
			br := bufio.NewReader(far)
			var h wire.Hello
			if wire.Read(br, &h) == nil && c.answer != nil {
				_ = wire.Write(far, c.answer)
			}
			far.Close()
		}()
		if _, err := Dial(t.Context(), near, Options{}); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	near, far := tcpPair(t)
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, near, Options{}); err == nil {
		t.Error("dialled after the end")
	}
}

// What breaks the rules ends the connection, at either side.
func TestViolations(t *testing.T) {
	count := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	frame := func(t Type, id uint32, payload []byte) []byte {
		return append(AppendHeader(nil, Header{t, id, uint32(len(payload))}), payload...)
	}
	flood := func(window int) []byte {
		var b []byte
		for n := 0; n <= window; n += MaxData {
			b = append(b, frame(TypeData, 1, append(count(0), make([]byte, MaxData)...))...)
		}
		return b
	}
	for name, c := range map[string]struct {
		toBackend bool
		bytes     []byte
	}{
		"no frame":                     {true, []byte("a1 NOOP\r\n\r\n")},
		"a backend's frame":            {true, frame(TypeGoAway, 0, nil)},
		"a proxy's frame":              {false, frame(TypeClientGone, 1, nil)},
		"unknown stream":               {true, frame(TypeEnd, 9, nil)},
		"unknown stream's bytes":       {false, frame(TypeData, 9, count(0))},
		"stream opened twice":          {true, frame(TypeOpen, 1, []byte("{}"))},
		"hello that is none":           {true, frame(TypeOpen, 2, []byte("hello"))},
		"more than the window up":      {true, flood(WindowUp)},
		"more than the window down":    {false, flood(WindowDown)},
		"consumed what was not sent":   {true, frame(TypeConsumed, 1, count(1))},
		"compressed what was not sent": {false, frame(TypeCompress, 1, count(1))},
		"compressed twice":             {false, append(frame(TypeCompress, 1, count(0)), frame(TypeCompress, 1, count(0))...)},
		"compressed unasked":           {true, frame(TypeCompressed, 1, nil)},
		"welcome twice":                {false, frame(TypeWelcome, 1, []byte("{}"))},
		"bytes behind the end":         {true, append(frame(TypeEnd, 1, nil), frame(TypeData, 1, append(count(0), 'x'))...)},
		"hand-off":                     {false, frame(TypeHandOff, 1, make([]byte, 16))},
		"resume":                       {true, frame(TypeResume, 2, append(make([]byte, 16), "{}"...))},
	} {
		t.Run(name, func(t *testing.T) {
			r := tcp(t, Options{})
			proxy, backend := r.open()
			from, to := r.far, proxy
			if c.toBackend {
				from, to = r.near, backend
			}
			if _, err := from.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			for {
				_, err := to.Read(make([]byte, 1<<16))
				if err == io.EOF && name == "bytes behind the end" || errors.Is(err, ErrCompress) {
					break
				}
				if err != nil {
					if !errors.Is(err, ErrLost) {
						t.Errorf("read: %v", err)
					}
					break
				}
			}
			<-r.client.Done()
		})
	}
}

// What was written is told as written, though the other side, which has read it, closes the
// connection before its writer wakes: a hand-off that has come is one.
func TestWrittenThenClosed(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	l := backend.link
	w := &l.w
	w.mu.Lock()
	w.busy = true // the test writes
	w.mu.Unlock()
	told := make(chan error, 1)
	go func() { told <- l.sendCount(TypeData, backend.id, 0, []byte("hello")) }()
	var batch []byte
	until(t, "it waits for its batch", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		batch = w.out
		return len(batch) > 0
	})
	w.mu.Lock()
	w.out = nil
	w.batch++
	if err := l.flush(batch); err != nil {
		t.Error(err)
	}
	expect(t, proxy, "hello")
	w.busy, w.written, w.broken = false, w.batch-1, true
	w.changed.Broadcast()
	w.mu.Unlock()
	l.fail(io.EOF)
	if err := <-told; err != nil {
		t.Error(err)
	}
}
