package relay

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
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/mx/spool"
)

// got is one message that the smarthost took.
type got struct {
	from  string // the whole argument of MAIL
	rcpts []string
	body  string
	at    time.Time
}

// host script; a nil function answers 250.
type script struct {
	greet string
	ext   []string
	tls   *tls.Config // STARTTLS is offered
	after string      // written together with the answer to STARTTLS
	login string      // "user password" that AUTH takes
	mail  func(arg string) string
	rcpt  func(arg string) string
	end   func(g got) string // empty: the connection ends
	drop  string             // the verb at which the connection ends
	stall string             // the verb that is never answered
}

// smarthost is a scripted server behind net.Pipe, so that it lives in synthetic
// time too.
type smarthost struct {
	t  testing.TB
	mu sync.Mutex
	sc script
	// refuse fails connecting.
	refuse   error
	messages []got
	commands []string
	dials    []time.Time
	open     int
	most     int // connections at once
	wg       sync.WaitGroup
	arrived  chan struct{}
}

var plainExt = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000", "DSN", "ENHANCEDSTATUSCODES"}

func newSmarthost(t testing.TB, sc script) *smarthost {
	h := &smarthost{t: t, sc: sc, arrived: make(chan struct{}, 1000)}
	t.Cleanup(h.wg.Wait)
	return h
}

func (h *smarthost) set(f func()) { h.mu.Lock(); defer h.mu.Unlock(); f() }

func (h *smarthost) script() script { h.mu.Lock(); defer h.mu.Unlock(); return h.sc }

func (h *smarthost) got() []got {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]got(nil), h.messages...)
}

func (h *smarthost) cmds() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.commands, "\n")
}

func (h *smarthost) dial(context.Context, string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials = append(h.dials, time.Now())
	if h.refuse != nil {
		return nil, h.refuse
	}
	a, b := net.Pipe()
	h.open++
	h.most = max(h.most, h.open)
	h.wg.Go(func() {
		defer func() { b.Close(); h.set(func() { h.open-- }) }()
		(&hostSession{h: h, c: b, r: bufio.NewReader(b)}).run()
	})
	return a, nil
}

type hostSession struct {
	h *smarthost
	c net.Conn
	r *bufio.Reader
	g got
}

func (s *hostSession) say(line string) { io.WriteString(s.c, line+"\r\n") }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (s *hostSession) run() {
	sc := s.h.script()
	s.say(or(sc.greet, "220 smart ESMTP"))
	for {
		l, err := s.r.ReadString('\n')
		if err != nil {
			return
		}
		l = strings.TrimRight(l, "\r\n")
		verb, arg, _ := strings.Cut(l, " ")
		sc = s.h.script()
		s.h.set(func() { s.h.commands = append(s.h.commands, l) })
		if verb == sc.drop {
			return
		}
		if verb == sc.stall {
			io.Copy(io.Discard, s.c)
			return
		}
		if !s.command(sc, verb, arg) {
			return
		}
	}
}

func (s *hostSession) command(sc script, verb, arg string) bool {
	switch verb {
	case "EHLO":
		lines := append([]string{"smart"}, sc.ext...)
		if _, secure := s.c.(*tls.Conn); sc.tls != nil && !secure {
			lines = append(lines, "STARTTLS")
		}
		for i, l := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			s.say("250" + sep + l)
		}
	case "STARTTLS":
		io.WriteString(s.c, "220 2.0.0 go\r\n"+sc.after)
		tc := tls.Server(s.c, sc.tls)
		if tc.Handshake() != nil {
			return false
		}
		s.c, s.r = tc, bufio.NewReader(tc)
	case "AUTH":
		s.auth(sc, arg)
	case "MAIL":
		s.g = got{from: arg}
		answer := "250 2.1.0 ok"
		if sc.mail != nil {
			answer = sc.mail(arg)
		}
		s.say(answer)
	case "RCPT":
		answer := "250 2.1.5 ok"
		if sc.rcpt != nil {
			answer = sc.rcpt(arg)
		}
		if strings.HasPrefix(answer, "2") {
			s.g.rcpts = append(s.g.rcpts, arg)
		}
		s.say(answer)
	case "DATA":
		s.say("354 go")
		return s.data(sc)
	case "BDAT":
		size, last, _ := strings.Cut(arg, " ")
		n, _ := strconv.ParseInt(size, 10, 64)
		var b bytes.Buffer
		if _, err := io.CopyN(&b, s.r, n); err != nil {
			return false
		}
		s.g.body += b.String()
		if last == "" {
			s.say("250 2.0.0 chunk")
			return true
		}
		return s.finish(sc)
	case "RSET":
		s.say("250 2.0.0 ok")
	case "QUIT":
		s.say("221 2.0.0 bye")
		return false
	default:
		s.say("500 5.5.2 what?")
	}
	return true
}

func (s *hostSession) data(sc script) bool {
	for {
		l, err := s.r.ReadString('\n')
		if err != nil {
			return false
		}
		if !strings.HasSuffix(l, "\r\n") {
			s.h.t.Errorf("body line %q does not end in CRLF", l)
		}
		if l == ".\r\n" {
			return s.finish(sc)
		}
		s.g.body += strings.TrimPrefix(l, ".")
	}
}

