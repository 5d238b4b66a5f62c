package frames

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/wire"
)

// carrying is a rig of both sides that know of hand-offs.
func carrying(t testing.TB) *rig {
	t.Helper()
	return tcp(t, Options{HandOff: true})
}

// resume gives both ends of a session that goes on from state.
func (r *rig) resume(state []byte) (proxy, backend *Stream) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	proxy, w, err := r.client.Resume(ctx, wire.Hello{User: "alice"}, state)
	if err != nil || w.Status != wire.StatusOK {
		r.t.Fatalf("resume: %+v, %v", w, err)
	}
	backend = <-r.served
	for _, s := range []*Stream{proxy, backend} {
		if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
			r.t.Fatal(err)
		}
	}
	return proxy, backend
}

// held is how many bytes of states a side keeps.
func (l *link) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states
}

func TestHandOff(t *testing.T) {
	for _, size := range []int{0, 10, MaxData + 1, MaxState} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r, next := carrying(t), carrying(t)
			proxy, backend := r.open()
			if !backend.CanHandOff() || backend.State() != nil {
				t.Error("a new session has a state, or can never have one")
			}
			send(t, proxy, "a1 NOOP\r\na2 FETCH")
			expect(t, backend, "a1 NOOP\r\n")
			send(t, backend, "a1 OK\r\n")
			state := pattern(size, 9)
			if err := backend.HandOff(state); err != nil {
				t.Fatal(err)
			}
			// Nobody reads or writes there any more.
			if _, err := backend.Write([]byte("x")); !errors.Is(err, ErrHandOff) {
				t.Errorf("write behind it: %v", err)
			}
			expectEnd(t, backend, ErrHandOff)
			if err := backend.HandOff(nil); !errors.Is(err, ErrHandOff) {
				t.Errorf("second time: %v", err)
			}
			backend.Close()
			until(t, "it is there", func() bool { _, err := proxy.Write([]byte(" 1")); return errors.Is(err, ErrHandOff) })
			expect(t, proxy, "a1 OK\r\n")
			expectEnd(t, proxy, ErrHandOff)
			if err := proxy.HangUp(); !errors.Is(err, ErrHandOff) {
				t.Errorf("hang-up: %v", err)
			}
			got, rest := proxy.HandedOff()
			if !bytes.Equal(got, state) || got == nil || !strings.HasPrefix(string(rest), "a2 FETCH") {
				t.Fatalf("%d bytes of state, rest %q", len(got), rest)
			}
			proxy.Close()

			proxy, backend = next.resume(got)
			if backend.State() != nil {
				t.Error("a state is kept behind Welcome")
			}
			if n := len(<-next.states); n != size {
				t.Errorf("resumed with %d bytes of state", n)
			}
			send(t, proxy, string(rest))
			expect(t, backend, string(rest))
			send(t, backend, "a2 OK\r\n")
			expect(t, proxy, "a2 OK\r\n")
			if got, want := backend.counters(), (Counters{uint64(len(rest)), 7}); got != want {
				t.Errorf("counters: %+v", got)
			}
			until(t, "no states are kept", func() bool { return r.client.held() == 0 && next.client.held() == 0 })
		})
	}
}

// What is refused leaves the session as it was.
func TestHandOffRefused(t *testing.T) {
	proxy, backend := carrying(t).open()
	for what, err := range map[string]error{
		"hand-off": backend.HandOff(make([]byte, MaxState+1)), "checkpoint": backend.Checkpoint(0, 0, make([]byte, MaxState+1)),
	} {
		if !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v", what, err)
		}
	}
	send(t, backend, "* OK\r\n")
	expect(t, proxy, "* OK\r\n")

	r := tcp(t, Options{})
	proxy, backend = r.open()
	if err := backend.HandOff(nil); !errors.Is(err, ErrNoHandOff) || backend.CanHandOff() {
		t.Errorf("to an older proxy: %v", err)
	}
	if _, _, err := r.client.Resume(t.Context(), wire.Hello{}, nil); !errors.Is(err, ErrNoHandOff) || errors.Is(err, ErrOutcome) {
		t.Errorf("at an older backend: %v", err)
	}
	send(t, backend, "* OK\r\n")
	expect(t, proxy, "* OK\r\n")
	if _, _, ok := proxy.LastCheckpoint(); ok {
		t.Error("a checkpoint of nothing")
	}
	if state, rest := proxy.HandedOff(); state != nil || rest != nil {
		t.Error("handed off without a word")
	}
}

