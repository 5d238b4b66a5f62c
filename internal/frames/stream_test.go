package frames

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/internal/wire"
)

func TestSession(t *testing.T) {
	proxy, backend := pipe(t).open()
	send(t, backend, "* PREAUTH hi\r\n")
	expect(t, proxy, "* PREAUTH hi\r\n")
	send(t, proxy, "a1 NOOP\r\n")
	if got := string(proxy.unconsumed()); got != "a1 NOOP\r\n" {
		t.Errorf("unconsumed: %q", got)
	}
	expect(t, backend, "a1 NOOP\r\n")
	send(t, backend, "a1 OK\r\n")
	expect(t, proxy, "a1 OK\r\n")
	if got := proxy.unconsumed(); got != nil {
		t.Errorf("unconsumed: %q", got) // the answer told
	}
	if got, want := backend.counters(), (Counters{Consumed: 9, Sent: 21}); got != want {
		t.Errorf("counters: %+v", got)
	}
	if !proxy.idle() || !backend.idle() {
		t.Error("an idle stream holds a buffer")
	}
}

// What is not answered is acknowledged when the backend waits for more.
func TestAcknowledgedBeforeWaiting(t *testing.T) {
	proxy, backend := pipe(t).open()
	send(t, proxy, "a1 IDLE\r\n")
	expect(t, backend, "a1 IDLE\r\n")
	over := make(chan error, 1)
	go func() { _, err := backend.Read(make([]byte, 1)); over <- err }()
	until(t, "the proxy keeps nothing", proxy.idle)
	backend.Close()
	if err := <-over; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	r := pipe(t)
	s, w, err := r.client.Open(t.Context(), wire.Hello{User: "nobody"})
	if s != nil || w.Status != wire.StatusStale || w.Text != "not here" || err != nil {
		t.Errorf("%v, %+v, %v", s, w, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.client.Open(ctx, wire.Hello{User: "silent"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	until(t, "no stream is left", func() bool { return r.client.Streams() == 0 })
}

// How each end learns of each way to end.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(r *rig, proxy *Stream) error
		want error
		gone bool
	}{
		{"the client hangs up", func(_ *rig, s *Stream) error { return s.HangUp() }, io.EOF, true},
		{"and the proxy closes", func(_ *rig, s *Stream) error { return errors.Join(s.HangUp(), s.Close()) }, io.EOF, true},
		{"the proxy ends it", func(_ *rig, s *Stream) error { return s.CloseWrite() }, io.EOF, false},
		{"the proxy closes", func(_ *rig, s *Stream) error { return s.Close() }, io.EOF, false},
		{"the proxy is killed", func(r *rig, _ *Stream) error {
			_ = r.near.(*net.TCPConn).SetLinger(0)
			return r.near.Close()
		}, ErrLost, false},
		{"the proxy stops", func(r *rig, _ *Stream) error { return r.near.Close() }, ErrLost, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := tcp(t, Options{})
			proxy, backend := r.open()
			send(t, proxy, "QUIT\r\n")
			until(t, "it has come", func() bool { return backend.WaitRead() == nil })
			if err := c.end(r, proxy); err != nil {
				t.Fatal(err)
			}
			expect(t, backend, "QUIT\r\n")
			expectEnd(t, backend, c.want)
			if backend.ClientGone() != c.gone {
				t.Errorf("client gone: %v", backend.ClientGone())
			}
		})
	}
}

func TestBackendEnds(t *testing.T) {
	r := tcp(t, Options{})
	proxy, backend := r.open()
	send(t, backend, "* BYE\r\n")
	if err := backend.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, proxy, "* BYE\r\n")
	expectEnd(t, proxy, io.EOF)
	if _, err := proxy.Write([]byte("a")); !errors.Is(err, ErrPeerClosed) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	proxy.Close()
	for _, op := range []func() error{
		func() error { _, err := proxy.Read(make([]byte, 1)); return err },
		func() error { _, err := proxy.Write([]byte("a")); return err },
		proxy.CloseWrite, proxy.Close, func() error { return proxy.SetDeadline(time.Now()) },
	} {
		if err := op(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	proxy, _ = r.open()
	_ = r.far.Close()
	expectEnd(t, proxy, ErrLost)
	if r.client.Usable() {
		t.Error("a lost connection is used")
	}
	if _, _, err := r.client.Open(t.Context(), wire.Hello{}); !errors.Is(err, ErrRetired) {
		t.Error(err)
	}
}

func TestDeadlines(t *testing.T) {
	proxy, backend := pipe(t).open()
	past := time.Unix(1, 0)
	for _, c := range []struct {
		name string
		set  func(time.Time) error
		op   func() error
	}{
		{"read", backend.SetReadDeadline, func() error { _, err := backend.Read(make([]byte, 1)); return err }},
		{"wait", backend.SetReadDeadline, backend.WaitRead},
		{"write", proxy.SetWriteDeadline, func() error { _, err := proxy.Write(make([]byte, WindowUp+1)); return err }},
	} {
		if err := c.set(past); err != nil {
			t.Fatal(err)
		}
		if err := c.op(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s after its deadline: %v", c.name, err)
		}
		if err := c.set(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := c.op(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s before its deadline: %v", c.name, err)
		}
		if err := c.set(time.Time{}); err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- c.op() }()
		if c.name == "write" {
			until(t, "all credit is used", func() bool { return len(proxy.unconsumed()) == WindowUp })
			if err := backend.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, backend, 2*WindowUp+1); err != nil {
				t.Fatal(err)
			}
		} else if err := c.set(past); err != nil {
			t.Fatal(err)
		}
		if err := <-over; c.name == "write" && err != nil || c.name != "write" && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s that waits: %v", c.name, err)
		}
	}
	send(t, proxy, "x")
	expect(t, backend, "x")
}

