package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/login"
	"waypost/internal/wire"
	"waypost/proxy/managesieve"
	"waypost/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alice director.User = "alice@example.test"

// fakeDirectory is a directory whose memory may lag behind its store.
type fakeDirectory struct {
	mu       sync.Mutex
	memory   map[director.User]director.Record
	store    map[director.User]director.Record
	accounts map[director.User]director.Account
	backends map[director.BackendID]director.Backend
	changed  chan struct{} // closed and replaced at each change of memory
	away     bool          // Fresh fails
	fresh    int           // calls of Fresh
	subs     []func(director.Change)
}

func newFakeDirectory() *fakeDirectory {
	return &fakeDirectory{
		memory: map[director.User]director.Record{}, store: map[director.User]director.Record{},
		accounts: map[director.User]director.Account{alice: {Hash: "secret"}},
		backends: map[director.BackendID]director.Backend{}, changed: make(chan struct{}),
	}
}

// set changes store and memory.
func (d *fakeDirectory) set(u director.User, r director.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store[u], d.memory[u] = r, r
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *fakeDirectory) setAccount(u director.User, a director.Account, deleted bool) {
	d.mu.Lock()
	d.accounts[u] = a
	if deleted {
		delete(d.accounts, u)
	}
	subs := d.subs
	d.mu.Unlock()
	for _, fn := range subs {
		ch := director.Change{Entry: director.Entry{Key: director.AccountKey(u)}, Deleted: deleted}
		if !deleted {
			ch.Value = fmt.Appendf(nil, `{"v":1,"hash":%q,"disabled":%v}`, a.Hash, a.Disabled)
		}
		fn(ch)
	}
}

func (d *fakeDirectory) Location(u director.User) (director.Record, bool, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.memory[u]
	return r, ok, d.away
}

func (d *fakeDirectory) Account(u director.User) (director.Account, int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.accounts[u]
	return a, 1, ok
}

func (d *fakeDirectory) Backend(id director.BackendID) (director.Backend, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.backends[id]
	return b, ok
}

func (d *fakeDirectory) Fresh(_ context.Context, u director.User) (director.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh++
	if d.away {
		return director.Record{}, director.ErrUnavailable
	}
	r, ok := d.store[u]
	if !ok {
		return r, director.ErrNotFound
	}
	d.memory[u] = r
	return r, nil
}

func (d *fakeDirectory) WaitChange(ctx context.Context, u director.User, after director.Epoch) (director.Record, error) {
	for {
		d.mu.Lock()
		r, changed := d.memory[u], d.changed
		d.mu.Unlock()
		if r.Epoch > after {
			return r, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return director.Record{}, ctx.Err()
		}
	}
}

func (d *fakeDirectory) Subscribe(fn func(director.Change)) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.subs = append(d.subs, fn)
	return func() {}
}

// fakeGuard knows every account of the directory by its hash as password.
type fakeGuard struct {
	dir *fakeDirectory

	mu    sync.Mutex
	open  int
	limit int
	err   error
}

func (g *fakeGuard) Login(_ context.Context, a login.Attempt) (login.Account, error) {
	g.mu.Lock()
	err := g.err
	g.mu.Unlock()
	acct, version, ok := g.dir.Account(director.User(strings.ToLower(a.Name)))
	switch {
	case err != nil:
		return login.Account{}, err
	case !ok || a.Password != acct.Hash:
		return login.Account{}, login.ErrBadCredentials
	case acct.Disabled:
		return login.Account{}, login.ErrDisabled
	}
	return login.Account{User: strings.ToLower(a.Name), Hash: acct.Hash, Version: version}, nil
}

func (g *fakeGuard) Acquire(string, netip.Addr) (func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limit > 0 && g.open >= g.limit {
		return nil, login.ErrTooManyConnections
	}
	g.open++
	return func() { g.mu.Lock(); defer g.mu.Unlock(); g.open-- }, nil
}

// fakeBackend speaks the session protocol over plain TCP. status answers a
// Hello; play is the session after an ok.
type fakeBackend struct {
	id     director.BackendID
	ln     net.Listener
	served sync.WaitGroup

	mu    sync.Mutex // protects what follows
	old   bool       // it knows no frames
	rigid bool       // it knows no hand-offs
	// draining is closed to have it end its connections.
	draining chan struct{}
	status   wire.Status
	play     func(wire.Hello, net.Conn, *bufio.Reader)
	hellos   []wire.Hello
	conns    map[net.Conn]bool
	// resume answers a session that is resumed, and plays it; nil: as play does.
	resume  func(wire.Hello, *frames.Stream)
	resumed []wire.Hello
	streams map[*frames.Stream]bool // of carry, that have not let go
}

func newFakeBackend(t *testing.T, id director.BackendID) *fakeBackend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBackend{id: id, ln: ln, play: echo, status: wire.StatusOK, conns: map[net.Conn]bool{}, streams: map[*frames.Stream]bool{}, draining: make(chan struct{})}
	b.accept(ln)
	t.Cleanup(func() {
		b.mu.Lock()
		ln := b.ln
		b.mu.Unlock()
		ln.Close()
		b.served.Wait()
	})
	return b
}

func (b *fakeBackend) accept(ln net.Listener) {
	b.served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.served.Go(func() { b.serve(c) })
		}
	})
}

