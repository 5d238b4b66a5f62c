package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/wire"
)

// A session goes on at the new home, as itself, as soon as the record is active there.
func TestHandOff(t *testing.T) {
	for _, protocol := range []string{protoIMAP, protoPOP3} {
		t.Run(protocol, func(t *testing.T) {
			h := newHouse(t)
			b1, b2 := carriers(h)
			h.start()
			k := h.imap
			if protocol == protoPOP3 {
				k = h.pop3
			}
			c := k()
			c.Run(nil, "C: where\nS: b1")
			h.dir.set(alice, busy("b1", "b2", 2))
			b1.letGo()
			h.parkedNow(1)
			if n := len(b2.goneOn()); n != 0 {
				t.Errorf("%d sessions resumed while the record is busy", n)
			}
			c.Send("where\r\n") // which waits in the kernel
			h.dir.set(alice, active("b2", 3))
			c.Run(nil, "S: b2\nC: x\nS: x")
			said, resumed := b1.said(), b2.goneOn()
			if len(resumed) != 1 || len(b2.said()) != 0 {
				t.Fatalf("%d resumed, %d new", len(resumed), len(b2.said()))
			}
			want := said[0]
			want.Home, want.Epoch, want.Try = "b2", 3, 2
			if want.POP3 != nil {
				want.POP3, resumed[0].POP3 = nil, nil
			}
			if resumed[0] != want {
				t.Errorf("hello %+v, want %+v", resumed[0], want)
			}
			h.until("the bytes are counted", func() bool { return h.server.registry.list(alice)[0].BytesIn == 17 })
			if list := h.server.registry.list(alice); len(list) != 1 || list[0].Backend != "b2" || list[0].ID != want.Session {
				t.Errorf("listed: %+v", list)
			}
			if h.metric("sessions_handed_off_total") != 1 || h.metric("sessions_resumed_total") != 1 || h.metric("sessions_parked") != 0 ||
				h.metric("sessions_not_carried_total") != 0 || h.metric("logins_held_total") != 0 || h.server.parked.Load() != 0 {
				t.Error("it is counted wrongly")
			}
			h.until("an idle session holds no buffer", func() bool { return h.server.buffers.inUse.Load() == 0 })
			h.move(b2, b1)
			c.Run(nil, "C: where\nS: b1")
		})
	}
}

