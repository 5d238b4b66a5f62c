package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// Errors of a Stream, besides io.EOF, net.ErrClosed and os.ErrDeadlineExceeded.
var (
	// ErrLost: the connection broke. To a backend the proxy is gone, which says
	// nothing of the client.
	ErrLost = fmt.Errorf("the connection that sessions share is lost: %w", io.ErrUnexpectedEOF)
	// ErrPeerClosed: the other side takes no more.
	ErrPeerClosed = fmt.Errorf("the other side has closed the session: %w", syscall.EPIPE)
	// ErrCompress is not a failure, and only a proxy gets it: see Stream.Switch.
	ErrCompress = errors.New("compression begins")
	// ErrCompressed: Compress was called before.
	ErrCompressed = errors.New("compression is on already")
)

// end is how far the other side has gone with a stream.
type end uint8

const (
	endNot end = iota
	endHalf
	endClient // the client has gone
	endClosed // it has forgotten the stream
)

// compression is where a stream is with it.
type compression uint8

const (
	plain compression = iota
	// crossing: a backend waits for COMPRESSED; a proxy has to Switch.
	crossing
	compressed
)

// Stream is one session at one end: a net.Conn. One goroutine may read while others
// write, close and set deadlines. While nothing is on its way it holds no buffer, and
// it has no goroutine.
type Stream struct {
	link   *link
	id     uint32
	answer chan welcome // of Client.Open, while it waits

	wmu    sync.Mutex // held while frames are sent whose order counts
	hold   atomic.Bool
	points bool // at a backend: the proxy takes POINT; set before it is used

	mu           sync.Mutex // protects what follows
	rcond, wcond sync.Cond

	in                        fifo // what was received and not consumed
	received, consumed, acked uint64
	// marked is set at a proxy while COMPRESS came behind mark received bytes, and
	// Read has not told so.
	marked bool
	mark   uint64

	tail       fifo // at a proxy: what was sent and not consumed
	sent, seen uint64
	unsent     uint64 // of sent, when the connection is lost: what surely never left

	other       end  // of the other side
	gone        bool // the client
	halfClosed  bool // we have ended
	closed      bool
	compression compression
	err         error // the connection is lost
	letGo       bool  // HAND-OFF was sent, or came: nothing is written any more
	carried     *carried

	states int // bytes; the link's mu protects it

	read, write deadline
}

// ID is the stream's number on its connection, for logs.
func (s *Stream) ID() uint32 { return s.id }

// LocalAddr and RemoteAddr are the connection's.
func (s *Stream) LocalAddr() net.Addr  { return s.link.conn.LocalAddr() }
func (s *Stream) RemoteAddr() net.Addr { return s.link.conn.RemoteAddr() }

// Read implements net.Conn. The end is io.EOF, ErrHandOff or ErrLost, after all that came
// before it. A proxy's Read gives ErrCompress once, between the last byte for the client that
// goes plain and the first one that goes deflated.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	if err := s.await(); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	if s.marked {
		if s.consumed == s.mark {
			s.marked = false
			s.mu.Unlock()
			return 0, ErrCompress
		}
		p = p[:min(uint64(len(p)), s.mark-s.consumed)]
	}
	n := s.in.read(&s.link.chunks, p)
	s.consumed += uint64(n)
	_, window := s.link.window()
	if s.consumed-s.acked < window/2 {
		s.mu.Unlock()
		return n, nil
	}
	s.tellConsumed()
	s.mu.Unlock()
	return n, nil
}

// WaitRead returns when Read would: nil, or a passed deadline, or net.ErrClosed. Who
// waits with it needs no buffer meanwhile.
func (s *Stream) WaitRead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.await()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// await returns nil when there is something to read; mu is held, but not all the time.
func (s *Stream) await() error {
	for {
		switch {
		case s.closed:
			return fmt.Errorf("read: %w", net.ErrClosed)
		case s.letGo && !s.link.near:
			return ErrHandOff
		case s.read.passed:
			return os.ErrDeadlineExceeded
		case s.in.len > 0, s.marked:
			return nil
		case s.carried.handedOff():
			return ErrHandOff
		case s.other != endNot:
			return io.EOF
		case s.err != nil:
			return s.err
		}
		if !s.link.near && s.consumed > s.acked && s.compression != crossing {
			// The proxy need not keep it while we wait.
			s.tellConsumed()
			continue
		}
		s.rcond.Wait()
	}
}

// tellConsumed sends CONSUMED; mu is held, but not while it does. That the connection
// is lost shows in s.err.
func (s *Stream) tellConsumed() {
	n := s.consumed
	s.acked = n
	s.mu.Unlock()
	_ = s.link.sendCount(TypeConsumed, s.id, n, nil)
	s.mu.Lock()
}

// Write implements net.Conn. A proxy's Write gives ErrCompress when the bytes that
// were not written, and some before them, are deflated: see Switch. It gives ErrHandOff
// when the backend takes no more of them: see HandedOff. What it gives as written at a proxy was
// taken, be there an error or not: it is consumed, or given back by HandedOff or LastCheckpoint,
// or lost with a session that cannot go on, and never to be written again.
func (s *Stream) Write(p []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	done := 0
	for done < len(p) {
		n, acked, err := s.spend(p[done:])
		if err != nil {
			return done, err
		}
		hold := done+n == len(p) && s.hold.Swap(false)
		err = s.link.putCount(TypeData, s.id, acked, p[done:done+n], hold)
		if err == nil || s.link.near {
			done += n
		}
		if err != nil {
			if errors.Is(err, errUnsent) {
				s.mu.Lock()
				s.unsent += uint64(n)
				s.mu.Unlock()
			}
			return done, err
		}
	}
	return done, nil
}

