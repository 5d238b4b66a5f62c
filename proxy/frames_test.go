package proxy

import (
	"bufio"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"waypost/internal/frames"
	"waypost/internal/wire"
	"waypost/proxy/proxytest"
)

// A backend of before frames gets a connection for each session, and the proxy need
// not ask it each time. One that is upgraded gets frames after a while.
func TestOlderBackend(t *testing.T) {
	h, b := homely(t)
	b.mu.Lock()
	b.old = true
	b.mu.Unlock()
	h.start()
	for range 3 {
		k := h.imap()
		k.Run(nil, "C: x\nS: x\nC: LOGOUT\nS: * BYE bye\nS: LOGOUT OK done\nEND")
	}
	h.pop3().Run(nil, "C: x\nS: x\nC: QUIT\nS: +OK bye\nEND")
	if n := len(b.said()); n != 4 {
		t.Errorf("%d sessions", n)
	}
	if h.metric("backend_errors_total") != 0 {
		t.Error("an older backend counts as an error")
	}
	b.mu.Lock()
	b.old = false
	b.mu.Unlock()
	l := h.server.links
	l.mu.Lock()
	for _, trunk := range l.all {
		trunk.plain = time.Now()
	}
	l.mu.Unlock()
	h.imap().Run(nil, "C: x\nS: x")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, trunk := range l.all {
		if len(trunk.clients) != 1 {
			t.Errorf("%d connections", len(trunk.clients))
		}
	}
}

// Many sessions share a few connections; a lost one ends its sessions and is replaced.
func TestSharedConnections(t *testing.T) {
	h, b := homely(t)
	h.cfg.MaxUnauthenticatedPerAddress = 1000
	h.start()
	var all []*proxytest.Client
	for range linkSessions + 20 {
		all = append(all, h.imap())
	}
	for i, k := range all {
		k.Run(nil, fmt.Sprintf("C: %d\nS: %d", i, i))
	}
	b.mu.Lock()
	n := len(b.conns)
	b.mu.Unlock()
	if n < 1 || n > 2 {
		t.Errorf("%d sessions over %d connections", len(all), n)
	}
	b.reset()
	for _, k := range all {
		k.Run(nil, "S: * BYE [UNAVAILABLE] ...\nEND")
	}
	h.imap().Run(nil, "C: x\nS: x")
}