// A client that sends all the while loses no line, and none is executed twice.
func TestHandOffsUnderLoad(t *testing.T) {
	for _, name := range []string{"pop3", "pop3s", "imap", "imaps"} {
		t.Run(name, func(t *testing.T) {
			h, client := tlsHouse(t)
			h.cfg.AllowPlaintext, h.cfg.IMAPS = true, []string{"127.0.0.1:0"}
			b1, b2 := carriers(h)
			h.start()
			var to io.Writer
			var flush func() error
			var from io.Reader
			if strings.HasPrefix(name, "pop3") {
				k := h.dial(name)
				if name == "pop3s" {
					k.StartTLS(client)
				}
				k.Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: +OK ...")
				to, from, flush = k.Conn, k.R, func() error { return nil }
			} else { // compressed
				p := compress(h, name == "imaps")
				to, from, flush = p.w, p.r, p.w.Flush
			}
			const lines = 3000
			line := func(i int) string { return fmt.Sprintf("%d %s\r\n", i, strings.Repeat("x", i%300)) }
			sent := make(chan error, 1)
			go func() {
				for i := range lines {
					_, err := io.WriteString(to, line(i))
					if err = errors.Join(err, flush()); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			old, next := b1, b2
			for i := range lines {
				if i%200 == 100 {
					h.move(old, next)
					old, next = next, old
				}
				got := make([]byte, len(line(i)))
				if n, err := io.ReadFull(from, got); err != nil || string(got) != line(i) {
					t.Fatalf("%q, %v; want %q", got[:n], err, line(i))
				}
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if n := h.metric("sessions_resumed_total"); n < 3 {
				t.Errorf("%v hand-offs", n)
			}
			h.until("an idle session holds no buffer", func() bool { return h.server.buffers.inUse.Load() == 0 })
		})
	}
}

// What is on its way to a slow client comes, before anything of the new home.
func TestHandOffToASlowClient(t *testing.T) {
	h := newHouse(t)
	b1, _ := carriers(h)
	h.start()
	k := h.imap()
	h.dir.set(alice, busy("b1", "b2", 2))
	k.Send("big and let go\r\nwhere\r\n")
	h.until("it waits for its client", func() bool {
		for _, s := range h.server.registry.list(alice) {
			return s.BytesOut > 0
		}
		return false
	})
	b1.answer(wire.StatusStale)
	h.dir.set(alice, active("b2", 3))
	want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	got := make([]byte, len(want))
	if n, err := io.ReadFull(k.R, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes: %v", n, err)
	}
	k.Run(nil, "S: b2")
}

// Compression is the proxy's, and goes on.
func TestHandOffCompressed(t *testing.T) {
	h, _ := tlsHouse(t)
	h.cfg.AllowPlaintext, h.cfg.IMAPS = true, []string{"127.0.0.1:0"}
	from, to := carriers(h)
	h.start()
	for _, overTLS := range []bool{false, true} {
		p := compress(h, overTLS)
		for i := range 10 {
			p.line(strings.Repeat(string(rune('a'+i)), i*3000) + "\r\n")
			h.move(from, to)
			from, to = to, from
			if i%2 == 0 {
				h.until("it is over there", func() bool {
					for _, s := range h.server.registry.list(alice) {
						return s.Backend == from.id
					}
					return false
				})
			}
		}
		p.line("x\r\n")
		p.k.Conn.Close()
		h.until("no session is left", func() bool { return h.server.Sessions() == 0 })
	}
}

// A hand-off in the middle of COMPRESS: what the client had sent beyond is deflated.
func TestHandOffCrossingCompress(t *testing.T) {
	h := newHouse(t)
	carriers(h)
	h.start()
	for i := range 40 { // each turn is another race at the proxy
		h.dir.set(alice, active("b1", director.Epoch(2*i+10)))
		p := compressWith(h, "COMPRESS and let go")
		h.dir.set(alice, active("b2", director.Epoch(2*i+11)))
		p.line("b NOOP\r\n")
		p.line(strings.Repeat("c", i*1000) + "\r\n")
		if i%2 == 0 { // and the client ends at once
			p.send("last\r\n")
			if err := p.k.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			p.expect("last\r\n")
			continue
		}
		p.k.Conn.Close()
	}
}

// compressWith begins to compress, behind a command of that name.
func compressWith(h *house, command string) *packed {
	h.t.Helper()
	k := h.imap()
	k.Run(nil, "C: "+command+"\nS: a OK begin")
	return newPacked(k)
}

// A client that ends its side right behind COMPRESS has what it sent executed all the same.
func TestCompressAndHalfClose(t *testing.T) {
	h, b := homely(t)
	b.set(func() { b.play = b.carry })
	h.start()
	for range 40 { // the switch is a race at the proxy
		p := compressWith(h, "a COMPRESS DEFLATE")
		p.send("b NOOP\r\n")
		if err := p.k.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.expect("b NOOP\r\nb1: \"\" left\r\n")
	}
}

// A few bytes that mean a great many are not kept as what they mean.
func TestHandOffOfABomb(t *testing.T) {
	h := newHouse(t)
	b1, b2 := carriers(h)
	bomb, size := bomb(t)
	took := make(chan int64, 1)
	b2.onResume(func(_ wire.Hello, s *frames.Stream) {
		n := int64(len(s.State()))
		if s.Welcome(wire.Welcome{Status: wire.StatusOK}) == nil {
			m, _ := io.Copy(io.Discard, s)
			took <- n + m
		}
	})
	h.start()
	p := compress(h, false)
	h.dir.set(alice, busy("b1", "b2", 2))
	b1.letGo()
	p.k.Send(bomb)
	h.parkedNow(1)
	if n := h.server.parked.Load(); n > 2<<20 {
		t.Errorf("%d bytes are kept", n)
	}
	p.k.Conn.Close()
	h.dir.set(alice, active("b2", 3))
	if n := <-took; n != size {
		t.Errorf("%d bytes of %d", n, size)
	}
}

// A client that has ended its side is told of to the new home, whenever it ended; what it
// had said before is executed.
func TestHandOffOfAHalfClosedClient(t *testing.T) {
	for name, before := range map[string]bool{"before": true, "while parked": false} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			b1, _ := carriers(h)
			h.start()
			k := h.pop3()
			k.Run(nil, "C: where\nS: b1")
			end := func() {
				t.Helper()
				k.Send("where\r\nDELE")
				if err := k.Conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			h.dir.set(alice, busy("b1", "b2", 2))
			b1.letGo()
			if before {
				// Whether it comes to b1 or not: the pumps race with the hand-off.
				end()
			}
			h.parkedNow(1)
			if !before {
				end()
			}
			h.dir.set(alice, active("b2", 3))
			k.Run(nil, "S: b2\nS: b2: \"DELE\" left\nEND")
		})
	}
}