// spend waits for credit and takes it for some of p, which it enters as sent.
func (s *Stream) spend(p []byte) (n int, acked uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	window, _ := s.link.window()
	for {
		switch {
		case s.closed || s.halfClosed:
			return 0, 0, fmt.Errorf("write: %w", net.ErrClosed)
		case s.err != nil:
			return 0, 0, s.err
		case s.letGo:
			return 0, 0, ErrHandOff
		case s.link.near && s.compression == crossing:
			return 0, 0, ErrCompress
		case s.other == endClosed:
			return 0, 0, ErrPeerClosed
		case s.write.passed:
			return 0, 0, os.ErrDeadlineExceeded
		}
		if room := window - (s.sent - s.seen); room > 0 {
			n = int(min(uint64(len(p)), room, sendBytes))
			break
		}
		s.wcond.Wait()
	}
	s.sent += uint64(n)
	if s.link.near {
		s.tail.append(&s.link.chunks, p[:n])
	}
	s.acked = s.consumed
	return n, s.acked, nil
}

// CloseWrite tells that this side sends no more, and that this is no hang-up.
func (s *Stream) CloseWrite() error { return s.endWriting(TypeEnd) }

// HangUp is a proxy's CloseWrite for a client that hung up or was silent too long. It
// gives ErrCompress and ErrHandOff where Write would.
func (s *Stream) HangUp() error { return s.endWriting(TypeClientGone) }

func (s *Stream) endWriting(t Type) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	var err error
	switch {
	case s.closed:
		err = fmt.Errorf("close for writing: %w", net.ErrClosed)
	case s.err != nil:
		err = s.err
	case s.letGo:
		err = ErrHandOff
	case s.link.near && s.compression == crossing:
		err = ErrCompress
	}
	if err != nil || s.halfClosed {
		s.mu.Unlock()
		return err
	}
	s.halfClosed = true
	s.mu.Unlock()
	return s.link.send(t, s.id, nil, nil)
}

// ClientGone tells, after Read gave io.EOF at a backend, whether that is because the
// client is gone; otherwise the proxy ended the session.
func (s *Stream) ClientGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// Close implements net.Conn: the other side reads what was written, and then io.EOF.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("close: %w", net.ErrClosed)
	}
	s.closed, s.carried = true, nil
	tell := s.err == nil && s.other != endClosed
	s.in.drop(&s.link.chunks, s.in.len)
	s.tail.drop(&s.link.chunks, s.tail.len)
	s.read.stop()
	s.write.stop()
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	s.mu.Unlock()
	s.link.forget(s.id)
	if tell {
		_ = s.link.send(TypeClose, s.id, nil, nil) // a lost connection tells by itself
	}
	return nil
}

// lose: the connection is lost.
func (s *Stream) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.answered(welcome{err: err})
	s.rcond.Broadcast()
	s.wcond.Broadcast()
}

// deliver takes bytes that came.
func (s *Stream) deliver(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.link.near && (s.compression == crossing || s.letGo) || s.closed {
		return nil // to be sent again, here or elsewhere, or of no interest
	}
	if s.other != endNot || s.letGo {
		return fmt.Errorf("DATA behind the end: %w", ErrProtocol)
	}
	_, window := s.link.window()
	s.received += uint64(len(p))
	if s.received-s.consumed > window {
		return fmt.Errorf("DATA beyond the window: %w", ErrProtocol)
	}
	s.in.append(&s.link.chunks, p)
	s.carried.reached(s.received)
	s.rcond.Broadcast()
	return nil
}

// acknowledge: the other side has consumed so much.
func (s *Stream) acknowledge(count uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credit(count)
}

func (s *Stream) credit(count uint64) error {
	if count > s.sent {
		return fmt.Errorf("%d of %d bytes consumed: %w", count, s.sent, ErrProtocol)
	}
	if count <= s.seen { // two frames can overtake each other
		return nil
	}
	s.tail.drop(&s.link.chunks, int(count-s.seen))
	s.seen = count
	s.wcond.Broadcast()
	return nil
}

// ended is END or CLIENT-GONE; mu is held. Before COMPRESSED it is to be said again.
func (s *Stream) ended(t Type) {
	switch {
	case !s.link.near && s.compression == crossing && s.link.carry:
	case t == TypeEnd:
		s.other = max(s.other, endHalf)
	default:
		s.other, s.gone = max(s.other, endClient), true
	}
}

// control takes a frame about the stream that is not DATA.
func (s *Stream) control(t Type, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t {
	case TypeConsumed:
		return s.credit(binary.BigEndian.Uint64(payload))
	case TypeWelcome:
		return s.welcomed(payload)
	case TypeCompress:
		return s.compressFrom(binary.BigEndian.Uint64(payload))
	case TypeCompressed:
		if s.compression != crossing {
			return fmt.Errorf("%s unasked: %w", t, ErrProtocol)
		}
		s.compression = compressed
	case TypeEnd, TypeClientGone:
		s.ended(t)
	case TypeClose:
		s.closedBy()
	case TypeHandOff, TypeCheckpoint, TypeState:
		if err := s.carry(t, payload); err != nil {
			return err
		}
	case TypePoint:
		return s.pointed(payload)
	}
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	return nil
}
