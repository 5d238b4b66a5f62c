package mx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/lmtp/lmtptest"
	"waypost/internal/login"
	"waypost/internal/wire"
)

// fakeDir is a Directory whose truth and whose memory may differ.
type fakeDir struct {
	mu       sync.Mutex
	domains  map[string]bool
	aliases  map[string][]string
	records  map[director.User]director.Record // what is known from memory
	truth    map[director.User]director.Record // what a fresh read brings; else records
	accounts map[director.User]director.Account
	// true accounts, where the memory's are others
	trueAccounts map[director.User]director.Account
	version      int64 // of all accounts
	backends     map[director.BackendID]director.Backend
	down         bool
	changed      chan struct{} // closed at each change
	subs         map[int]func(director.Change)
	fresh        int
}

func newFakeDir() *fakeDir {
	return &fakeDir{
		domains: map[string]bool{"x.test": true}, aliases: map[string][]string{}, records: map[director.User]director.Record{},
		truth: map[director.User]director.Record{}, accounts: map[director.User]director.Account{}, version: 1,
		trueAccounts: map[director.User]director.Account{},
		backends:     map[director.BackendID]director.Backend{}, changed: make(chan struct{}), subs: map[int]func(director.Change){},
	}
}

func (d *fakeDir) Resolve(_ context.Context, address string) (cache.Resolution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.EqualFold(address, "postmaster") {
		address = "postmaster@x.test"
	}
	base, folder := director.SplitSubaddress(address)
	domain := base[strings.LastIndexByte(base, '@')+1:]
	if !d.domains[domain] {
		return cache.Resolution{}, cache.ErrUnknownDomain
	}
	if m, ok := d.aliases[base]; ok {
		var res cache.Resolution
		for _, u := range m {
			if !d.domains[u[strings.LastIndexByte(u, '@')+1:]] {
				res.Unresolved = append(res.Unresolved, u)
				continue
			}
			res.Recipients = append(res.Recipients, cache.Recipient{User: director.User(u), Address: address})
		}
		if len(res.Recipients) == 0 {
			return res, cache.ErrUnknownUser
		}
		return res, nil
	}
	if r, ok := d.records[director.User(base)]; ok && r.State != director.Deleted {
		return cache.Resolution{Recipients: []cache.Recipient{{User: director.User(base), Folder: folder, Address: address}}}, nil
	}
	if d.down {
		return cache.Resolution{}, director.ErrUnavailable
	}
	return cache.Resolution{}, cache.ErrUnknownUser
}

func (d *fakeDir) Location(u director.User) (director.Record, bool, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.records[u]
	return r, ok, d.down
}

func (d *fakeDir) Account(u director.User) (director.Account, int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.accounts[u]
	return a, d.version, ok
}

func (d *fakeDir) Backend(id director.BackendID) (director.Backend, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.backends[id]
	return b, ok
}

func (d *fakeDir) Fresh(_ context.Context, u director.User) (director.Record, error) {
	d.mu.Lock()
	d.fresh++
	if d.down {
		d.mu.Unlock()
		return director.Record{}, director.ErrUnavailable
	}
	r, ok := d.truth[u]
	if !ok {
		r, ok = d.records[u]
	}
	d.mu.Unlock()
	if !ok {
		return r, director.ErrNotFound
	}
	d.set(u, r)
	return r, nil
}

func (d *fakeDir) FreshUser(ctx context.Context, u director.User) (director.Record, director.Account, bool, error) {
	r, err := d.Fresh(ctx, u)
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.trueAccounts[u]
	if !ok {
		a, ok = d.accounts[u]
	}
	return r, a, ok && err == nil, err
}

