package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/frames"
	"waypost/internal/wire"
)

// value is a counter's.
func value(c prometheus.Counter) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		panic(err) // only in tests
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// fakeProxy is the part of a proxy that keeps sessions.
type fakeProxy struct {
	r  *rig
	id *cluster.Identity

	mu    sync.Mutex
	links map[director.BackendID]*frames.Client
}

func newFakeProxy(r *rig) *fakeProxy {
	p := &fakeProxy{r: r, id: r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"}), links: make(map[director.BackendID]*frames.Client)}
	r.t.Cleanup(p.close)
	return p
}

func (p *fakeProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.links {
		c.Close()
	}
	clear(p.links)
}

// link gives the connection to a backend, a new one if there is none to be used.
func (p *fakeProxy) link(ctx context.Context, id director.BackendID) (*frames.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.links[id]; c != nil && c.Usable() {
		return c, nil
	}
	node, err := p.r.dir.Backend(ctx, id)
	if err != nil {
		return nil, err
	}
	conn, err := p.id.Dial(ctx, node.Value.Node, cluster.Peer{Role: cluster.RoleBackend, ID: string(id)}, cluster.ProtoSession)
	if err != nil {
		return nil, err
	}
	c, err := frames.Dial(ctx, conn, frames.Options{HandOff: true})
	if err == nil {
		p.links[id] = c
	}
	return c, err
}

// record is what a proxy looks up.
func (p *fakeProxy) record() director.Record {
	v, err := p.r.dir.Location(context.Background(), alice)
	if err != nil {
		p.r.t.Error(err)
	}
	return v.Value
}

func hello(protocol, session string, at director.Record) wire.Hello {
	return wire.Hello{Version: wire.Version, Protocol: protocol, User: string(alice), Home: string(at.Home), Epoch: uint64(at.Epoch), Client: "192.0.2.1:1", Session: session}
}

// rider is a client's session, which goes on wherever its user lives.
type rider struct {
	p                 *fakeProxy
	protocol, session string

	// mu guards what follows; cond tells of changes.
	mu     sync.Mutex
	cond   sync.Cond
	stream *frames.Stream // nil: parked
	heard  strings.Builder
	rides  int
	said   uint64 // bytes
	// refused are the answers to RESUMEs that were tried again.
	refused map[wire.Status]int
	ended   error
}

// ride begins a session.
func (p *fakeProxy) ride(protocol, session string) *rider {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	rec := p.record()
	link, err := p.link(ctx, rec.Home)
	p.r.must(err)
	s, w, err := link.Open(ctx, hello(protocol, session, rec))
	p.r.must(err)
	if w.Status != wire.StatusOK {
		p.r.t.Fatalf("%s: %+v", protocol, w)
	}
	c := &rider{p: p, protocol: protocol, session: session, stream: s, refused: make(map[wire.Status]int)}
	c.cond.L = &c.mu
	var work sync.WaitGroup
	work.Go(func() { c.run(s) })
	p.r.t.Cleanup(func() {
		c.mu.Lock()
		if c.stream != nil {
			c.stream.Close()
		}
		if c.ended == nil {
			c.ended = errOver
		}
		c.mu.Unlock()
		work.Wait()
	})
	if protocol == "imap" {
		c.hears(" ready\r\n")
	}
	return c
}

var errOver = errors.New("the test is over")

func (c *rider) run(s *frames.Stream) {
	buf := make([]byte, 8192)
	for {
		n, err := s.Read(buf)
		c.mu.Lock()
		c.heard.Write(buf[:n])
		var state, unconsumed []byte
		switch ok := false; {
		case err == nil:
			c.cond.Broadcast()
			c.mu.Unlock()
			continue
		case errors.Is(err, frames.ErrHandOff):
			state, unconsumed = s.HandedOff()
		case errors.Is(err, frames.ErrLost):
			if state, unconsumed, ok = s.LastCheckpoint(); !ok {
				state = nil
			}
		}
		c.stream = nil
		c.mu.Unlock()
		s.Close()
		if state != nil {
			s, err = c.resume(state, unconsumed)
		}
		c.mu.Lock()
		if state == nil || err != nil {
			if c.ended == nil {
				c.ended = err
			}
			c.cond.Broadcast()
			c.mu.Unlock()
			return
		}
		c.stream = s
		c.rides++
		c.cond.Broadcast()
		c.mu.Unlock()
	}
}

// resume tries until the session goes on, or cannot.
func (c *rider) resume(state, unconsumed []byte) (*frames.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		s, w, err := c.try(ctx, state)
		switch {
		case errors.Is(err, frames.ErrOutcome):
			return nil, err
		case w.Status == wire.StatusUnresumable:
			return nil, errors.New("unresumable: " + w.Text)
		case err == nil && w.Status == wire.StatusOK:
			_, err := s.Write(unconsumed)
			return s, err
		}
		c.mu.Lock()
		c.refused[w.Status]++
		over := c.ended != nil
		c.mu.Unlock()
		if over {
			return nil, errOver
		}
		pause(ctx, 5*time.Millisecond)
	}
	return nil, ctx.Err()
}

func (c *rider) try(ctx context.Context, state []byte) (*frames.Stream, wire.Welcome, error) {
	rec := c.p.record()
	link, err := c.p.link(ctx, rec.Home)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	return link.Resume(ctx, hello(c.protocol, c.session, rec), state)
}

// say sends, when somebody is there to hear it.
func (c *rider) say(text string) {
	c.p.r.t.Helper()
	p := []byte(text)
	for len(p) > 0 {
		c.mu.Lock()
		for c.stream == nil && c.ended == nil {
			c.cond.Wait()
		}
		s, ended := c.stream, c.ended
		c.mu.Unlock()
		if ended != nil {
			c.p.r.t.Fatalf("%s: nobody hears %q: %v", c.session, text, ended)
		}
		n, _ := s.Write(p) // what is not written is for the next one
		p = p[n:]
		c.mu.Lock()
		c.said += uint64(n)
		c.mu.Unlock()
	}
}

// hears waits for words, and gives what came up to their end.
func (c *rider) hears(words string) string {
	c.p.r.t.Helper()
	var got string
	eventually(c.p.r.t, fmt.Sprintf("%s hears %q", c.session, words), func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if before, after, ok := strings.Cut(c.heard.String(), words); ok {
			got = before + words
			c.heard.Reset()
			c.heard.WriteString(after)
			return nil
		}
		return fmt.Errorf("heard %q, ended %v", c.heard.String(), c.ended)
	})
	return got
}

// asks is say and hears.
func (c *rider) asks(text, words string) string {
	c.p.r.t.Helper()
	c.say(text)
	return c.hears(words)
}

// went waits until the session has gone on n times.
func (c *rider) went(n int) {
	c.p.r.t.Helper()
	eventually(c.p.r.t, fmt.Sprintf("%s has gone on %d times", c.session, n), func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.rides < n {
			return fmt.Errorf("%d times, ended %v", c.rides, c.ended)
		}
		return nil
	})
}

func (c *rider) end() error {
	c.p.r.t.Helper()
	var ended error
	eventually(c.p.r.t, c.session+" ends", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended == nil {
			return errors.New("it goes on")
		}
		ended = c.ended
		return nil
	})
	return ended
}