func (s *hostSession) finish(sc script) bool {
	answer := "250 2.0.0 queued as 1"
	s.g.at = time.Now()
	if sc.end != nil {
		answer = sc.end(s.g)
	}
	if answer == "" {
		return false
	}
	if strings.HasPrefix(answer, "2") {
		s.h.set(func() { s.h.messages = append(s.h.messages, s.g) })
		s.h.arrived <- struct{}{}
	}
	s.say(answer)
	return true
}

// auth takes PLAIN and LOGIN, whichever the client chose.
func (s *hostSession) auth(sc script, arg string) {
	mech, initial, _ := strings.Cut(arg, " ")
	creds := initial
	if mech == "LOGIN" {
		for range 2 {
			s.say("334 ")
			l, _ := s.r.ReadString('\n')
			creds += " " + strings.TrimSpace(l)
		}
		creds = creds[1:]
	}
	if creds == sc.login {
		s.say("235 2.7.0 ok")
	} else {
		s.say("535 5.7.8 no")
	}
}

// rig is a queue with a smarthost, and a spool that takes what goes inward.
type rig struct {
	t    testing.TB
	h    *smarthost
	dir  string
	sp   *spool.Spool
	q    *Queue
	cfg  Config
	reg  *prometheus.Registry
	logs *logBuffer
	// resolve replaces meaningOf.
	resolve func(string) (Meaning, error)
	stop    context.CancelFunc
	done    chan struct{}
}

// meaningOf: x.test is ours, u1 and u2 live there, list@ leads to both and
// outside.
func meaningOf(address string) (Meaning, error) {
	switch {
	case !strings.HasSuffix(address, "@x.test"):
		return Meaning{Foreign: true}, nil
	case address == "list@x.test":
		return Meaning{Users: []spool.Recipient{{User: "u1@x.test"}, {User: "u2@x.test"}}, Outside: []string{"m@out.test"}}, nil
	case address == "u1@x.test" || address == "u2@x.test":
		return Meaning{Users: []spool.Recipient{{User: director.User(address)}}}, nil
	}
	return Meaning{}, ErrUnknown
}

func newRig(t testing.TB, sc script, change func(*Config)) *rig {
	t.Helper()
	if sc.ext == nil {
		sc.ext = plainExt
	}
	r := &rig{t: t, h: newSmarthost(t, sc), dir: t.TempDir(), logs: &logBuffer{}, resolve: meaningOf}
	r.cfg = Config{Smarthost: "smart.test:587", TLS: TLSNone}
	if change != nil {
		change(&r.cfg)
	}
	r.open()
	t.Cleanup(func() {
		r.close()
		if t.Failed() {
			t.Log(r.logs.String())
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if r.sp, err = spool.Open(r.dir, spool.Options{}); err != nil {
		r.t.Fatal(err)
	}
	r.reg = prometheus.NewRegistry()
	r.q, err = Open(filepath.Join(r.dir, "relay"), r.cfg, Deps{Hostname: "mx.test", Inward: r.sp, Dial: r.h.dial, Log: log, Metrics: r.reg,
		Resolve: func(_ context.Context, a string) (Meaning, error) { return r.resolve(a) }})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan struct{})
	q, done := r.q, r.done
	go func() { q.Run(ctx); close(done) }()
}

// close ends what runs; the folders stay.
func (r *rig) close() {
	if r.stop != nil {
		r.stop()
		<-r.done
		r.stop = nil
	}
	if r.q != nil {
		if err := r.q.Close(); err != nil {
			r.t.Error(err)
		}
		if err := r.sp.Close(); err != nil {
			r.t.Error(err)
		}
		r.q = nil
	}
}

func (r *rig) reopen() { r.t.Helper(); r.close(); r.open() }

const testBody = "Received: from a\r\nSubject: t\r\n\r\nhello\r\n"

// envelope is of a submission of u1's.
func envelope(id string, to ...string) Envelope {
	e := Envelope{ID: id, Kind: Submission, User: "u1@x.test", From: "u1@x.test", Reports: true, Received: time.Now()}
	for _, t := range to {
		e.Recipients = append(e.Recipients, Recipient{To: t, Outside: !strings.HasSuffix(t, "@x.test")})
	}
	return e
}

func (r *rig) add(e Envelope) {
	r.t.Helper()
	if err := r.try(e); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) try(e Envelope) error {
	d := r.q.Draft()
	defer d.Discard()
	io.WriteString(d, testBody)
	return r.q.Add(d, e)
}

// eventually waits for a condition, in real time.
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
			r.t.Fatalf("not in time: %s\n%s", what, r.logs)
		}
	}
}

// spooled gives the messages that went inward.
func (r *rig) spooled() (out []spooled) {
	r.t.Helper()
	for _, e := range r.sp.List() {
		m, err := r.sp.Message(e.ID)
		if err != nil {
			r.t.Fatal(err)
		}
		b, err := io.ReadAll(m)
		m.Close()
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, spooled{e, string(b)})
	}
	return out
}

type spooled struct {
	spool.Entry
	body string
}

func (r *rig) metric(name, label string) (sum float64) {
	r.t.Helper()
	fams, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range fams {
		if f.GetName() != "waypost_relay_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
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

// selfSigned makes a certificate for smart.test and a file that trusts it.
func selfSigned(t testing.TB) (*tls.Config, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"smart.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}, file
}
