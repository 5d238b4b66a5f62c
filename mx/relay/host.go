package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"waypost/internal/lmtp"
)

// hosts are the far ends, by route.
type hosts struct {
	cfg  Config
	deps Deps
	mu   sync.Mutex // protects m
	m    map[Route]*host
}

func newHosts(cfg Config, deps Deps) *hosts {
	if deps.Dial == nil {
		deps.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	return &hosts{cfg: cfg, deps: deps, m: map[Route]*host{}}
}

func (hs *hosts) of(r Route) *host {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.m[r]
	if h == nil {
		h = &host{addr: r.Addr, cfg: hs.cfg, deps: hs.deps, log: hs.deps.Log.With("smarthost", r.Addr)}
		hs.m[r] = h
	}
	return h
}

func (hs *hosts) all() (out []*host) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.m {
		out = append(out, h)
	}
	return out
}

func (hs *hosts) held() bool {
	for _, h := range hs.all() {
		if h.isHeld() {
			return true
		}
	}
	return false
}

// probe has the next one that comes look whether trouble is over.
func (hs *hosts) probe() {
	for _, h := range hs.all() {
		h.mu.Lock()
		h.until = time.Time{}
		h.mu.Unlock()
	}
}

func (hs *hosts) close() {
	for _, h := range hs.all() {
		h.close()
	}
}

// host is one far end: its idle connections, and whether it works.
type host struct {
	addr string
	cfg  Config
	deps Deps
	log  *slog.Logger

	mu      sync.Mutex // protects what follows
	idle    []idleConn
	reaper  *time.Timer // closes idle connections; nil: none is idle
	closed  bool
	fails   int // as a whole, in a row
	strikes int // connections that broke inside a transaction, in a row
	until   time.Time
	why     error
	probing bool // one tries whether the trouble is over
}

type idleConn struct {
	c     *conn
	since time.Time
}

// conn is a connection that is logged in.
type conn struct {
	*lmtp.Client
	uses   int
	reused bool // it was idle, so its far end may be gone by now
}

// maxUses bounds the transactions of a connection, so that a balancer behind
// the smarthost's name gets its turn.
const maxUses = 100

// holdError: nothing goes to the host before until.
type holdError struct {
	until time.Time
	err   error
}

func (e *holdError) Error() string { return e.err.Error() }
func (e *holdError) Unwrap() error { return e.err }

// probeWait is how long others wait for the one that tries.
const probeWait = 5 * time.Second

// get gives a connection, an idle one unless fresh is wanted. Any error is a
// *holdError.
func (h *host) get(ctx context.Context, fresh bool) (*conn, error) {
	c, err := h.enter(fresh)
	if c != nil || err != nil {
		return c, err
	}
	c, err = h.connect(ctx)
	switch {
	case err == nil:
		h.up()
		return c, nil
	case ctx.Err() != nil:
		h.leave()
		return nil, &holdError{time.Now(), ctx.Err()}
	}
	return nil, h.down(err)
}

// enter gives an idle connection, or says that all are held back; with neither
// the caller connects.
func (h *host) enter(fresh bool) (*conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch {
	case now.Before(h.until):
		return nil, &holdError{h.until, h.why}
	case h.fails > 0 && h.probing:
		return nil, &holdError{now.Add(probeWait), h.why}
	case h.fails > 0:
		h.probing = true
		return nil, nil
	}
	for n := len(h.idle); n > 0 && !fresh; n = len(h.idle) {
		last := h.idle[n-1]
		h.idle = h.idle[:n-1]
		if now.Sub(last.since) < h.cfg.IdleTimeout {
			last.c.reused = true
			return last.c, nil
		}
		last.c.Close()
	}
	return nil, nil
}

func (h *host) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probing = false
}

// up: a connection could be made and logged in.
func (h *host) up() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fails > 0 {
		h.log.Info("smarthost works again")
	}
	h.fails, h.probing, h.until = 0, false, time.Time{}
}

