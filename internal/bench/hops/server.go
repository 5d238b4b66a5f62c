package hops

import (
	"bufio"
	"bytes"
	"net"
	"sync"
)

// client serves one whose connection is with us.
func (s *server) client(nc net.Conn, greeting string) {
	if _, err := nc.Write([]byte(greeting)); err != nil {
		return
	}
	r := bufio.NewReaderSize(nc, lineBytes)
	se := session{server: s}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		said, over, err := se.answer(line)
		if err != nil { // the client finds out
			return
		}
		if _, err := nc.Write(said); err != nil || over {
			return
		}
	}
}

// stream is a session whose client is with the proxy.
type stream struct {
	lines chan []byte   // closed by the link when the client is gone
	done  chan struct{} // closed by the session's goroutine
}

// link are the sessions of a proxy's.
type link struct {
	*server
	w  frameWriter
	wg sync.WaitGroup

	mu      sync.Mutex
	streams map[uint32]*stream
}

// link serves a proxy.
func (s *server) link(nc net.Conn) {
	l := &link{server: s, w: frameWriter{nc: nc}, streams: make(map[uint32]*stream)}
	r := newFrameReader(nc)
	for {
		id, first, payload, err := r.next()
		if err != nil { // the proxy has gone
			break
		}
		l.line(id, first, payload)
	}
	nc.Close() // for sessions that write
	l.mu.Lock()
	for id, st := range l.streams {
		delete(l.streams, id)
		close(st.lines)
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// line hands a line to its session.
func (l *link) line(id uint32, first bool, payload []byte) {
	l.mu.Lock()
	st := l.streams[id]
	if st == nil && first {
		st = &stream{make(chan []byte, 1), make(chan struct{})}
		l.streams[id] = st
		l.wg.Go(func() { l.session(id, st) })
	}
	if st != nil && len(payload) == 0 {
		delete(l.streams, id)
		close(st.lines)
	}
	l.mu.Unlock()
	if st == nil || len(payload) == 0 {
		return
	}
	select {
	case st.lines <- bytes.Clone(payload):
	case <-st.done:
	}
}

func (l *link) session(id uint32, st *stream) {
	defer close(st.done)
	se := session{server: l.server}
	for line := range st.lines {
		said, over, err := se.answer(line)
		over = over || err != nil
		if over {
			l.mu.Lock()
			delete(l.streams, id)
			l.mu.Unlock()
		}
		if l.w.write(id, 0, said, over) != nil || over {
			return
		}
	}
}
