package frames

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// WindowUp and WindowDown bound what a side keeps of a stream: the client's bytes
	// at proxy and backend, and the backend's at the proxy.
	WindowUp   = 64 << 10
	WindowDown = 128 << 10

	// PieceBytes is what a writer with much to say best writes at once: two frames,
	// each of which fills a TLS record. A little more costs a record more.
	PieceBytes = 2 * sendBytes
	// sendBytes is how much one frame takes: what fits a TLS record with the head.
	sendBytes = 16<<10 - HeaderBytes - CounterBytes
	// readBytes is what a connection reads ahead: any frame but DATA is there as a whole.
	readBytes = HeaderBytes + 1 + MaxData
)

// Options bound a connection; zero values stand for the defaults.
type Options struct {
	// Write is how long the network may take for one frame (30 s); longer means that
	// the other side is dead.
	Write time.Duration
	// Ping is how often the proxy says that it is alive (30 s), and Silence how long
	// either side waits for a sign (2 min).
	Ping, Silence time.Duration
	// Idle is how long a proxy keeps a connection without streams (1 min).
	Idle time.Duration
	// HandOff: the proxy takes hand-offs. To Dial it says that this one does; Serve is
	// to be given the HandOff of the Hello that came.
	HandOff bool
	// MaxStreams bounds the streams of one connection at a backend (65,536).
	MaxStreams int
	// Draining tells a backend to open no more streams, and to end the connection
	// with the last one.
	Draining <-chan struct{}
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Write, 30*time.Second)
	set(&o.Ping, 30*time.Second)
	set(&o.Silence, 2*time.Minute)
	set(&o.Idle, time.Minute)
	if o.MaxStreams <= 0 {
		o.MaxStreams = 1 << 16
	}
	return o
}

// link is what both ends of a connection share.
type link struct {
	conn   net.Conn
	br     *bufio.Reader // of the reading goroutine, as is:
	readBy time.Time     // the deadline of reads
	opt    Options
	near   bool            // the proxy's end
	carry  bool            // both sides know of hand-offs; set before there are streams
	raw    syscall.RawConn // for hungUp; nil: there is none
	chunks chunks

	w writing
	// dying: nothing can be written any more, and what was said before is read, for lastWords.
	dying atomic.Bool

	mu       sync.Mutex // protects what follows
	streams  map[uint32]*Stream
	last     uint32 // the highest stream so far
	retired  bool   // no more streams
	states   int    // bytes of states that are kept
	changed  time.Time
	emptied  chan struct{} // told when streams got empty
	err      error
	finished chan struct{} // closed once err is set
}

func newLink(conn net.Conn, r io.Reader, opt Options, near bool) *link {
	l := &link{
		conn: conn, br: bufio.NewReaderSize(r, readBytes), opt: opt.withDefaults(), near: near,
		streams: map[uint32]*Stream{}, changed: time.Now(),
		emptied: make(chan struct{}, 1), finished: make(chan struct{}), raw: rawOf(conn, near),
	}
	l.w.begin()
	return l
}

// window is how much this end may send, and how much it may be sent.
func (l *link) window() (out, in uint64) {
	if l.near {
		return WindowUp, WindowDown
	}
	return WindowDown, WindowUp
}

// fail ends the connection, and its streams with it. The first reason counts.
func (l *link) fail(why error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err, l.retired = why, true
	lost := l.streams
	l.streams = map[uint32]*Stream{}
	close(l.finished)
	l.mu.Unlock()
	if errors.Is(why, os.ErrDeadlineExceeded) {
		why = fmt.Errorf("the other side is silent: %v", why) // a stream's own deadline is another thing
	}
	for _, s := range lost {
		s.lose(fmt.Errorf("%w: %w", ErrLost, why))
	}
	_ = l.conn.Close() // it may be broken already
	l.w.end()
}

// add makes the stream of that number; the caller holds mu.
func (l *link) add(id uint32) *Stream {
	s := &Stream{link: l, id: id}
	s.rcond.L, s.wcond.L = &s.mu, &s.mu
	l.streams[id], l.last = s, id
	return s
}

