package frames

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// shifted stands for compression: what is packed is not what it means.
func shifted(p []byte) []byte {
	q := bytes.Clone(p)
	for i := range q {
		q[i] ^= 0x80
	}
	return q
}

// packer is a proxy's part of COMPRESS over a client's bytes.
type packer struct {
	s  *Stream
	on bool
}

func (p *packer) switchOn(rest []byte) error {
	raw, err := p.s.Switch()
	if err != nil {
		return err
	}
	p.on = true
	_, err = p.s.Write(shifted(append(raw, rest...)))
	return err
}

func (p *packer) write(b []byte) error {
	if p.on {
		b = shifted(b)
	}
	n, err := p.s.Write(b)
	if errors.Is(err, ErrCompress) {
		return p.switchOn(b[n:])
	}
	return err
}

func TestCompress(t *testing.T) {
	r := tcp(t, Options{})
	proxy, backend := r.open()
	client := &packer{s: proxy}
	if err := client.write([]byte("a COMPRESS DEFLATE\r\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, backend, "a COMPRESS DEFLATE\r\n")
	send(t, backend, "a OK\r\n")
	expect(t, proxy, "a OK\r\n")
	// The client is fast: what it sends after the OK is there before COMPRESS.
	if err := client.write(shifted([]byte("b NOOP\r\n"))); err != nil {
		t.Fatal(err)
	}
	until(t, "it has come", func() bool { return backend.kept() > 0 })
	if err := backend.Compress(); err != nil {
		t.Fatal(err)
	}
	if err := backend.Compress(); !errors.Is(err, ErrCompressed) {
		t.Errorf("second time: %v", err)
	}
	send(t, backend, "* BYE\r\n")
	until(t, "the proxy knows", proxy.SwitchDue)
	expectEnd(t, proxy, ErrCompress)
	expect(t, proxy, "* BYE\r\n")
	if err := proxy.HangUp(); !errors.Is(err, ErrCompress) {
		t.Errorf("hang-up before Switch: %v", err)
	}
	if err := client.switchOn(nil); err != nil {
		t.Fatal(err)
	}
	if err := client.write(shifted([]byte("c NOOP\r\n"))); err != nil {
		t.Fatal(err)
	}
	if err := proxy.HangUp(); err != nil {
		t.Fatal(err)
	}
	expect(t, backend, "b NOOP\r\nc NOOP\r\n")
	expectEnd(t, backend, io.EOF)
	if got, want := backend.counters(), (Counters{Consumed: 36, Sent: 13}); got != want {
		t.Errorf("counters %+v", got)
	}
	if _, err := proxy.Switch(); !errors.Is(err, ErrProtocol) {
		t.Errorf("second Switch: %v", err)
	}
}

// However much the client sends after the OK, and whenever COMPRESS crosses it, the
// backend reads what it means, and the client's side switches at the exact byte.
func TestCompressAtTheByte(t *testing.T) {
	const command, ok = "a COMPRESS DEFLATE\r\n", "a OK begin\r\n"
	rapid.Check(t, func(rt *rapid.T) {
		r := tcp(t, Options{})
		proxy, backend := r.open()
		up := pattern(rapid.IntRange(0, 200_000).Draw(rt, "client's bytes"), 3)
		down := pattern(rapid.IntRange(0, 200_000).Draw(rt, "backend's bytes"), 5)
		piece := rapid.IntRange(100, 70_000).Draw(rt, "piece")
		fast := rapid.Bool().Draw(rt, "the client is fast")
		told := make(chan struct{}) // the OK is with the client
		var work sync.WaitGroup
		check := func(what string, err error) {
			if err != nil {
				rt.Errorf("%s: %v", what, err)
			}
		}
		work.Go(func() { // the client, and the proxy's way up
			client := &packer{s: proxy}
			check("command", client.write([]byte(command)))
			<-told
			for rest := shifted(up); len(rest) > 0; {
				n := min(piece, len(rest))
				check("up", client.write(rest[:n]))
				rest = rest[n:]
			}
			if !client.on {
				until(rt, "COMPRESS comes", proxy.SwitchDue)
				check("switch", client.switchOn(nil))
			}
			check("hang-up", proxy.HangUp())
		})
		work.Go(func() { // the proxy's way down
			got := make([]byte, len(ok))
			_, err := io.ReadFull(proxy, got)
			check("OK", err)
			close(told)
			if _, err := proxy.Read(make([]byte, 1)); !errors.Is(err, ErrCompress) {
				rt.Errorf("behind the OK: %v", err)
			}
			got, err = io.ReadAll(proxy)
			check("down", err)
			if !bytes.Equal(got, down) {
				rt.Errorf("%d bytes of %d came down, or other ones", len(got), len(down))
			}
		})
		work.Go(func() { // the backend
			got := make([]byte, len(command))
			_, err := io.ReadFull(backend, got)
			check("command", err)
			_, err = io.WriteString(backend, ok)
			check("OK", err)
			if fast && len(up) > 0 {
				until(rt, "bytes come", func() bool { return backend.kept() > 0 })
			}
			check("compress", backend.Compress())
			_, err = backend.Write(down)
			check("down", err)
			check("end", backend.CloseWrite())
			got, err = io.ReadAll(backend)
			check("up", err)
			if !bytes.Equal(got, up) {
				rt.Errorf("%d bytes of %d came up, or other ones", len(got), len(up))
			}
		})
		work.Wait()
		r.client.Close()
	})
}
