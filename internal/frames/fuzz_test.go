package frames

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"waypost/internal/wire"
)

// on is a frame as it goes over the network.
func on(t Type, stream uint32, payload string) []byte {
	return append(AppendHeader(nil, Header{t, stream, uint32(len(payload))}), payload...)
}

// FuzzServe: whatever a proxy sends, the connection ends in order.
func FuzzServe(f *testing.F) {
	open := on(TypeOpen, 1, "{}")
	f.Add(open)
	f.Add(append(open, on(TypeData, 1, "\x00\x00\x00\x00\x00\x00\x00\x00QUIT")...))
	f.Add(append(open, on(TypeClientGone, 1, "")...))
	f.Add(append(open, on(TypePing, 0, "")...))
	f.Add(append(open, on(TypeClose, 1, "")...))
	resume := on(TypeResume, 1, "{}")
	f.Add(resume)
	f.Add(append(resume, on(TypeState, 1, "\x00sta")...))
	f.Add(append(resume, on(TypeState, 1, "\x01state")...))
	f.Add(append(append(resume, on(TypeState, 1, "\x01state")...), on(TypeState, 1, "\x01more")...))
	f.Add(append(append(resume, on(TypeState, 1, "\x00state")...), on(TypeClose, 1, "")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		near, far := net.Pipe()
		var writer, reader sync.WaitGroup
		reader.Go(func() { _, _ = io.Copy(io.Discard, near) })
		writer.Go(func() {
			_, _ = near.Write(in)
			near.Close()
		})
		err := Serve(context.Background(), far, bufio.NewReader(far), Options{HandOff: true}, func(_ context.Context, s *Stream, _ *wire.Hello) {
			if n := len(s.State()); n > len(in) {
				t.Errorf("%d bytes of state came of %d", n, len(in))
			}
			if s.Welcome(wire.Welcome{Status: wire.StatusOK}) == nil {
				n, _ := io.Copy(io.Discard, s)
				if n > int64(len(in)) {
					t.Errorf("%d bytes came of %d", n, len(in))
				}
			}
		})
		if err == nil {
			t.Error("ended without a reason")
		}
		far.Close()
		writer.Wait()
		reader.Wait()
	})
}

// FuzzClient: whatever a backend sends, the connection ends in order, and what is told of
// a hand-off came.
func FuzzClient(f *testing.F) {
	const zero, one = "\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01"
	welcome := on(TypeWelcome, 1, welcomeOK)
	f.Add(welcome)
	f.Add(append(welcome, on(TypeData, 1, zero+"hi")...))
	f.Add(append(welcome, on(TypeHandOff, 1, zero+zero)...))
	f.Add(append(append(welcome, on(TypeHandOff, 1, one+zero)...), on(TypeState, 1, "\x01s")...))
	f.Add(append(append(welcome, on(TypeCheckpoint, 1, zero+zero)...), on(TypeState, 1, "\x01s")...))
	f.Add(append(append(welcome, on(TypeCompress, 1, one)...), append(on(TypeHandOff, 1, one+zero), on(TypeState, 1, "\x01s")...)...))
	f.Add(append(append(welcome, on(TypeHandOff, 1, zero+zero)...), on(TypeClose, 1, "")...))
	f.Add(append(welcome, on(TypeState, 1, "\x01s")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		near, far := net.Pipe()
		var peer sync.WaitGroup
		peer.Go(func() {
			br := bufio.NewReader(far)
			var h wire.Hello
			if wire.Read(br, &h) != nil || wire.Write(far, wire.Welcome{Status: wire.StatusOK, Version: wire.VersionFrames, HandOff: true}) != nil {
				return
			}
			if _, err := io.ReadFull(br, make([]byte, HeaderBytes)); err != nil { // OPEN, so that there is a stream
				return
			}
			var reader sync.WaitGroup
			reader.Go(func() { _, _ = io.Copy(io.Discard, br) })
			_, _ = far.Write(in)
			far.Close()
			reader.Wait()
		})
		c, err := Dial(t.Context(), near, Options{HandOff: true})
		if err != nil {
			t.Fatal(err)
		}
		if s, _, err := c.Open(t.Context(), wire.Hello{}); err == nil && s != nil {
			written, _ := s.Write([]byte("ab"))
			var end error
			for n := 0; end == nil || errors.Is(end, ErrCompress); {
				var k int
				if k, end = s.Read(make([]byte, 100)); n > len(in) {
					t.Fatalf("%d bytes came of %d", n, len(in))
				}
				n += k
			}
			state, rest := s.HandedOff()
			checkpoint, unsent, ok := s.LastCheckpoint()
			if len(state)+len(checkpoint) > len(in) || len(rest)+len(unsent) > written || ok && !errors.Is(end, ErrLost) {
				t.Errorf("%v: state %q, rest %q, checkpoint %q, unsent %q, %v", end, state, rest, checkpoint, unsent, ok)
			}
		}
		c.Close()
		far.Close()
		peer.Wait()
	})
}