// A backend that reads nothing makes neither end keep more than the window, and
// other sessions go on.
func TestSlowReaderStallsNobody(t *testing.T) {
	r := tcp(t, Options{})
	slowProxy, slowBackend := r.open()
	var writers sync.WaitGroup
	for _, s := range []*Stream{slowProxy, slowBackend} {
		writers.Go(func() { _, _ = s.Write(make([]byte, 1<<20)) })
	}
	until(t, "all credit is used", func() bool {
		slowProxy.mu.Lock()
		defer slowProxy.mu.Unlock()
		return slowProxy.tail.len == WindowUp && slowProxy.in.len == WindowDown
	})
	proxy, backend := r.open()
	for range 100 {
		send(t, proxy, "a1 NOOP\r\n")
		expect(t, backend, "a1 NOOP\r\n")
		send(t, backend, "a1 OK\r\n")
		expect(t, proxy, "a1 OK\r\n")
	}
	slowProxy.Close()
	slowBackend.Close()
	writers.Wait()
}

// All bytes come, in order, whatever the sizes of writes and reads, on many streams
// at once, with deadlines that pass now and then.
func TestDelivers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := tcp(t, Options{})
		if rapid.Bool().Draw(rt, "without buffers") {
			r = pipe(t)
		}
		var copies sync.WaitGroup
		for i := range rapid.IntRange(1, 4).Draw(rt, "streams") {
			proxy, backend := r.open()
			for j, ends := range [][2]*Stream{{proxy, backend}, {backend, proxy}} {
				want := pattern(rapid.IntRange(0, 200_000).Draw(rt, "bytes"), byte(2*i+j))
				sizes := rapid.SliceOfN(rapid.IntRange(500, 70_000), 1, 5).Draw(rt, "writes")
				reads := rapid.SliceOfN(rapid.IntRange(500, 70_000), 1, 5).Draw(rt, "reads")
				copies.Go(func() { writeAll(rt, ends[0], want, sizes) })
				copies.Go(func() { readAll(rt, ends[1], want, reads) })
			}
		}
		copies.Wait()
		r.client.Close()
	})
}

func writeAll(t *rapid.T, s *Stream, p []byte, sizes []int) {
	for i := 0; len(p) > 0; i++ {
		n := min(len(p), sizes[i%len(sizes)])
		if i%3 == 1 {
			_ = s.SetWriteDeadline(time.Now().Add(time.Millisecond))
		}
		n, err := s.Write(p[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = s.SetWriteDeadline(time.Now().Add(patience))
			err = nil
		}
		if err != nil {
			t.Errorf("write: %v", err)
			return
		}
		p = p[n:]
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("end: %v", err)
	}
}

func readAll(t *rapid.T, s *Stream, want []byte, sizes []int) {
	var got []byte
	for i := 0; ; i++ {
		p := make([]byte, sizes[i%len(sizes)])
		if i%3 == 1 {
			_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
		}
		n, err := s.Read(p)
		got = append(got, p[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = s.SetReadDeadline(time.Now().Add(patience))
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("read: %v", err)
			return
		}
		if n := s.kept(); n > WindowDown {
			t.Errorf("%d bytes are kept", n)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came of %d, or other ones", len(got), len(want))
	}
}
