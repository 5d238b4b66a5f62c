package hops

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// proxy gives on what clients say.
type proxy struct {
	w     frameWriter
	ended chan struct{} // closed when no more answers come
	uncut func() bool

	mu      sync.Mutex
	last    uint32
	clients map[uint32]net.Conn
}

// dialProxy connects with a server. close must be called.
func dialProxy(ctx context.Context, addr string) (*proxy, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(sessionTime)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	p := &proxy{w: frameWriter{nc: nc}, ended: make(chan struct{}), clients: make(map[uint32]net.Conn)}
	p.uncut = context.AfterFunc(ctx, func() { nc.Close() })
	go func() { // ends with the connection; close waits
		defer close(p.ended)
		p.answers(newFrameReader(nc))
	}()
	return p, nil
}

func (p *proxy) close() {
	p.uncut()
	p.w.nc.Close()
	<-p.ended
}

// answers gives the clients what the server says, and ends with the link, and them.
func (p *proxy) answers(r *frameReader) {
	for {
		id, _, payload, err := r.next()
		if err != nil {
			break
		}
		p.mu.Lock()
		nc := p.clients[id]
		if len(payload) == 0 {
			delete(p.clients, id)
		}
		p.mu.Unlock()
		if nc == nil {
			continue // it hung up
		}
		if len(payload) == 0 {
			nc.Close()
		} else if _, err := nc.Write(payload); err != nil {
			nc.Close() // its goroutine finds out
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, nc := range p.clients {
		nc.Close()
	}
}

// client has one client's lines given on.
func (p *proxy) client(nc net.Conn, greeting string) {
	p.mu.Lock()
	p.last++
	id := p.last
	p.clients[id] = nc
	p.mu.Unlock()
	p.lines(id, nc, greeting)
	p.mu.Lock()
	_, open := p.clients[id]
	delete(p.clients, id)
	p.mu.Unlock()
	if open {
		_ = p.w.write(id, 0, nil, true) // where the link is broken nobody waits for that
	}
}

func (p *proxy) lines(id uint32, nc net.Conn, greeting string) {
	if _, err := nc.Write([]byte(greeting)); err != nil {
		return
	}
	r := bufio.NewReaderSize(nc, lineBytes)
	for flag := uint32(opens); ; flag = 0 {
		line, err := r.ReadSlice('\n')
		if err != nil || p.w.write(id, flag, line, false) != nil {
			return
		}
	}
}
