package frames

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"waypost/internal/cluster"
)

// Figures of 2 shared cores with much other work on them, Go 1.26, both ends together,
// so that only their relations are worth something:
//
//	BenchmarkIdle                 2.5 KB of heap for an idle session
//	BenchmarkPlainIdle           17.8 KB, and two descriptors: a TLS connection for each
//	BenchmarkFetch/write=32734   2.5 to 2.8 ms of CPU for a MB
//	BenchmarkFetch/write=32768   3.2 to 3.9 ms: three TLS records where two do
//	BenchmarkPlainFetch          1.8 to 2.1 ms
//	BenchmarkCommands            50 µs for a command and its answer; 35 µs each where
//	                             100 sessions share the connection
//
// Goroutines are not in the figures of idle sessions: they are the users' own.

// tlsPair is a connection as between nodes: TLS 1.3 with certificates on both sides.
func tlsPair(b *testing.B, auth *certificates) (near, far net.Conn) {
	b.Helper()
	rawNear, rawFar := tcpPair(b)
	server := tls.Server(rawFar, auth.server)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	client := tls.Client(rawNear, auth.client)
	if err := client.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return client, server
}

type certificates struct{ server, client *tls.Config }

func issue(b *testing.B) *certificates {
	b.Helper()
	dir := b.TempDir()
	a, err := cluster.CreateAuthority(dir, "bench")
	if err != nil {
		b.Fatal(err)
	}
	load := func(p cluster.Peer) tls.Certificate {
		certPEM, keyPEM, err := a.Issue(p, nil, time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			b.Fatal(err)
		}
		return pair
	}
	return &certificates{
		server: &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
			Certificates: []tls.Certificate{load(cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})}},
		client: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
			Certificates: []tls.Certificate{load(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})}},
	}
}

func heap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const idleSessions = 2000

// BenchmarkIdle: each session has said a command and been answered, has a deadline,
// and waits.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		near, far := tlsPair(b, issue(b))
		r := newRig(b, near, far, Options{})
		before := heap()
		all := make([]*Stream, 0, 2*idleSessions)
		for range idleSessions {
			proxy, backend := r.open()
			send(b, proxy, "a1 IDLE\r\n")
			expect(b, backend, "a1 IDLE\r\n")
			send(b, backend, "+ idling\r\n")
			expect(b, proxy, "+ idling\r\n")
			all = append(all, proxy, backend)
		}
		b.ReportMetric(float64(heap()-before)/idleSessions, "heap-B/session")
		runtime.KeepAlive(all)
		r.leave()
		r.client.Close()
	}
}

func BenchmarkPlainIdle(b *testing.B) {
	auth := issue(b)
	for b.Loop() {
		before := heap()
		var all []net.Conn
		for range 300 {
			near, far := tlsPair(b, auth)
			for _, c := range [][2]net.Conn{{near, far}, {far, near}} {
				if _, err := io.WriteString(c[0], "a1 IDLE\r\n"); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c[1], make([]byte, 9)); err != nil {
					b.Fatal(err)
				}
			}
			all = append(all, near, far)
		}
		b.ReportMetric(float64(heap()-before)/300, "heap-B/session")
		for _, c := range all {
			c.Close()
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fetch sends a message of about 64 MiB in such writes, and reads it as a relay does.
func fetch(b *testing.B, from io.Writer, to io.Reader, write int) {
	b.Helper()
	size := 64 << 20 / write * write
	b.SetBytes(int64(size))
	piece, buf := make([]byte, write), make([]byte, 32<<10)
	before := cpu()
	for b.Loop() {
		sent := make(chan error, 1)
		go func() {
			for range size / len(piece) {
				if _, err := from.Write(piece); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for n := 0; n < size; {
			k, err := to.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
		if err := <-sent; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N*size>>20), "cpu-µs/MB")
}

func BenchmarkFetch(b *testing.B) {
	for _, write := range []int{PieceBytes, 32 << 10} {
		b.Run(fmt.Sprintf("write=%d", write), func(b *testing.B) {
			near, far := tlsPair(b, issue(b))
			proxy, backend := newRig(b, near, far, Options{}).open()
			_, _ = proxy.SetDeadline(time.Time{}), backend.SetDeadline(time.Time{})
			fetch(b, backend, proxy, write)
		})
	}
}

func BenchmarkPlainFetch(b *testing.B) {
	near, far := tlsPair(b, issue(b))
	defer near.Close()
	defer far.Close()
	fetch(b, far, near, 32<<10)
}

// BenchmarkCommands is the round trip of a short command, with more sessions beside it
// on the same connection.
func BenchmarkCommands(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			near, far := tlsPair(b, issue(b))
			r := newRig(b, near, far, Options{})
			turns := make(chan struct{})
			var work sync.WaitGroup
			for range n {
				proxy, backend := r.open()
				_, _ = proxy.SetDeadline(time.Time{}), backend.SetDeadline(time.Time{})
				work.Go(func() { _, _ = io.Copy(backend, backend) })
				work.Go(func() {
					defer proxy.Close()
					got := make([]byte, 9)
					for range turns {
						if _, err := io.WriteString(proxy, "a1 NOOP\r\n"); err != nil {
							b.Error(err)
						}
						if _, err := io.ReadFull(proxy, got); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				turns <- struct{}{}
			}
			close(turns)
			work.Wait()
		})
	}
}
