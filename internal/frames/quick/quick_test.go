package quick

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair is a connection with both ends wrapped.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far = Wrap(near), Wrap(far)
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	for _, c := range []net.Conn{near, far} {
		if _, ok := c.(*Conn); !ok {
			t.Fatalf("%T was not wrapped", c)
		}
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

func TestOthersAreNotWrapped(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}

// Much more than the system's buffers hold goes through, whole, and the end behind it.
func TestCopiesAll(t *testing.T) {
	near, far := pair(t)
	sent := make([]byte, 16<<20)
	rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		n, err := near.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, near.(*Conn).CloseWrite())
	}()
	var got bytes.Buffer
	buf := make([]byte, 300<<10)
	for {
		n, err := far.Read(buf)
		got.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d bytes came that are not the %d sent", got.Len(), len(sent))
	}
}

func TestNothing(t *testing.T) {
	near, _ := pair(t)
	if n, err := near.Read(nil); n != 0 || err != nil {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
	if n, err := near.Write(nil); n != 0 || err != nil {
		t.Errorf("write of nothing: %d, %v", n, err)
	}
}

func TestDeadlines(t *testing.T) {
	near, far := pair(t)
	check := func(what string, err error) {
		t.Helper()
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: %v, want a passed deadline", what, err)
		}
	}
	if err := near.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	check("read", err)
	n, err := near.Write(make([]byte, 64<<20))
	check("write", err)
	if err := near.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	// Both directions go on behind it, with no byte lost.
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	near.Close()
	if got, err := io.Copy(io.Discard, far); err != nil || got != int64(n) {
		t.Errorf("%d bytes came, %v; %d were written", got, err, n)
	}
}

func TestClose(t *testing.T) {
	near, far := pair(t)
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		close(started)
		_, err := near.Read(make([]byte, 1))
		ended <- err
	}()
	<-started
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want closed", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want closed", err)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other side: %v, want EOF", err)
	}
	if Wrap(near) != near {
		t.Error("wrapped twice")
	}
}

// A reset shows as what it is, and a broken connection ends no process.
func TestReset(t *testing.T) {
	near, far := pair(t)
	if err := far.(*Conn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v, want a broken pipe", err)
	}
}

// Several writers do not mix what they say.
func TestManyWriters(t *testing.T) {
	near, far := pair(t)
	const writers, each, size = 8, 50, 100_000
	ended := make(chan error, writers)
	for w := range writers {
		go func() {
			piece := bytes.Repeat([]byte{byte('a' + w)}, size)
			for range each {
				if _, err := near.Write(piece); err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	piece := make([]byte, size)
	for range writers * each {
		if _, err := io.ReadFull(far, piece); err != nil {
			t.Fatal(err)
		}
		if len(bytes.Trim(piece, string(piece[:1]))) != 0 {
			t.Fatal("two writes were mixed")
		}
	}
	for range writers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestNoGarbage(t *testing.T) {
	near, far := pair(t)
	p := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := near.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(far, p); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a write and a read", n)
	}
}
