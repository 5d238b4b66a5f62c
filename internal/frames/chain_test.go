package frames

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/internal/wire"
)

const (
	chainCommand = "a COMPRESS DEFLATE\r\n"
	chainOK      = "a OK begin\r\n"
)

// chain is a session that is handed off again and again, between two connections, with
// a client that sends and takes bytes all the while.
type chain struct {
	t    *rapid.T
	rigs [2]*rig

	up, down []byte // what they mean
	// plainUp and plainDown are where compression begins, behind command and OK; -1: never.
	plainUp, plainDown int
	hops               []hop
	piece              int // of the client's writes
	// settle has a backend wait, before it lets go, for bytes that nobody will read there.
	settle bool

	fromClient chan []byte
	told       chan struct{} // closed when the client has the OK
	moved      chan relayed
	switched   chan struct{}
	over       chan struct{} // closed when the way down has ended
	executed   []byte        // of the client's bytes, by all backends
}

// hop is what one backend does of the session before it lets go.
type hop struct{ write, read, ahead int }

// relayed is a session's new stream, and what its backend is to be sent first.
type relayed struct {
	s    *Stream
	rest []byte
	raw  bool
}

func (c *chain) check(what string, err error) {
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
	}
}

// engine is a backend's part: written of down, executed of up, unread of what was read.
func (c *chain) engine(s *Stream, state []byte, h hop, last bool) {
	written, begun, unread := 0, false, []byte(nil)
	if len(state) > 0 {
		written, begun = int(binary.BigEndian.Uint64(state)), state[8] == 1
		unread = bytes.Clone(state[9:])
	}
	take := func(n int) bool { // executes n bytes; false: there are no more
		for n > 0 {
			if len(unread) == 0 {
				ahead := make([]byte, h.ahead)
				if !begun && c.plainUp >= 0 { // a client waits for its OK
					ahead = ahead[:min(len(ahead), c.plainUp-len(c.executed))]
				}
				k, err := s.Read(ahead)
				unread = ahead[:k]
				if err == io.EOF {
					return false
				}
				if err != nil {
					c.t.Errorf("backend's read: %v", err)
					return false
				}
			}
			k := min(n, len(unread))
			c.executed, unread, n = append(c.executed, unread[:k]...), unread[k:], n-k
		}
		return true
	}
	say := func(n int) {
		_, err := s.Write(c.down[written : written+n])
		c.check("backend's write", err)
		written += n
	}
	for wl, rl := h.write, h.read; wl > 0 || rl > 0 || last; {
		w := min(wl, 30_000, len(c.down)-written)
		if !begun && c.plainDown >= 0 {
			w = min(w, c.plainDown-written)
		}
		say(w)
		wl -= w
		r := min(rl, 30_000)
		if !begun && c.plainUp >= 0 {
			r = min(r, c.plainUp-len(c.executed))
		}
		more := take(r)
		rl -= r
		if !begun && c.plainUp == len(c.executed) && len(c.executed) > 0 {
			say(c.plainDown - written)
			c.check("compress", s.Compress())
			begun = true
		}
		if last && !more {
			say(len(c.down) - written)
			c.check("end", s.CloseWrite())
			return
		}
		if last {
			wl, rl = len(c.down), len(c.up)+1 // until its end
		} else if w == 0 && r == 0 {
			break
		}
	}
	if c.settle {
		_ = s.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		_ = s.WaitRead()
	}
	state = binary.BigEndian.AppendUint64(nil, uint64(written))
	state = append(state, 0)
	if begun {
		state[8] = 1
	}
	c.check("hand-off", s.HandOff(append(state, unread...)))
}

// client sends what up means, and checks what comes down.
func (c *chain) client(down io.Reader) {
	var both sync.WaitGroup
	both.Go(func() {
		defer close(c.fromClient)
		text := bytes.Clone(c.up)
		if c.plainUp >= 0 {
			text = append(text[:c.plainUp:c.plainUp], shifted(text[c.plainUp:])...)
		}
		for at := 0; at < len(text); {
			if at == c.plainUp {
				<-c.told
			}
			n := min(c.piece, len(text)-at)
			if at < c.plainUp {
				n = min(n, c.plainUp-at)
			}
			select {
			case c.fromClient <- text[at : at+n]:
			case <-c.over: // it failed
				return
			}
			at += n
		}
		if len(text) == c.plainUp {
			<-c.told
		}
	})
	both.Go(func() {
		want := bytes.Clone(c.down)
		told := len(want)
		if c.plainDown >= 0 {
			want = append(want[:c.plainDown:c.plainDown], shifted(want[c.plainDown:])...)
			told = c.plainDown
		}
		got := make([]byte, told)
		_, err := io.ReadFull(down, got)
		close(c.told)
		c.check("client's read", err)
		rest, err := io.ReadAll(down)
		c.check("client's read", err)
		if got = append(got, rest...); !bytes.Equal(got, want) {
			c.t.Errorf("%d bytes came down of %d, or other ones", len(got), len(want))
		}
	})
	both.Wait()
}

