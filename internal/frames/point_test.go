package frames

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/handoff"
	"waypost/internal/wire"
)

// point makes one for what is then sent.
func (s *Stream) pointAnd(t *testing.T, state, tip, text string) {
	t.Helper()
	at := s.counters()
	var base, top []byte
	if state != "" {
		base = []byte(state)
	}
	if tip != "" {
		top = []byte(tip)
	}
	if err := s.Point(at.Consumed, at.Sent+uint64(len(text)), base, top); err != nil {
		t.Fatal(err)
	}
	if text != "" {
		send(t, s, text)
	}
}

// TestPoint: an answer and the checkpoint behind it are there together, whatever of them has
// come when the connection is lost.
func TestPoint(t *testing.T) {
	answer := "a1 OK\r\n"
	for name, c := range map[string]struct {
		then func(t *testing.T, proxy, backend *Stream)
		want string // "": not provable
	}{
		"answered": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			expect(t, proxy, answer)
		}, "base"},
		"and again": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			backend.pointAnd(t, "", "", answer)
			expect(t, proxy, answer+answer)
		}, "base"},
		"with a tip": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			backend.pointAnd(t, "", "+one", answer)
			expect(t, proxy, answer+answer)
		}, "base+one"},
		"the same tip again": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			backend.pointAnd(t, "", "+one", answer)
			backend.pointAnd(t, "", "+two", answer)
			backend.pointAnd(t, "", "", answer)
			expect(t, proxy, answer+answer+answer+answer)
		}, "base+two"},
		"a new base": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			backend.pointAnd(t, "", "+one", answer)
			backend.pointAnd(t, "other", "", answer)
			expect(t, proxy, answer+answer+answer)
		}, "other"},
		"nothing to say": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", "")
		}, "base"},
		"the answer is lost": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			expect(t, proxy, answer)
			at := backend.counters()
			if err := backend.Point(at.Consumed, at.Sent+7, nil, []byte("+one")); err != nil {
				t.Fatal(err)
			}
			backend.flushed(t)
		}, "base"},
		"half the answer is lost": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			at := backend.counters()
			if err := backend.Point(at.Consumed, at.Sent+7, nil, []byte("+one")); err != nil {
				t.Fatal(err)
			}
			send(t, backend, answer[:3])
			expect(t, proxy, answer+answer[:3])
		}, ""},
		"more than a window": {func(t *testing.T, proxy, backend *Stream) {
			long := strings.Repeat("x", 3*WindowDown)
			var reads sync.WaitGroup
			reads.Go(func() {
				if _, err := io.ReadFull(proxy, make([]byte, len(long))); err != nil {
					t.Error(err)
				}
			})
			backend.pointAnd(t, "base", "", long)
			reads.Wait()
		}, "base"},
		"told more": {func(t *testing.T, proxy, backend *Stream) {
			backend.pointAnd(t, "base", "", answer)
			send(t, backend, "* 1 EXISTS\r\n")
			expect(t, proxy, answer+"* 1 EXISTS\r\n")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := carrying(t)
			proxy, backend := r.open()
			send(t, proxy, "a1 NOOP\r\n")
			expect(t, backend, "a1 NOOP\r\n")
			c.then(t, proxy, backend)
			if !backend.CanPoint() {
				t.Error("the proxy has not said that it takes points")
			}
			_ = r.far.Close()
			expectEnd(t, proxy, ErrLost)
			if got, _, ok := proxy.LastCheckpoint(); string(got) != c.want || ok != (c.want != "") {
				t.Errorf("%q, %v", got, ok)
			}
		})
	}
}

// flushed has what is held go out.
func (s *Stream) flushed(t *testing.T) {
	t.Helper()
	if err := s.link.send(TypeConsumed, s.id, nil, make([]byte, CounterBytes)); err != nil {
		t.Fatal(err)
	}
}