// down holds everything back for a time that doubles.
func (h *host) down(err error) *holdError {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails++
	h.probing, h.strikes = false, 0
	d := h.cfg.HoldMax
	if shift := h.fails - 1; shift < 20 && h.cfg.HoldMin<<shift < d {
		d = h.cfg.HoldMin << shift
	}
	h.until = time.Now().Add(d*9/10 + rand.N(d/5+1))
	h.why = fmt.Errorf("smarthost %s: %w", h.addr, err)
	h.closeIdle()
	h.log.Error("ALARM: smarthost cannot be used, all mail to the outside waits", "for", d.Round(time.Second), "failures", h.fails, "err", err)
	return &holdError{h.until, h.why}
}

// maxStrikes is how many connections may break inside a transaction, in a row,
// before it is the host that is at fault and not a message.
const maxStrikes = 3

// broke: a connection ended inside a transaction.
func (h *host) broke(err error) {
	h.mu.Lock()
	h.strikes++
	over := h.strikes >= maxStrikes
	h.mu.Unlock()
	if over {
		_ = h.down(err) // the next one hears of it
	}
}

// worked: a transaction came to an answer.
func (h *host) worked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.strikes = 0
}

func (h *host) isHeld() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fails > 0
}

// put gives back a connection that is between transactions.
func (h *host) put(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.uses++; c.uses >= maxUses || h.closed || h.fails > 0 || len(h.idle) >= h.cfg.MaxConnections {
		c.Close()
		return
	}
	h.idle = append(h.idle, idleConn{c, time.Now()})
	if h.reaper == nil {
		h.reaper = time.AfterFunc(h.cfg.IdleTimeout, h.reap)
	}
}

// reap closes what has been idle for too long.
func (h *host) reap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reaper = nil
	kept := h.idle[:0]
	for _, i := range h.idle {
		if time.Since(i.since) < h.cfg.IdleTimeout {
			kept = append(kept, i)
			continue
		}
		i.c.Close()
	}
	h.idle = kept
	if len(kept) > 0 && !h.closed {
		h.reaper = time.AfterFunc(h.cfg.IdleTimeout, h.reap)
	}
}

func (h *host) closeIdle() {
	for _, i := range h.idle {
		i.c.Close()
	}
	h.idle = nil
	if h.reaper != nil {
		h.reaper.Stop()
		h.reaper = nil
	}
}

func (h *host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.closeIdle()
}

// connect makes a connection: TLS, EHLO, AUTH.
func (h *host) connect(ctx context.Context) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, h.cfg.ConnectTimeout)
	defer cancel()
	nc, err := h.deps.Dial(dialCtx, h.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	c, err := h.login(dialCtx, nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.SetTimeout(h.cfg.CommandTimeout)
	return &conn{Client: c}, nil
}

func (h *host) login(ctx context.Context, nc net.Conn) (*lmtp.Client, error) {
	var config *tls.Config
	if h.cfg.TLS != TLSNone {
		var err error
		if config, err = h.tlsConfig(); err != nil {
			return nil, err
		}
	}
	if h.cfg.TLS == TLSOnly {
		tc := tls.Client(nc, config)
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		nc = tc
	}
	c := lmtp.New(nc, lmtp.Options{SMTP: true, Timeout: h.cfg.ConnectTimeout, DataTimeout: h.cfg.DataTimeout})
	if err := c.Hello(h.deps.Hostname); err != nil {
		return nil, err
	}
	if h.cfg.TLS == TLSStart {
		if _, ok := c.Ext("STARTTLS"); !ok {
			return nil, errors.New("it does not offer STARTTLS")
		}
		if err := c.StartTLS(ctx, config); err != nil {
			return nil, err
		}
		if err := c.Hello(h.deps.Hostname); err != nil {
			return nil, err
		}
	}
	if h.cfg.Username == "" {
		return c, nil
	}
	password, err := readPassword(h.cfg.PasswordFile)
	if err != nil {
		return nil, err
	}
	return c, c.Auth(h.cfg.Username, password)
}

// readPassword reads the first line.
func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("password_file %s: its first line is empty", file)
	}
	return line, nil
}

func (h *host) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{ServerName: h.cfg.ServerName, MinVersion: tls.VersionTLS12}
	if h.cfg.CAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(h.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: no certificate in it", h.cfg.CAFile)
	}
	return config, nil
}
