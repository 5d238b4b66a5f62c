package mx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"waypost/director"
	"waypost/internal/lmtp"
	"waypost/internal/wire"
)

// homes makes LMTP connections to backends, and keeps a few idle ones, since a
// mutual TLS handshake costs more than a small message.
type homes struct {
	dir  Directory
	dial Dialer
	live Liveness
	cfg  Config

	mu   sync.Mutex
	idle map[director.BackendID][]idleConn
}

type idleConn struct {
	c     *lmtp.Client
	since time.Time
}

const (
	idlePerHome = 4
	idleFor     = 30 * time.Second
)

// errDown: a backend that is known to be away, or cannot be reached.
var errDown = errors.New("backend cannot be reached")

// conn is a connection to a home, greeted.
type conn struct {
	*lmtp.Client
	id   director.BackendID
	kind string
	// reused: it was idle, so its far end may be gone by now.
	reused bool
	// private: it carries a client's address (XCLIENT), and is not kept.
	private bool
}

// client is who sends, for homes that are told.
type client struct {
	addr netip.AddrPort
	helo string
}

// get connects. fresh wants no idle connection.
func (h *homes) get(ctx context.Context, id director.BackendID, from client, fresh bool) (*conn, error) {
	b, ok := h.dir.Backend(id)
	if !ok {
		return nil, fmt.Errorf("backend %s: not in the directory: %w", id, errDown)
	}
	if b.State == director.BackendOffline || !h.live.Alive(id) {
		return nil, fmt.Errorf("backend %s: known to be away: %w", id, errDown)
	}
	if !fresh {
		if c := h.take(id); c != nil {
			return &conn{Client: c, id: id, kind: b.Kind, reused: true}, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.DialTimeout)
	defer cancel()
	nc, err := h.dial.DialLMTP(ctx, id, b)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", id, errDown, err)
	}
	c, err := h.greet(nc, id, b, from)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("backend %s: %w: %w", id, errDown, err)
	}
	return c, nil
}

func (h *homes) greet(nc net.Conn, id director.BackendID, b director.Backend, from client) (*conn, error) {
	c := &conn{id: id, kind: b.Kind}
	c.Client = lmtp.New(nc, lmtp.Options{Timeout: h.cfg.DialTimeout, DataTimeout: h.cfg.CommitTimeout})
	if err := c.Hello(h.cfg.Hostname); err != nil {
		return nil, err
	}
	if c.kind == director.KindWaypost {
		if _, ok := c.Ext(wire.ExtWaypost); !ok {
			return nil, fmt.Errorf("it does not announce %s", wire.ExtWaypost)
		}
	} else if _, ok := c.Ext("XCLIENT"); ok && b.Dovecot != nil && b.Dovecot.Trusted && from.addr.IsValid() {
		c.private = true
		if err := c.XClient(from.addr, from.helo); err != nil {
			return nil, err
		}
		if err := c.Hello(h.cfg.Hostname); err != nil {
			return nil, err
		}
	}
	c.SetTimeout(h.cfg.RcptTimeout)
	return c, nil
}

func (h *homes) take(id director.BackendID) *lmtp.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := h.idle[id]; len(l) > 0; l = h.idle[id] {
		last := l[len(l)-1]
		h.idle[id] = l[:len(l)-1]
		if time.Since(last.since) < idleFor {
			return last.c
		}
		last.c.Close()
	}
	return nil
}

// put gives back a connection that is between transactions.
func (h *homes) put(c *conn) {
	c.SetTimeout(h.cfg.RcptTimeout)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle == nil || c.private || len(h.idle[c.id]) >= idlePerHome {
		c.Close()
		return
	}
	h.idle[c.id] = append(h.idle[c.id], idleConn{c.Client, time.Now()})
}

// close ends the idle connections; what is put later is closed.
func (h *homes) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.idle {
		for _, c := range l {
			c.c.Close()
		}
	}
	h.idle = nil
}

// mailParams are those of MAIL FROM at a home.
func mailParams(kind, delivery string, size int64, eightBit, utf8 bool) lmtp.MailParams {
	p := lmtp.MailParams{Size: size, EightBit: eightBit, UTF8: utf8}
	if kind == director.KindWaypost {
		p.Extra = []lmtp.Param{{Key: wire.ParamDelivery, Value: delivery}}
	}
	return p
}

// mailboxAddress is a user's address with a sub-address, unless that is empty
// or cannot be written: better into the INBOX than nowhere.
func mailboxAddress(u director.User, folder string) string {
	if folder != "" {
		if to := u.Local() + "+" + folder + "@" + u.Domain(); lmtp.CheckAddress(to) == nil {
			return to
		}
	}
	return string(u)
}

// rcptTo is a recipient at a home; reject is wire.ParamReject's value.
func rcptTo(kind string, u director.User, folder string, rec director.Record, accepted bool, reject string) lmtp.Recipient {
	r := lmtp.Recipient{To: mailboxAddress(u, folder)}
	if kind != director.KindWaypost {
		return r
	}
	r.Params = []lmtp.Param{
		{Key: wire.ParamHome, Value: string(rec.Home)},
		{Key: wire.ParamEpoch, Value: strconv.FormatUint(uint64(rec.Epoch), 10)},
	}
	if reject != "" {
		r.Params = append(r.Params, lmtp.Param{Key: wire.ParamReject, Value: reject})
	}
	if accepted {
		r.Params = append(r.Params, lmtp.Param{Key: wire.ParamAccepted, Value: "1"})
	}
	return r
}