// Other sessions go on while a big state is under way, also when nobody reads it.
func TestHandOffHoldsUpNobody(t *testing.T) {
	r := carrying(t)
	_, going := r.open()
	proxy, backend := r.open()
	var handing sync.WaitGroup
	handing.Go(func() {
		if err := going.HandOff(make([]byte, MaxState)); err != nil {
			t.Error(err)
		}
	})
	for range 50 {
		send(t, proxy, "a1 NOOP\r\n")
		expect(t, backend, "a1 NOOP\r\n")
		send(t, backend, "a1 OK\r\n")
		expect(t, proxy, "a1 OK\r\n")
	}
	handing.Wait()
}

func TestCheckpoint(t *testing.T) {
	for name, c := range map[string]struct {
		then func(t *testing.T, proxy, backend *Stream)
		want string // "": not provable
	}{
		"at rest":              {func(*testing.T, *Stream, *Stream) {}, "two"},
		"the client says more": {func(t *testing.T, proxy, _ *Stream) { send(t, proxy, "b") }, ""},
		"the backend says more": {func(t *testing.T, proxy, backend *Stream) {
			send(t, backend, "* 1 EXISTS\r\n")
			expect(t, proxy, "* 1 EXISTS\r\n")
		}, ""},
		"and is at rest again": {func(t *testing.T, proxy, backend *Stream) {
			send(t, backend, "* 1 EXISTS\r\n")
			if err := backend.Checkpoint(9, 19, []byte("three")); err != nil {
				t.Error(err)
			}
			expect(t, proxy, "* 1 EXISTS\r\n")
		}, "three"},
		"said before it was sent": {func(t *testing.T, proxy, backend *Stream) {
			send(t, backend, "* 1 EXISTS\r\n")
			if err := backend.Checkpoint(9, 7, []byte("late")); !errors.Is(err, ErrMoved) {
				t.Error(err)
			}
			expect(t, proxy, "* 1 EXISTS\r\n")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := carrying(t)
			proxy, backend := r.open()
			send(t, proxy, "a1 NOOP\r\n")
			expect(t, backend, "a1 NOOP\r\n")
			send(t, backend, "a1 OK\r\n")
			expect(t, proxy, "a1 OK\r\n")
			for _, state := range []string{"one", "two"} {
				if err := backend.Checkpoint(9, 7, []byte(state)); err != nil {
					t.Fatal(err)
				}
			}
			c.then(t, proxy, backend)
			if _, _, ok := proxy.LastCheckpoint(); ok {
				t.Error("told while nothing is lost")
			}
			_ = r.far.Close()
			expectEnd(t, proxy, ErrLost)
			if got, _, ok := proxy.LastCheckpoint(); string(got) != c.want || ok != (c.want != "") {
				t.Errorf("%q, %v", got, ok)
			}
		})
	}
}

// A connection that is lost within a state is lost, and the checkpoint may serve.
func TestLostWithinTheState(t *testing.T) {
	for _, how := range []string{"lost", "closed"} {
		near, far := tcpPair(t)
		r := newRig(t, near, far, Options{HandOff: true})
		proxy, backend := r.open()
		if err := backend.Checkpoint(0, 0, []byte("rest")); err != nil {
			t.Fatal(err)
		}
		piece := append([]byte{0}, make([]byte, MaxData)...)
		l := backend.link
		if err := errors.Join(l.send(TypeHandOff, backend.id, nil, AppendCounters(nil, Counters{})), l.send(TypeState, backend.id, nil, piece)); err != nil {
			t.Fatal(err)
		}
		until(t, "it has begun", func() bool { _, err := proxy.Write([]byte("x")); return errors.Is(err, ErrHandOff) })
		if how == "closed" {
			backend.Close()
		} else {
			_ = far.Close()
		}
		expectEnd(t, proxy, ErrLost)
		// What was written before the hand-off came, and nobody consumed, decides.
		if got, _, ok := proxy.LastCheckpoint(); ok != (len(proxy.unconsumed()) == 0) || ok && string(got) != "rest" {
			t.Errorf("%s: checkpoint %q, %v with %d bytes written", how, got, ok, len(proxy.unconsumed()))
		}
	}
}