func TestPointRefused(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	send(t, proxy, "x")
	expect(t, backend, "x")
	for name, c := range map[string]struct {
		consumed, sent uint64
		tip            int
		want           error
	}{
		"read more":    {0, 0, 0, ErrMoved},
		"reads it yet": {2, 0, 0, ErrMoved},
		"too much":     {1, 0, MaxTip + 1, ErrTooBig},
	} {
		if err := backend.Point(c.consumed, c.sent, nil, make([]byte, c.tip)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	send(t, backend, "yy")
	if err := backend.Point(1, 1, []byte("base"), nil); !errors.Is(err, ErrMoved) {
		t.Errorf("behind what was sent: %v", err)
	}
	expect(t, proxy, "yy")
}

// Points about a state that there was no room for are not taken for others.
func TestNoRoomForAPoint(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	backend.pointAnd(t, "first", "", "a")
	expect(t, proxy, "a")
	other, _ := r.open()
	if !r.client.reserve(other, maxStates-5) {
		t.Fatal("no room")
	}
	backend.pointAnd(t, "second", "", "b")
	backend.pointAnd(t, "", "+tip", "c")
	expect(t, proxy, "bc")
	r.client.reserve(other, -maxStates/2)
	backend.pointAnd(t, "", "+more", "d")
	expect(t, proxy, "d")
	proxy.mu.Lock()
	if p := proxy.carried.proven; string(p.state) != "first" || p.at.Sent != 1 {
		t.Errorf("%q%q at %+v", p.state, p.tip, p.at)
	}
	proxy.mu.Unlock()
	backend.pointAnd(t, "third", "", "e")
	expect(t, proxy, "e")
	_ = r.far.Close()
	expectEnd(t, proxy, ErrLost)
	if got, _, ok := proxy.LastCheckpoint(); string(got) != "third" || !ok {
		t.Errorf("%q, %v", got, ok)
	}
}

// What the client says when the connection is lost already has surely not left.
func TestUnsentIsNotSent(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	backend.pointAnd(t, "base", "", "hello")
	send(t, proxy, "a0 NOOP\r\n")
	expect(t, backend, "a0 NOOP\r\n")
	backend.pointAnd(t, "", "+one", "a0 OK\r\n")
	expect(t, proxy, "helloa0 OK\r\n")
	l := proxy.link
	l.w.mu.Lock()
	l.w.broken = true
	l.w.mu.Unlock()
	var wrote sync.WaitGroup
	wrote.Go(func() {
		if n, err := proxy.Write([]byte("a1 NOOP\r\n")); n != 9 || !errors.Is(err, ErrLost) {
			t.Errorf("%d, %v", n, err)
		}
	})
	until(t, "it is taken", func() bool { return len(proxy.unconsumed()) == 9 })
	_ = r.far.Close()
	wrote.Wait()
	expectEnd(t, proxy, ErrLost)
	if n, err := proxy.Write([]byte("x")); n != 0 || !errors.Is(err, ErrLost) {
		t.Errorf("once more: %d, %v", n, err)
	}
	if got, rest, ok := proxy.LastCheckpoint(); string(got) != "base+one" || string(rest) != "a1 NOOP\r\n" || !ok {
		t.Errorf("%q, %q, %v", got, rest, ok)
	}
}

// The connection is lost, and a Write under way has not yet heard that its bytes never left:
// who asks what to go on with waits for it.
func TestLastCheckpointWaitsForTheWriter(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	backend.pointAnd(t, "base", "", "hello")
	expect(t, proxy, "hello")
	w := &proxy.link.w
	w.mu.Lock()
	w.busy = true // somebody else, for ever
	w.mu.Unlock()
	var wrote sync.WaitGroup
	wrote.Go(func() { _, _ = proxy.Write([]byte("a1 NOOP\r\n")) })
	until(t, "it is taken", func() bool { return len(proxy.unconsumed()) == 9 })
	w.mu.Lock() // nobody is told of the end
	_ = r.far.Close()
	expectEnd(t, proxy, ErrLost)
	asks := make(chan struct{})
	go func() {
		<-asks
		w.mu.Unlock()
	}()
	close(asks)
	if got, rest, ok := proxy.LastCheckpoint(); string(got) != "base" || string(rest) != "a1 NOOP\r\n" || !ok {
		t.Errorf("%q, %q, %v", got, rest, ok)
	}
	wrote.Wait()
}

// A proxy that can write no more still reads what the backend has said.
func TestLastWordsAreHeard(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	proxy.link.writeFailed(errors.New("as if"))
	backend.pointAnd(t, "base", "", "* BYE\r\n")
	expect(t, proxy, "* BYE\r\n")
	_ = r.far.Close()
	expectEnd(t, proxy, ErrLost)
	if got, _, ok := proxy.LastCheckpoint(); string(got) != "base" || !ok {
		t.Errorf("%q, %v", got, ok)
	}
}

// What could not be written, because the backend had closed the connection behind a hand-off that
// is yet to be read, is given back once.
func TestWrittenBehindTheHandOff(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	l := proxy.link
	l.w.mu.Lock()
	l.w.broken, l.w.unsent = true, l.w.batch
	l.w.mu.Unlock()
	var wrote sync.WaitGroup
	wrote.Go(func() {
		if n, err := proxy.Write([]byte("a1 NOOP\r\n")); n != 9 || !errors.Is(err, ErrLost) {
			t.Errorf("%d, %v", n, err)
		}
	})
	until(t, "it is taken", func() bool { return len(proxy.unconsumed()) == 9 })
	if err := backend.HandOff([]byte("state")); err != nil {
		t.Fatal(err)
	}
	_ = r.far.Close()
	expectEnd(t, proxy, ErrHandOff)
	wrote.Wait()
	if state, rest := proxy.HandedOff(); string(state) != "state" || string(rest) != "a1 NOOP\r\n" {
		t.Errorf("%q, %q", state, rest)
	}
}

// BenchmarkCommandsWithPoints is BenchmarkCommands with a checkpoint behind each answer: of
// nothing new, or with a tip.
func BenchmarkCommandsWithPoints(b *testing.B) {
	for _, how := range []string{"none", "same", "tip"} {
		b.Run(how, func(b *testing.B) {
			near, far := tlsPair(b, issue(b))
			proxy, backend := newRig(b, near, far, Options{HandOff: true}).open()
			_, _ = proxy.SetDeadline(time.Time{}), backend.SetDeadline(time.Time{})
			if err := backend.Point(0, 0, make([]byte, 250), nil); err != nil {
				b.Fatal(err)
			}
			go func() {
				line := make([]byte, 9)
				tip := make([]byte, 28)
				for n := uint64(9); ; n += 9 {
					if _, err := io.ReadFull(backend, line); err != nil {
						return
					}
					var err error
					tip[5]++
					switch how {
					case "same":
						err = backend.Point(n, n, nil, nil)
					case "tip":
						err = backend.Point(n, n, nil, tip)
					}
					if err == nil {
						_, err = backend.Write(line)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			}()
			got, before := make([]byte, 9), cpu()
			for b.Loop() {
				if _, err := io.WriteString(proxy, "a1 NOOP\r\n"); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(proxy, got); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// A session that was resumed and has said and heard nothing yet goes on from what it was
// resumed with, if that is quiet.
func TestResumedGoesOnFromItsState(t *testing.T) {
	for _, quiet := range []bool{true, false} {
		for _, said := range []bool{false, true} {
			r := carrying(t)
			id := handoff.NewID()
			if quiet {
				id = handoff.NewQuietID()
			}
			state := handoff.Seal(id, "imap", []byte("body"))
			s, w, err := r.client.Resume(t.Context(), wire.Hello{User: "alice"}, state)
			if err != nil || w.Status != wire.StatusOK {
				t.Fatalf("%+v, %v", w, err)
			}
			if said {
				send(t, s, "x")
			}
			_ = r.far.Close()
			expectEnd(t, s, ErrLost)
			if got, _, ok := s.LastCheckpoint(); ok != (quiet && !said) || ok && string(got) != string(state) {
				t.Errorf("quiet %t, said %t: %q, %t", quiet, said, got, ok)
			}
		}
	}
}

// What the client says once the backend is gone has not left, although nobody has read yet that
// it is.
func TestWrittenToADeadBackend(t *testing.T) {
	r := carrying(t)
	proxy, backend := r.open()
	backend.pointAnd(t, "base", "", "hello")
	expect(t, proxy, "hello")
	_ = r.far.Close()
	until(t, "it is gone", func() bool {
		select {
		case <-r.client.Done():
			return true
		default:
			return proxy.link.hungUp()
		}
	})
	said := "a1 NOOP\r\n"
	n, err := proxy.Write([]byte(said)) // it takes none when the loss has been read
	if !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	expectEnd(t, proxy, ErrLost)
	if got, rest, ok := proxy.LastCheckpoint(); string(got) != "base" || string(rest) != said[:n] || !ok {
		t.Errorf("%q, %q, %v", got, rest, ok)
	}
}