// serve is a backend's end of a connection, until that ends.
func (b *fakeBackend) serve(c net.Conn) {
	defer c.Close()
	b.mu.Lock()
	b.conns[c] = true
	old, rigid, draining := b.old, b.rigid, b.draining
	b.mu.Unlock()
	defer func() { b.mu.Lock(); defer b.mu.Unlock(); delete(b.conns, c) }()
	if c.SetDeadline(time.Now().Add(proxytest.Patience)) != nil {
		return
	}
	r := bufio.NewReader(c)
	var h wire.Hello
	switch {
	case wire.Read(r, &h) != nil:
	case h.Protocol == wire.ProtocolFrames && old:
		_ = wire.Write(c, wire.Welcome{Status: wire.StatusRefused, Text: "what user?"})
	case h.Protocol == wire.ProtocolFrames:
		_ = frames.Serve(context.Background(), c, r, frames.Options{HandOff: h.HandOff && !rigid, Draining: draining}, func(_ context.Context, s *frames.Stream, h *wire.Hello) {
			switch {
			case s.SetDeadline(time.Now().Add(proxytest.Patience)) != nil:
			case s.State() != nil:
				b.goOn(*h, s)
			default:
				b.session(*h, s, s.Welcome, bufio.NewReader(s))
			}
		})
	default:
		b.session(h, c, func(w wire.Welcome) error { return wire.Write(c, w) }, r)
	}
}

func (b *fakeBackend) session(h wire.Hello, c net.Conn, welcome func(wire.Welcome) error, r *bufio.Reader) {
	b.mu.Lock()
	b.hellos = append(b.hellos, h)
	status, play := b.status, b.play
	b.mu.Unlock()
	if welcome(wire.Welcome{Status: status}) == nil && status == wire.StatusOK {
		play(h, c, r)
	}
}

// reset cuts all connections.
func (b *fakeBackend) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

func (b *fakeBackend) answer(s wire.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = s
}

func (b *fakeBackend) said() []wire.Hello {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]wire.Hello(nil), b.hellos...)
}

// echo greets and answers each line with itself; LOGOUT and QUIT end it.
func echo(h wire.Hello, c net.Conn, r *bufio.Reader) {
	if h.Protocol == protoIMAP {
		fmt.Fprintf(c, "* PREAUTH [CAPABILITY IMAP4rev1 HOME=%s] ready\r\n", h.Home)
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch strings.TrimSpace(line) {
		case "LOGOUT":
			fmt.Fprint(c, "* BYE bye\r\nLOGOUT OK done\r\n")
			return
		case "QUIT":
			fmt.Fprint(c, "+OK bye\r\n")
			return
		}
		if _, err := io.WriteString(c, line); err != nil {
			return
		}
	}
}

// house is a Server with everything around it.
type house struct {
	t      *testing.T
	dir    *fakeDirectory
	guard  *fakeGuard
	reg    *prometheus.Registry
	server *Server
	cfg    Config
	sieve  managesieve.Capabilities
	dials  func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error)
}

// newHouse makes the surroundings; start makes the Server.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, dir: newFakeDirectory(), reg: prometheus.NewRegistry(), cfg: DefaultConfig()}
	h.guard = &fakeGuard{dir: h.dir}
	h.cfg.IMAP, h.cfg.POP3 = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	h.cfg.AllowPlaintext, h.cfg.FailureDelay = true, 0
	h.dials = func(ctx context.Context, _ director.BackendID, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	return h
}

// add puts a backend into the directory.
func (h *house) add(b *fakeBackend) *fakeBackend {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	h.dir.backends[b.id] = director.Backend{Kind: director.KindWaypost, Node: b.ln.Addr().String()}
	return b
}

func (h *house) start() *house {
	h.t.Helper()
	s, err := New(h.cfg, Deps{
		Node: "p1", Directory: h.dir, Guard: h.guard, Dial: h.dials, Metrics: h.reg,
		Log: h.logger(), Sieve: h.sieve,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.server = s
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t := h.t // a subtest may be h.t by then
	t.Cleanup(func() {
		over, stop := context.WithCancel(context.Background())
		stop() // no waiting
		if err := s.Shutdown(over); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if h.guard.open != 0 {
			t.Errorf("%d connections were not released", h.guard.open)
		}
	})
	return h
}

func (h *house) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// dial connects to the first listener of that name.
func (h *house) dial(name string) *proxytest.Client {
	h.t.Helper()
	for _, a := range h.server.Addrs() {
		if a.Name == name {
			c, err := net.Dial("tcp", a.Addr.String())
			if err != nil {
				h.t.Fatal(err)
			}
			h.t.Cleanup(func() { c.Close() })
			return proxytest.NewClient(h.t, c)
		}
	}
	h.t.Fatalf("no listener %q", name)
	return nil
}

// imap and pop3 log alice in.
func (h *house) imap() *proxytest.Client {
	h.t.Helper()
	c := h.dial("imap")
	c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a OK [CAPABILITY IMAP4rev1 ...")
	return c
}

func (h *house) pop3() *proxytest.Client {
	h.t.Helper()
	c := h.dial("pop3")
	c.Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: +OK Logged in.")
	return c
}

// metric sums a metric over all labels.
func (h *house) metric(name string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "waypost_proxy_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// until waits for a condition.
func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(proxytest.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("never: %s", what)
		}
	}
}

var errDial = errors.New("no route")