// What a backend is told of the end of a session.
func TestBackendIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(h *house, k *proxytest.Client)
		want string
	}{
		"hang-up": {func(_ *house, k *proxytest.Client) { k.Conn.Close() }, "EOF, client gone: true"},
		"reset": {func(_ *house, k *proxytest.Client) {
			_ = k.Conn.(*net.TCPConn).SetLinger(0)
			k.Conn.Close()
		}, "EOF, client gone: true"},
		"disabled": {func(h *house, _ *proxytest.Client) {
			h.dir.setAccount(alice, h.dir.accounts[alice], true)
		}, "EOF, client gone: false"},
		"proxy gone": {func(h *house, _ *proxytest.Client) { h.server.links.close() }, "unexpected EOF, client gone: false"},
	} {
		t.Run(name, func(t *testing.T) {
			h, b := homely(t)
			ended := make(chan string, 1)
			b.play = func(_ wire.Hello, conn net.Conn, r *bufio.Reader) {
				line, _ := r.ReadString('\n')
				_, err := r.ReadByte()
				text := fmt.Sprint(err)
				if strings.Contains(text, io.ErrUnexpectedEOF.Error()) {
					text = io.ErrUnexpectedEOF.Error()
				}
				ended <- fmt.Sprintf("%s%s, client gone: %v", line, text, conn.(*frames.Stream).ClientGone())
			}
			h.start()
			k := h.pop3()
			k.Send("STAT\r\n")
			h.until("it has come", func() bool {
				for _, s := range h.server.registry.list(alice) {
					return s.BytesIn == 6
				}
				return false
			})
			c.end(h, k)
			if got := <-ended; got != "STAT\r\n"+c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// compressing answers COMPRESS, and then as echo does.
func compressing(h wire.Hello, c net.Conn, r *bufio.Reader) {
	fmt.Fprint(c, "* PREAUTH [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE] ready\r\n")
	if line, err := r.ReadString('\n'); err != nil || line != "a COMPRESS DEFLATE\r\n" {
		fmt.Fprintf(c, "a BAD %q, %v\r\n", line, err)
		return
	}
	fmt.Fprint(c, "a OK begin\r\n")
	if err := c.(interface{ Compress() error }).Compress(); err != nil {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, line); err != nil || strings.HasPrefix(line, "* BYE") {
			return
		}
	}
}

// packed is a client's end of compression.
type packed struct {
	k *proxytest.Client
	w *flate.Writer
	r *bufio.Reader
}

func compress(h *house, overTLS bool) *packed {
	h.t.Helper()
	var k *proxytest.Client
	if overTLS {
		k = h.dial("imaps")
		k.StartTLS(proxytest.ClientTLS(h.t, h.cfg.CertFile))
		k.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a OK ...")
	} else {
		k = h.imap()
	}
	k.Run(nil, "C: a COMPRESS DEFLATE\nS: a OK begin")
	return newPacked(k)
}

// newPacked is a client that has just been told that compression begins.
func newPacked(k *proxytest.Client) *packed {
	k.T.Helper()
	w, err := flate.NewWriter(k.Conn, flate.DefaultCompression)
	if err != nil {
		k.T.Fatal(err)
	}
	return &packed{k, w, bufio.NewReader(flate.NewReader(k.R))}
}

// line is echoed.
func (p *packed) line(text string) {
	p.k.T.Helper()
	p.send(text)
	p.expect(text)
}

func (p *packed) send(text string) {
	p.k.T.Helper()
	if _, err := io.WriteString(p.w, text); err != nil {
		p.k.T.Fatal(err)
	}
	if err := p.w.Flush(); err != nil {
		p.k.T.Fatal(err)
	}
}

func (p *packed) expect(text string) {
	p.k.T.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(p.r, got); err != nil || string(got) != text {
		p.k.T.Fatalf("%.60q, %v; want %.60q", got[:n], err, text)
	}
}

func TestCompress(t *testing.T) {
	for _, overTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", overTLS), func(t *testing.T) {
			h, b := homely(t)
			h.cfg.CertFile, h.cfg.KeyFile = proxytest.Certificate(t, t.TempDir())
			h.cfg.IMAPS = []string{"127.0.0.1:0"}
			h.cfg.AllowPlaintext = true
			b.play = compressing
			h.start()
			for range 30 { // the switch is a race at the proxy; each turn is another
				p := compress(h, overTLS)
				p.line("b NOOP\r\n")
				p.k.Conn.Close()
			}
			p := compress(h, overTLS)
			for i := range 50 {
				p.line(string(bytes.Repeat([]byte{'a' + byte(i%26)}, i*i*20)) + "\r\n")
			}
			h.until("an idle session holds no buffer", func() bool { return h.server.buffers.inUse.Load() == 0 })
			h.dir.setAccount(alice, h.dir.accounts[alice], true)
			p.expect("* BYE Account changed, log in again.\r\n")
			if rest, _ := io.ReadAll(p.r); len(rest) > 0 {
				t.Errorf("behind the end: %q", rest)
			}
		})
	}
}

// A client that goes on in plain is cut off.
func TestCompressAndGoOnPlain(t *testing.T) {
	h, b := homely(t)
	b.play = compressing
	h.start()
	p := compress(h, false)
	p.k.Send(strings.Repeat("b NOOP\r\n", 10))
	h.until("it is over", func() bool { return h.server.Sessions() == 0 })
	if n := h.metric("sessions_ended_total"); n != 1 {
		t.Errorf("%v sessions ended", n)
	}
}

// bomb is what is sent for that many zeroes.
func bomb(t *testing.T) (deflated string, size int64) {
	t.Helper()
	size = 4 << 20
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err == nil {
		_, err = io.Copy(w, io.LimitReader(zeroes{}, size))
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), size
}

// A few bytes that mean a great many cost the proxy no memory: the backend takes them
// at its leisure.
func TestCompressBomb(t *testing.T) {
	h, b := homely(t)
	bomb, size := bomb(t)
	took := make(chan int64, 1)
	b.play = func(_ wire.Hello, c net.Conn, r *bufio.Reader) {
		fmt.Fprint(c, "* PREAUTH [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE] ready\r\n")
		if _, err := r.ReadString('\n'); err != nil {
			return
		}
		fmt.Fprint(c, "a OK begin\r\n")
		if c.(interface{ Compress() error }).Compress() == nil {
			n, _ := io.Copy(io.Discard, r)
			took <- n
		}
	}
	h.start()
	p := compress(h, false)
	p.k.Send(bomb)
	p.k.Conn.Close()
	if n := <-took; n != size {
		t.Errorf("%d bytes of %d", n, size)
	}
}
