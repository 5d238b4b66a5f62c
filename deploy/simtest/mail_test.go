//go:build !race

package simtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/wire"
	"waypost/mx"
)

// post is an mx's machine: its spool outlives its processes.
type post struct {
	w    *world
	dir  string // of the spool
	run  int
	ids  int
	proc *postProc // nil: down
}

type postProc struct {
	*mx.Server
	dead  bool
	ctx   context.Context
	stop  context.CancelFunc
	port  *port
	cache *cache.Client
}

func (m *post) boot() error {
	w := m.w
	p := &postProc{port: &port{w: w, who: "mx1", shy: true}}
	p.ctx, p.stop = context.WithCancel(w.ctx)
	var err error
	if p.cache, err = cache.Open(p.ctx, cache.Options{Store: p.port}); err != nil {
		return err
	}
	p.Server, err = mx.Assemble(mx.Config{Hostname: "mx1.example.test", SpoolDir: m.dir, SpoolConcurrency: 1, SpoolMinBackoff: time.Second, SpoolMaxBackoff: 20 * time.Second}, mx.Deps{
		Directory: p.cache, Dialer: &lmtpDialer{w, p}, Log: slog.New(slog.DiscardHandler),
		Random: func(n int64) int64 { return n / 2 },
	})
	if err != nil {
		return err
	}
	m.proc = p
	w.running.Go(func() {
		if err := p.Serve(p.ctx); err != nil && !p.dead && w.ctx.Err() == nil {
			w.fail("mx: %v", err)
		}
		_ = p.cache.Close() // has no snapshot to write
	})
	return nil
}

// crash is kill -9: the next process goes on with the spool as it is now; what
// the dead one still writes goes into a folder that nobody reads.
func (m *post) crash() error {
	p := m.proc
	m.w.note("mx1", "crash")
	m.run++
	next := filepath.Join(filepath.Dir(m.dir), "spool"+strconv.Itoa(m.run))
	if err := os.CopyFS(next, os.DirFS(m.dir)); err != nil {
		return err
	}
	m.dir, m.proc = next, nil
	p.dead, p.port.dead = true, true
	p.stop()
	return nil
}

// send is one sender: it hands a message to the mx, and believes a 250.
func (m *post) send(ctx context.Context, name string) {
	w := m.w
	for w.step(ctx, "sender", "send "+name) == nil {
		p := m.proc
		if p == nil {
			if sleep(ctx, time.Second) != nil {
				return
			}
			continue
		}
		w.begins(name)
		m.ids++
		reply := p.Take(as(ctx, name), fmt.Sprintf("%s-%d", name, m.ids), "someone@outside.test", string(alice), strings.NewReader("Subject: "+name+"\r\n\r\n"+name+"\r\n"))
		if w.step(ctx, "sender", "answer to "+name) != nil {
			return
		}
		switch {
		case p.dead: // the sender never hears of it
		case reply.Code == 250:
			w.acked[name] = true
			w.note("sender", name+" is taken")
		case reply.Code/100 == 4:
			w.saw("sender has to try again")
			w.note("sender", fmt.Sprintf("%s: %v", name, reply))
		case w.deletions > 0: // there was no such user
		default:
			w.fail("I5: a sender got %v", reply)
		}
		return
	}
}

// lmtpDialer reaches the simulated backends by LMTP over pipes.
type lmtpDialer struct {
	w *world
	p *postProc
}

func (d *lmtpDialer) DialLMTP(ctx context.Context, id director.BackendID, _ director.Backend) (net.Conn, error) {
	if err := d.w.step(ctx, "mx1", "dial "+string(id)); err != nil {
		return nil, err
	}
	p := d.w.nodes[id].proc
	if d.p.dead || p == nil || !p.ready || d.w.cut[string(id)+"/net"] || d.w.chaos && d.w.chance(40) {
		return nil, errDown
	}
	mine, theirs := net.Pipe()
	s := &lmtpServer{w: d.w, p: p, from: d.p, c: theirs, r: bufio.NewReader(theirs), name: fmt.Sprintf("%s.lmtp%d", id, d.w.now())}
	d.w.running.Go(s.serve)
	return mine, nil
}

// lmtpServer is a backend's LMTP, as far as an mx sees it.
type lmtpServer struct {
	w     *world
	p     *proc
	from  *postProc
	c     net.Conn
	r     *bufio.Reader
	name  string
	id    string
	epoch []director.Epoch // of the accepted recipients
}

func (s *lmtpServer) serve() {
	stop := context.AfterFunc(s.p.ctx, func() { s.c.Close() })
	defer stop()
	gone := context.AfterFunc(s.from.ctx, func() { s.c.Close() })
	defer gone()
	defer s.c.Close()
	if !s.say("220 simulated") {
		return
	}
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "LHLO":
			if !s.say("250-simulated\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 XWAYPOST") {
				return
			}
		case "MAIL":
			s.id, s.epoch = param(line, wire.ParamDelivery), nil
			if !s.say("250 2.1.0 ok") {
				return
			}
		case "RCPT":
			if !s.rcpt(line) {
				return
			}
		case "DATA":
			if !s.data() {
				return
			}
		case "RSET":
			s.epoch = nil
			if !s.say("250 2.0.0 ok") {
				return
			}
		default:
			s.say("221 2.0.0 bye")
			return
		}
	}
}

func param(line, key string) string {
	for _, f := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(f, key+"="); ok {
			return v
		}
	}
	return ""
}

func (s *lmtpServer) say(line string) bool {
	_, err := io.WriteString(s.c, line+"\r\n")
	return err == nil
}

func (s *lmtpServer) step(what string) bool {
	return s.w.step(s.p.ctx, s.name, what) == nil && !s.p.dead && !s.from.dead
}

func (s *lmtpServer) rcpt(line string) bool {
	if !s.step("rcpt") {
		return false
	}
	epoch, err := strconv.ParseUint(param(line, wire.ParamEpoch), 10, 64)
	if err != nil {
		return s.say("501 5.5.4 " + wire.ParamEpoch)
	}
	switch s.p.open(as(s.p.ctx, s.name), director.BackendID(param(line, wire.ParamHome)), director.Epoch(epoch)) {
	case "ok":
		s.epoch = append(s.epoch, director.Epoch(epoch))
		return s.say("250 2.1.5 ok")
	case "stale":
		return s.say("451 4.3.0 " + wire.WordStale + " look again")
	case "busy":
		return s.say("450 4.2.1 " + wire.WordBusy + " being moved")
	}
	return s.say("451 4.3.0 " + wire.WordRefused + " not now")
}

// data takes the message; its subject is its name. The answer may get lost.
func (s *lmtpServer) data() bool {
	if !s.say("354 go on") {
		return false
	}
	name := ""
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return false
		}
		if v, ok := strings.CutPrefix(line, "Subject: "); ok {
			name = strings.TrimSpace(v)
		}
		if line == ".\r\n" {
			break
		}
	}
	if !s.step("data " + name) {
		return false
	}
	if s.w.chance(4) { // a slow sender
		if sleep(s.p.ctx, s.w.upTo(3*time.Second)) != nil || !s.step("slow "+name) {
			return false
		}
	}
	for _, e := range s.epoch {
		_, err := s.p.commit(as(s.p.ctx, s.name), e, name, s.id)
		lost := s.w.chaos && s.w.chance(15)
		if !s.step("committed "+name) || lost {
			s.w.saw("answer of a delivery lost")
			return false
		}
		answer := "250 2.0.0 ok"
		if err != nil {
			answer = "451 4.3.0 " + wire.WordStale + " " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if !s.say(answer) {
			return false
		}
	}
	return true
}