// forget: nothing more of this stream is of interest. It tells whether something was.
func (l *link) forget(id uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.streams[id]
	if !ok {
		return false
	}
	delete(l.streams, id)
	l.states -= s.states
	s.states = 0
	if len(l.streams) == 0 {
		l.changed = time.Now()
		select {
		case l.emptied <- struct{}{}:
		default:
		}
	}
	return true
}

// reserve takes room for n bytes of a stream's states, or gives it back; false: there
// is none.
func (l *link) reserve(s *Stream, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[s.id] != s {
		return true // forgotten: what it has will not stay
	}
	if n > 0 && l.states+n > maxStates {
		return false
	}
	l.states += n
	s.states += n
	return true
}

// stream gives nil for one that has been forgotten; one that never was is an error.
func (l *link) stream(id uint32) (*Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id > l.last {
		return nil, fmt.Errorf("stream %d was never opened: %w", id, ErrProtocol)
	}
	return l.streams[id], nil
}

// retire ends the opening of streams.
func (l *link) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	select {
	case l.emptied <- struct{}{}:
	default:
	}
}

// streamCount is how many are open.
func (l *link) streamCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams)
}

// peek waits for n bytes.
func (l *link) peek(n int) ([]byte, error) {
	if l.br.Buffered() < n {
		if at, due := atLeast(l.readBy, l.opt.Silence); due {
			if err := l.conn.SetReadDeadline(at); err != nil {
				return nil, err
			}
			l.readBy = at
		}
		if l.dying.Load() { // the deadline that was set then may have been overwritten
			if err := l.conn.SetReadDeadline(time.Now().Add(lastWords)); err != nil {
				return nil, err
			}
		}
	}
	return l.br.Peek(n)
}

// read takes frames in until the connection fails. handle gets what is not about a
// stream that is open, and must not block but for a frame's writing at a backend:
// proxies never write from here, so there is always one side that reads.
func (l *link) read(handle func(h Header, payload []byte) error) error {
	for {
		b, err := l.peek(HeaderBytes)
		if err != nil {
			return err
		}
		h, err := ParseHeader(b)
		if err != nil {
			return err
		}
		if r, _ := ruleOf(h.Type); r.from&l.otherSide() == 0 {
			return fmt.Errorf("%s from the wrong side: %w", h.Type, ErrProtocol)
		}
		l.discard(HeaderBytes)
		if h.Type == TypeData {
			err = l.data(h)
		} else {
			err = l.frame(h, handle)
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) otherSide() side {
	if l.near {
		return fromBackend
	}
	return fromProxy
}

// discard drops bytes that were peeked at.
func (l *link) discard(n int) {
	_, _ = l.br.Discard(n) // they are in the buffer
}

// data gives a frame's bytes to their stream as they come.
func (l *link) data(h Header) error {
	b, err := l.peek(CounterBytes)
	if err != nil {
		return err
	}
	count := binary.BigEndian.Uint64(b)
	l.discard(CounterBytes)
	s, err := l.stream(h.Stream)
	if err != nil {
		return err
	}
	if s != nil {
		if err := s.acknowledge(count); err != nil {
			return err
		}
	}
	for left := int(h.Length) - CounterBytes; left > 0; {
		if _, err := l.peek(1); err != nil {
			return err
		}
		b, err := l.br.Peek(min(left, l.br.Buffered()))
		if err != nil {
			return err
		}
		if s != nil {
			if err := s.deliver(b); err != nil {
				return err
			}
		}
		left -= len(b)
		l.discard(len(b))
	}
	return nil
}

// frame takes a frame that is not DATA.
func (l *link) frame(h Header, handle func(h Header, payload []byte) error) error {
	payload, err := l.peek(int(h.Length))
	if err != nil {
		return err
	}
	defer l.discard(len(payload))
	if r, _ := ruleOf(h.Type); r.link || h.Type == TypeOpen || h.Type == TypeResume || h.Type == TypeState && !l.near {
		return handle(h, payload)
	}
	s, err := l.stream(h.Stream)
	if s == nil {
		return err
	}
	if err := s.control(h.Type, payload); err != nil {
		return err
	}
	if h.Type == TypeClose {
		l.forget(h.Stream)
	}
	return nil
}

// reason makes an error of what ended the reading.
func reason(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the other side closed the connection")
	}
	return err
}