func (d *fakeDir) WaitChange(ctx context.Context, u director.User, after director.Epoch) (director.Record, error) {
	for {
		d.mu.Lock()
		r, changed := d.records[u], d.changed
		d.mu.Unlock()
		if r.Epoch > after {
			return r, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

func (d *fakeDir) Subscribe(fn func(director.Change)) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.subs) + 1
	d.subs[n] = fn
	return func() { d.mu.Lock(); defer d.mu.Unlock(); delete(d.subs, n) }
}

// set changes a record and tells everybody.
func (d *fakeDir) set(u director.User, r director.Record) {
	d.mu.Lock()
	same := d.records[u] == r
	d.records[u] = r
	close(d.changed)
	d.changed = make(chan struct{})
	subs := make([]func(director.Change), 0, len(d.subs))
	for _, f := range d.subs {
		subs = append(subs, f)
	}
	d.mu.Unlock()
	if same {
		return
	}
	for _, f := range subs {
		f(director.Change{Entry: director.Entry{Key: director.LocationKey(u), Value: r.Encode(), Rev: 1}})
	}
}

func (d *fakeDir) do(f func()) { d.mu.Lock(); defer d.mu.Unlock(); f() }

// fakeLive is a Liveness.
type fakeLive struct {
	mu   sync.Mutex
	dead map[director.BackendID]bool
	fns  []func(director.BackendID)
}

func (l *fakeLive) Alive(id director.BackendID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.dead[id]
}

func (l *fakeLive) OnUp(fn func(director.BackendID)) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fns = append(l.fns, fn)
	return func() { l.mu.Lock(); defer l.mu.Unlock(); l.fns = nil }
}

func (l *fakeLive) set(id director.BackendID, alive bool) {
	l.mu.Lock()
	l.dead[id] = !alive
	fns := slices.Clone(l.fns)
	l.mu.Unlock()
	for _, f := range fns {
		if alive {
			f(id)
		}
	}
}

// fakeDialer reaches the scripted servers.
type fakeDialer struct{}

func (fakeDialer) DialLMTP(ctx context.Context, _ director.BackendID, b director.Backend) (net.Conn, error) {
	addr := b.Node
	if b.Dovecot != nil {
		addr = b.Dovecot.LMTP
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "tcp", addr)
}

// fakeAuth knows one password.
type fakeAuth struct{}

func (fakeAuth) Login(_ context.Context, a login.Attempt) (login.Account, error) {
	switch {
	case a.Name == "later@x.test":
		return login.Account{}, login.ErrUnavailable
	case a.Name == "denied@x.test":
		return login.Account{}, login.ErrServiceDenied
	case a.Name != "u1@x.test" || a.Password != "secret" || a.Service != "submission" || !a.Remote.IsLoopback():
		return login.Account{}, login.ErrBadCredentials
	}
	return login.Account{User: a.Name, Version: 1}, nil
}

// rig is an mx with two scripted homes: u1 and u3 live on b1, u2 on b2.
type rig struct {
	t    *testing.T
	dir  *fakeDir
	live *fakeLive
	b1   *lmtptest.Server
	b2   *lmtptest.Server
	srv  *Server
	reg  *prometheus.Registry
	logs *logBuffer
	done chan error
	stop context.CancelFunc
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: newFakeDir(), live: &fakeLive{dead: map[director.BackendID]bool{}}, reg: prometheus.NewRegistry(), logs: &logBuffer{}}
	r.b1 = lmtptest.New(t, lmtptest.Script{Ext: lmtptest.Full})
	r.b2 = lmtptest.New(t, lmtptest.Script{Ext: lmtptest.Full})
	for id, b := range map[director.BackendID]*lmtptest.Server{"b1": r.b1, "b2": r.b2} {
		r.dir.backends[id] = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Node: b.Addr()}
	}
	for u, home := range map[director.User]director.BackendID{"u1@x.test": "b1", "u2@x.test": "b2", "u3@x.test": "b1", "postmaster@x.test": "b1"} {
		r.dir.records[u] = director.Record{Home: home, Epoch: 7, State: director.Active}
	}
	r.dir.accounts["u1@x.test"] = director.Account{}
	cert, key := selfSigned(t)
	cfg := Config{
		ID: "mx1", Listen: []string{"127.0.0.1:0"}, Submission: []string{"127.0.0.1:0"}, Hostname: "mx.test", SpoolDir: filepath.Join(t.TempDir(), "spool"),
		TLSCert: cert, TLSKey: key, BusyWait: 50 * time.Millisecond, DialTimeout: 5 * time.Second,
		SpoolMinBackoff: 50 * time.Millisecond, SpoolMaxBackoff: 200 * time.Millisecond, DrainTimeout: 10 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	r.start(cfg)
	return r
}

func (r *rig) start(cfg Config) {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(r.logs, nil))
	srv, err := New(cfg, Deps{Directory: r.dir, Dialer: fakeDialer{}, Liveness: r.live, Authenticator: fakeAuth{}, Log: log, Metrics: r.reg})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.srv, r.stop, r.done = srv, cancel, make(chan error, 1)
	go func() { r.done <- srv.Serve(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case <-srv.ended:
		case <-time.After(30 * time.Second):
			r.t.Error("the server does not end")
		}
		if r.t.Failed() {
			r.t.Log(r.logs.String())
		}
	})
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// eventually waits for a condition.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			r.t.Fatalf("not in time: %s", what)
		}
	}
}

