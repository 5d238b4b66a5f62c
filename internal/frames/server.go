package frames

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"waypost/internal/wire"
)

// Handler serves a session on its own goroutine. It answers the Hello with
// Stream.Welcome; the Stream is closed when it returns.
type Handler = func(ctx context.Context, s *Stream, h *wire.Hello)

// ErrDrained is what Serve gives after Options.Draining and the last session.
var ErrDrained = errors.New("drained")

// Serve answers the Hello of frames that came on conn, whatever was read behind it
// being in r, and serves sessions until the connection ends, or ctx does, which ends
// it. It returns why, once all handlers have returned. Closing conn is left to the
// caller, too.
func Serve(ctx context.Context, conn net.Conn, r io.Reader, opt Options, handle Handler) error {
	v := &server{link: newLink(conn, r, opt, false), ctx: ctx, serve: handle}
	v.carry = opt.HandOff
	if err := wire.Write(conn, wire.Welcome{Status: wire.StatusOK, Version: wire.VersionFrames, HandOff: opt.HandOff}); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	unhook := context.AfterFunc(ctx, func() { v.fail(context.Cause(ctx)) })
	defer unhook()
	var draining sync.WaitGroup
	draining.Go(v.drain)
	err := v.link.read(v.handle)
	if errors.Is(err, io.EOF) && v.draining.Load() && v.streamCount() == 0 {
		err = ErrDrained
	}
	v.fail(reason(err))
	draining.Wait()
	v.handlers.Wait()
	return v.err
}

type server struct {
	*link
	ctx      context.Context
	serve    Handler
	handlers sync.WaitGroup // none is added once retired
	draining atomic.Bool    // GO-AWAY was said, or is about to be
}

// lastWords is how long a proxy may take to close a connection that is drained. What it
// had sent before it heard of that is answered until then, so that it can go elsewhere. So
// long a proxy reads, too, from a backend to which it cannot write any more.
const lastWords = 2 * time.Second

// drain ends the connection with its last session when it must.
func (v *server) drain() {
	select {
	case <-v.finished:
		return
	case <-v.opt.Draining:
	}
	v.draining.Store(true)
	v.retire()
	_ = v.send(TypeGoAway, 0, nil, nil) // a lost connection has ended, too
	v.refuseWaiting()
	v.handlers.Wait()
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-v.finished:
	case <-t.C:
	}
	v.fail(ErrDrained)
}

func (v *server) handle(h Header, payload []byte) error {
	switch h.Type {
	case TypePing:
		return v.send(TypePong, 0, nil, nil)
	case TypeOpen:
		return v.open(h, payload)
	case TypeResume:
		if v.carry {
			return v.open(h, payload)
		}
	case TypeState:
		return v.state(h.Stream, payload)
	}
	return fmt.Errorf("%s, which this side does not know of: %w", h.Type, ErrProtocol)
}

// open begins a session; one that is resumed, when its state is there. One that comes
// when no more are opened is closed, or refused: the proxy is to go elsewhere.
func (v *server) open(h Header, payload []byte) error {
	hello, err := decodeHello(payload)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Type, errors.Join(ErrProtocol, err))
	}
	v.mu.Lock()
	if h.Stream <= v.last {
		v.mu.Unlock()
		return fmt.Errorf("%s of stream %d after %d: %w", h.Type, h.Stream, v.last, ErrProtocol)
	}
	if v.retired || len(v.streams) >= v.opt.MaxStreams {
		v.last = h.Stream
		v.mu.Unlock()
		if h.Type == TypeResume {
			return v.tellRefused(h.Stream)
		}
		return v.send(TypeClose, h.Stream, nil, nil)
	}
	s := v.add(h.Stream)
	s.points = v.carry && hello.Points
	if h.Type == TypeResume {
		s.carried = &carried{of: TypeResume, hello: &hello.Hello}
		v.mu.Unlock()
		return nil
	}
	v.handlers.Add(1)
	v.mu.Unlock()
	go v.session(s, &hello.Hello)
	return nil
}

// session is a stream's goroutine. Its locals lie on the stack of every session that waits.
func (v *server) session(s *Stream, hello *wire.Hello) {
	defer v.handlers.Done()
	defer s.Close()
	v.serve(v.ctx, s, hello)
}

// Welcome answers the Hello, at a backend. After another status than ok the session is
// over.
func (s *Stream) Welcome(w wire.Welcome) error {
	text, err := encodeWelcome(w)
	if err == nil && len(text) > maxLine {
		err = wire.ErrLine
	}
	if err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	if w.Status == wire.StatusOK {
		defer s.dropState()
	}
	return s.link.put(TypeWelcome, s.id, nil, text, s.hold.Swap(false))
}