func TestResumeAnswers(t *testing.T) {
	r := carrying(t)
	hello := func(user string) wire.Hello { return wire.Hello{User: user} }
	s, w, err := r.client.Resume(t.Context(), hello("nobody"), make([]byte, MaxState))
	if s != nil || w.Status != wire.StatusStale || err != nil {
		t.Errorf("refused: %v, %+v, %v", s, w, err)
	}
	if _, _, err := r.client.Resume(t.Context(), hello("alice"), make([]byte, MaxState+1)); !errors.Is(err, ErrTooBig) || errors.Is(err, ErrOutcome) {
		t.Errorf("too big: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.client.Resume(ctx, hello("alice"), make([]byte, MaxState)); !errors.Is(err, context.Canceled) || errors.Is(err, ErrOutcome) {
		t.Errorf("ended before all was sent: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := r.client.Resume(ctx, hello("silent"), nil); !errors.Is(err, ErrOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended before the answer: %v", err)
	}
	until(t, "no stream is left", func() bool { return r.client.Streams() == 0 })

	// The connection breaks behind the state: nobody knows.
	answer := make(chan error, 1)
	go func() {
		_, _, err := r.client.Resume(t.Context(), hello("silent"), []byte("last"))
		answer <- err
	}()
	for string(<-r.states) != "last" {
	}
	_ = r.far.Close()
	if err := <-answer; !errors.Is(err, ErrOutcome) || !errors.Is(err, ErrLost) {
		t.Errorf("lost before the answer: %v", err)
	}
	if _, _, err := r.client.Resume(t.Context(), hello("alice"), nil); !errors.Is(err, ErrRetired) || errors.Is(err, ErrOutcome) {
		t.Errorf("on a lost connection: %v", err)
	}
}

// A RESUME that crosses GO-AWAY is refused, whole or not, so that it can be tried again.
func TestResumeWhileDraining(t *testing.T) {
	for _, whole := range []bool{false, true} {
		r := carrying(t)
		_, backend := r.open()
		c := r.client
		var s *Stream
		var answer chan welcome
		begin := func() {
			t.Helper()
			var err error
			if s, answer, err = c.begun(TypeResume, []byte(`{"user":"alice"}`)); err != nil {
				t.Fatal(err)
			}
		}
		if !whole {
			begin()
			until(t, "it waits for its state", func() bool { return backend.link.streamCount() == 2 })
		}
		close(r.draining)
		until(t, "the proxy knows", func() bool { return !c.Usable() })
		if whole {
			c.mu.Lock()
			c.retired = false // as if it had come too late
			c.mu.Unlock()
			begin()
			if err := c.send(TypeState, s.id, nil, []byte{stateLast, 'x'}); err != nil {
				t.Fatal(err)
			}
			c.retire()
		}
		if got := <-answer; got.err != nil || got.Status != wire.StatusRefused {
			t.Errorf("whole %v: %+v", whole, got)
		}
		s.Close()
	}
}

// The last session's end leaves a proxy the time to hear that its RESUME is refused.
func TestDrainedAnswersLate(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	c := r.client
	resume := func() (*Stream, chan welcome) {
		t.Helper()
		s, answer, err := c.begun(TypeResume, []byte(`{"user":"alice"}`))
		if err != nil {
			t.Fatal(err)
		}
		return s, answer
	}
	early, refused := resume() // and keeps the proxy from closing the connection
	until(t, "it has come", func() bool { return backend.link.streamCount() == 2 })
	close(r.draining)
	if got := <-refused; got.Status != wire.StatusRefused {
		t.Errorf("%+v", got)
	}
	if err := backend.HandOff([]byte("state")); err != nil {
		t.Fatal(err)
	}
	r.leave()
	expectEnd(t, proxy, ErrHandOff)
	until(t, "no session is left", func() bool { return backend.link.streamCount() == 0 })
	c.mu.Lock()
	c.retired = false // as if it had not heard of it
	c.mu.Unlock()
	late, refused := resume()
	if got := <-refused; got.Status != wire.StatusRefused {
		t.Errorf("%+v", got)
	}
	proxy.Close()
	early.Close()
	late.Close()
	c.retire()
	if err := <-r.ended; !errors.Is(err, ErrDrained) {
		t.Error(err)
	}
	r.ended <- nil
}

// States that wait are bounded for a connection.
func TestStatesAreBounded(t *testing.T) {
	r := carrying(t)
	piece := make([]byte, 1+MaxData)
	var refused int
	for range maxStates/(MaxState-MaxData) + 1 {
		s, answer, err := r.client.begun(TypeResume, []byte(`{"user":"alice"}`))
		if err != nil {
			t.Fatal(err)
		}
		for range MaxState/MaxData - 1 {
			if err := r.client.send(TypeState, s.id, nil, piece); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case got := <-answer:
			if got.Status != wire.StatusRefused {
				t.Errorf("%+v", got)
			}
			refused++
		default:
		}
	}
	until(t, "the last one is refused", func() bool { return r.client.Streams() > 0 })
	proxy, backend := r.open()
	if n := backend.link.held(); n > maxStates {
		t.Errorf("%d bytes are kept", n)
	}
	send(t, proxy, "x")
	expect(t, backend, "x")
	r.client.mu.Lock()
	for id, s := range r.client.streams {
		if s != proxy {
			delete(r.client.streams, id)
			r.client.mu.Unlock()
			_ = r.client.send(TypeClose, id, nil, nil)
			r.client.mu.Lock()
		}
	}
	r.client.mu.Unlock()
	until(t, "those that were closed are not kept", func() bool { return backend.link.held() == 0 })
}

// A proxy that has no room for a checkpoint goes without.
func TestNoRoomForACheckpoint(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	if err := backend.Checkpoint(0, 0, []byte("first")); err != nil {
		t.Fatal(err)
	}
	until(t, "it is kept", func() bool { return r.client.held() == 5 })
	other, _ := r.open()
	if !r.client.reserve(other, maxStates-10) {
		t.Fatal("no room")
	}
	if err := backend.Checkpoint(0, 0, []byte("second, longer")); err != nil {
		t.Fatal(err)
	}
	send(t, backend, "x")
	expect(t, proxy, "x")
	if n := r.client.held(); n != maxStates-5 {
		t.Errorf("%d bytes are kept", n)
	}
	if err := backend.HandOff([]byte("a state of too much")); err != nil {
		t.Fatal(err)
	}
	expectEnd(t, proxy, ErrHandOff)
	if state, _ := proxy.HandedOff(); state != nil {
		t.Errorf("%q", state)
	}
}

// TestTranscript pins down what goes over the network.
func TestTranscript(t *testing.T) {
	near, far := net.Pipe()
	var script bytes.Buffer
	said := make(chan string, 1)
	peer := bufio.NewReader(far)
	line := func() {
		text, err := peer.ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(&script, "P: %s", text)
	}
	frame := func() {
		head := make([]byte, HeaderBytes)
		if _, err := io.ReadFull(peer, head); err != nil {
			t.Error(err)
			return
		}
		h, err := ParseHeader(head)
		payload := make([]byte, h.Length)
		if err == nil {
			_, err = io.ReadFull(peer, payload)
		}
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(&script, "P: %x %s stream %d %q\n", head, h.Type, h.Stream, payload)
	}
	say := func(kind Type, stream uint32, payload string) {
		head := AppendHeader(nil, Header{kind, stream, uint32(len(payload))})
		fmt.Fprintf(&script, "B: %x %s stream %d %q\n", head, kind, stream, payload)
		if _, err := far.Write(append(head, payload...)); err != nil {
			t.Error(err)
		}
	}
	count := func(n ...byte) string {
		var b []byte
		for _, c := range n {
			b = append(b, 0, 0, 0, 0, 0, 0, 0, c)
		}
		return string(b)
	}
	go func() {
		defer close(said)
		line()
		fmt.Fprintf(&script, "B: %s\n", `{"status":"ok","v":2,"handoff":true}`)
		_, _ = io.WriteString(far, `{"status":"ok","v":2,"handoff":true}`+"\n")
		frame() // OPEN
		say(TypeWelcome, 1, welcomeOK)
		say(TypeData, 1, count(0)+"* PREAUTH hi\r\n")
		frame() // DATA
		say(TypeCheckpoint, 1, count(9, 14))
		say(TypeState, 1, "\x01at rest")
		frame() // DATA
		say(TypeHandOff, 1, count(9, 14))
		say(TypeState, 1, "\x00IM")
		say(TypeState, 1, "\x01AP")
		say(TypeClose, 1, "")
		frame() // RESUME
		frame() // STATE
		say(TypeWelcome, 2, welcomeOK)
		frame() // DATA
		say(TypeData, 2, count(9)+"a2 OK\r\n")
		say(TypeClose, 2, "")
	}()
	c, err := Dial(t.Context(), near, Options{HandOff: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close(); far.Close() }()
	s, _, err := c.Open(t.Context(), wire.Hello{Version: 1, Protocol: "imap", User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s, "* PREAUTH hi\r\n")
	send(t, s, "a1 NOOP\r\n")
	until(t, "the checkpoint is there", func() bool { return c.held() == 7 })
	send(t, s, "a2 NOOP\r\n")
	expectEnd(t, s, ErrHandOff)
	state, rest := s.HandedOff()
	next, _, err := c.Resume(t.Context(), wire.Hello{Version: 1, Protocol: "imap", User: "alice"}, state)
	if err != nil {
		t.Fatal(err)
	}
	send(t, next, string(rest))
	expect(t, next, "a2 OK\r\n")
	expectEnd(t, next, io.EOF)
	<-said
	golden(t, script.Bytes())
}

// golden compares with testdata; UPDATE_GOLDEN=1 rewrites it, to be reviewed as a diff.
func golden(t *testing.T, got []byte) {
	t.Helper()
	name := filepath.Join("testdata", "handoff.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the frames are\n%swant\n%s", got, want)
	}
}