// metric sums the values of a metric whose labels contain those given.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	fams, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range fams {
		if f.GetName() != "waypost_mx_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			n := 0
			for _, l := range m.GetLabel() {
				if slices.Contains(labels, l.GetValue()) {
					n++
				}
			}
			if n == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// peer is an SMTP client that speaks lines.
type peer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (r *rig) dial() *peer { return dialPeer(r.t, r.srv.InboundAddrs()[0]) }

func dialPeer(t *testing.T, addr net.Addr) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return &peer{t, c, bufio.NewReader(c)}
}

func (r *rig) hello() *peer {
	p := r.dial()
	p.expect("220 ")
	p.cmd("EHLO client.test", "250 ")
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.c, s); err != nil {
		p.t.Fatalf("send %.80q: %v", s, err)
	}
}

// expect reads one reply, of whatever many lines, and checks how its last
// line begins.
func (p *peer) expect(prefix string) string {
	p.t.Helper()
	all := ""
	for {
		l, err := p.r.ReadString('\n')
		if err != nil {
			p.t.Fatalf("want %q: got %q, %v", prefix, all, err)
		}
		all += l
		if len(l) < 4 || l[3] != '-' {
			if !strings.HasPrefix(l, prefix) {
				p.t.Fatalf("want %q: got %q", prefix, all)
			}
			return all
		}
	}
}

func (p *peer) cmd(line, prefix string) string {
	p.t.Helper()
	p.send(line + "\r\n")
	return p.expect(prefix)
}

// closed expects the end of the connection.
func (p *peer) closed() {
	p.t.Helper()
	if b, err := io.ReadAll(p.r); len(b) > 0 || isTimeout(err) {
		p.t.Fatalf("not closed: %q, %v", b, err)
	}
	p.c.Close()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (p *peer) tls() {
	p.t.Helper()
	p.cmd("STARTTLS", "220 2.0.0")
	tc := tls.Client(p.c, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	p.c, p.r = tc, bufio.NewReader(tc)
}

// mail goes as far as RCPT, each accepted.
func (p *peer) mail(rcpts ...string) {
	p.t.Helper()
	p.cmd("MAIL FROM:<s@y.test> BODY=8BITMIME", "250 ")
	for _, r := range rcpts {
		p.cmd("RCPT TO:<"+r+">", "250 2.0.0")
	}
}

// data sends a message and expects the answer.
func (p *peer) data(body, prefix string) string {
	p.t.Helper()
	p.cmd("DATA", "354 ")
	p.send(body + "\r\n.\r\n")
	return p.expect(prefix)
}

const testBody = "Subject: t\r\n\r\nhello"

// checkBody compares a delivered message with what was sent after the trace.
func checkBody(t *testing.T, m lmtptest.Message, want string) {
	t.Helper()
	rest := string(m.Body)
	if !strings.HasPrefix(rest, "Received: from ") {
		t.Fatalf("no trace: %.300q", rest)
	}
	for i := 0; ; i++ {
		l, after, _ := strings.Cut(rest, "\r\n")
		if i > 0 && !strings.HasPrefix(l, "\t") {
			break
		}
		rest = after
	}
	if rest != want {
		t.Errorf("came %.300q (%d bytes), want %.300q (%d bytes)", rest, len(rest), want, len(want))
	}
}

// answers makes a RCPT script of fixed answers by address.
func answers(by map[string]string) func(lmtptest.Rcpt) string {
	return func(r lmtptest.Rcpt) string {
		if a := by[r.Addr]; a != "" {
			return a
		}
		return "250 2.1.5 ok"
	}
}

func ends(reply string) func(lmtptest.Message) []string {
	return func(m lmtptest.Message) []string { return slices.Repeat([]string{reply}, len(m.Rcpts)) }
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

var (
	stale = "451 4.3.0 " + wire.WordStale + " x"
	busy  = "450 4.2.1 " + wire.WordBusy + " x"
)

func busyRecord(home, peer director.BackendID, e director.Epoch) director.Record {
	return director.Record{Home: home, Epoch: e, State: director.Busy, Peer: peer}
}

func activeRecord(home director.BackendID, e director.Epoch) director.Record {
	return director.Record{Home: home, Epoch: e, State: director.Active}
}