// relayUp is the proxy's way up.
func (c *chain) relayUp(s *Stream) {
	on, gone, from := false, false, c.fromClient
	var give func(p []byte)
	follow := func(m relayed, p []byte) {
		s = m.s
		p = append(m.rest, p...)
		if m.raw {
			on, p = true, shifted(p)
		}
		give(p)
	}
	give = func(p []byte) {
		n, err := s.Write(p)
		p = p[n:]
		if errors.Is(err, ErrCompress) {
			var raw []byte
			if raw, err = s.Switch(); err == nil {
				on = true
				give(shifted(append(raw, p...)))
				return
			}
		}
		if errors.Is(err, ErrHandOff) {
			follow(<-c.moved, p)
			return
		}
		c.check("up", err)
	}
	hangUp := func() {
		for {
			err := s.HangUp()
			switch {
			case errors.Is(err, ErrCompress):
				give(nil)
				var raw []byte
				if raw, err = s.Switch(); err == nil {
					on = true
					give(shifted(raw))
				}
				continue
			case errors.Is(err, ErrHandOff):
				follow(<-c.moved, nil)
				continue
			}
			c.check("hang-up", err)
			return
		}
	}
	for {
		select {
		case p, ok := <-from:
			if !ok {
				from, gone = nil, true
				hangUp()
				continue
			}
			if on {
				p = shifted(p)
			}
			give(bytes.Clone(p))
		case m := <-c.moved:
			follow(m, nil)
			if gone {
				hangUp()
			}
		case <-c.switched:
			if raw, err := s.Switch(); err == nil {
				on = true
				give(shifted(raw))
				if gone {
					hangUp()
				}
			}
		case <-c.over:
			return
		}
	}
}

// relayDown is the proxy's way down. It goes on elsewhere after a hand-off.
func (c *chain) relayDown(s *Stream, to io.WriteCloser) {
	defer close(c.over)
	defer to.Close()
	deflated := false
	for at := 1; ; {
		p := make([]byte, 40_000)
		n, err := s.Read(p)
		if p = p[:n]; deflated {
			p = shifted(p)
		}
		_, werr := to.Write(p)
		c.check("down", werr)
		switch {
		case err == nil:
		case err == io.EOF:
			_ = s.Close()
			return
		case errors.Is(err, ErrCompress):
			deflated = true
			c.switched <- struct{}{}
		case errors.Is(err, ErrHandOff):
			state, rest := s.HandedOff()
			raw := s.SwitchDue()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			next, w, err := c.rigs[at%2].client.Resume(ctx, wire.Hello{User: "alice"}, state)
			cancel()
			if err != nil || w.Status != wire.StatusOK {
				c.t.Errorf("resume: %+v, %v", w, err)
				return
			}
			_ = next.SetDeadline(time.Now().Add(patience))
			c.moved <- relayed{next, rest, raw}
			_ = s.Close()
			s = next
			at++
		default:
			c.t.Errorf("down: %v", err)
			return
		}
	}
}

func (c *chain) run() {
	proxy, backend := c.rigs[0].open()
	var work sync.WaitGroup
	r, w := io.Pipe()
	work.Go(func() { c.client(r) })
	work.Go(func() { c.relayUp(proxy) })
	work.Go(func() { c.relayDown(proxy, w) })
	var state []byte
	for i, h := range c.hops {
		c.engine(backend, state, h, false)
		rig := c.rigs[(i+1)%2]
		select {
		case state = <-rig.states:
			backend = <-rig.served
		case <-c.over: // it failed
			work.Wait()
			return
		}
		_ = backend.SetDeadline(time.Now().Add(patience))
	}
	c.engine(backend, state, hop{ahead: 9000}, true)
	work.Wait()
	if !bytes.Equal(c.executed, c.up) {
		c.t.Errorf("%d bytes were executed of %d, or other ones", len(c.executed), len(c.up))
	}
}

// No byte is lost, and none comes twice, over any number of hand-offs, whatever is under
// way at them, and with compression beginning before, between, at and after them.
func TestChainOfHandOffs(t *testing.T) {
	size := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 200_000))
	rapid.Check(t, func(rt *rapid.T) {
		c := &chain{
			t: rt, rigs: [2]*rig{carrying(t), carrying(t)}, plainUp: -1, plainDown: -1,
			up: pattern(size.Draw(rt, "client's bytes"), 3), down: pattern(size.Draw(rt, "backends' bytes"), 5),
			piece:  rapid.IntRange(50, 70_000).Draw(rt, "piece"),
			settle: rapid.Bool().Draw(rt, "bytes under way"),

			fromClient: make(chan []byte), told: make(chan struct{}), moved: make(chan relayed), switched: make(chan struct{}, 1), over: make(chan struct{}),
		}
		if rapid.Bool().Draw(rt, "compression") {
			at := rapid.IntRange(0, len(c.up)).Draw(rt, "compression begins behind")
			c.up = append(append(append([]byte(nil), c.up[:at]...), chainCommand...), c.up[at:]...)
			c.plainUp = at + len(chainCommand)
			at = rapid.IntRange(0, len(c.down)).Draw(rt, "and behind")
			c.down = append(append(append([]byte(nil), c.down[:at]...), chainOK...), c.down[at:]...)
			c.plainDown = at + len(chainOK)
		}
		for i := range rapid.IntRange(0, 5).Draw(rt, "hand-offs") {
			h := hop{ahead: rapid.IntRange(1, 70_000).Draw(rt, "read ahead")}
			h.write = rapid.IntRange(0, len(c.down)).Draw(rt, fmt.Sprintf("written by %d", i))
			// Not more than is left, or it would wait for the client's end.
			left := len(c.up)
			for _, before := range c.hops {
				left -= before.read
			}
			h.read = rapid.IntRange(0, left).Draw(rt, fmt.Sprintf("read by %d", i))
			c.hops = append(c.hops, h)
		}
		c.run()
		for _, r := range c.rigs {
			r.client.Close()
		}
	})
}
