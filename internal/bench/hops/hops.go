// Package hops measures what sessions of IMAP and POP3 cost on this machine before anything is
// done for them, in one process of plain Go, or in a proxy and a server: a limit beside which
// package access puts Waypost. Something cleverer may cost less.
//
// # Contract
//
// A server says to each line what Waypost says, in as many bytes, and knows of it the command's
// word only: LOGIN, SELECT and LOGOUT, USER, PASS, STAT, RETR and QUIT; anything else it refuses.
// Anybody may log in. The messages of a Maildir are counted once; for RETR the file is
// opened and read each time. There are no TLS, passwords, locks, indexes, logs and metrics.
//
// With two hops a proxy greets the clients, and gives each line to the server over one
// TCP connection that all sessions share, in a frame; the answers come back so. Each session has a
// goroutine at either. There are no windows: a client that does not read stops the others', so
// that these processes are for measurements only. They listen where their parent says, on the
// loopback, and end with it; no session is longer than an hour.
//
// It imports no tier. Peers may be called by anybody; Run is for the hidden command that a Peer
// starts.
package hops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/child"
)

// The kinds of processes: a server for clients, one for a proxy, and the proxy.
const (
	KindServer = "server"
	KindLinked = "linked"
	KindProxy  = "proxy"
)

// Command is how a Peer calls this program: with these words, a kind, and what Run takes as where.
// The listeners are its descriptors from 3 on.
func Command() []string { return []string{"bench", "hop"} }

// firstInherited is the number of the first descriptor that exec.Cmd.ExtraFiles gives a child.
const firstInherited = 3

const user, password = "u0@example.test", "bench"

// Rows are what the peers are measured in, as package access names them.
func Rows() []string { return []string{"login", "login-alone", "warm:pop3-retr"} }

// Peers are one hop and two.
func Peers() []bench.Peer {
	peer := func(mode string, proxied bool) bench.Peer {
		return bench.Peer{Name: "limit", Mode: mode, Rows: Rows(), Start: func(ctx context.Context, dir string, _ bench.Setup) (*bench.Server, error) {
			return start(ctx, dir, proxied)
		}}
	}
	return []bench.Peer{peer("one hop", false), peer("two hops", true)}
}

// running are the processes, the last one of which has the clients.
type running struct {
	dir       string
	processes []*child.Process
}

func start(ctx context.Context, dir string, proxied bool) (*bench.Server, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &running{dir: abs}
	maildir := filepath.Join(abs, "Maildir")
	var link, at []string
	if proxied {
		if link, err = r.start(ctx, KindLinked, maildir, 1); err == nil {
			at, err = r.start(ctx, KindProxy, link[0], 2)
		}
	} else {
		at, err = r.start(ctx, KindServer, maildir, 2)
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return &bench.Server{IMAP: at[0], User: user, Password: password, Log: r.log, Stop: r.stop, Mail: abs, PID: r.processes[0].PID(),
		Access: &bench.Access{POP3: at[1], Maildir: maildir, Own: func(string) error { return nil }, CPU: r.cpu}}, nil
}

// start runs a process that listens at n addresses, which it gives.
func (r *running) start(ctx context.Context, kind, where string, n int) ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, append(Command(), kind, where)...)
	var at []string
	for range n {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		defer ln.Close() // the child has its own
		f, err := ln.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		at = append(at, ln.Addr().String())
	}
	p, err := child.Start("bare "+kind, filepath.Join(r.dir, kind+".log"), cmd)
	if err != nil {
		return nil, err
	}
	r.processes = append(r.processes, p)
	return at, nil
}

func (r *running) cpu() (sum time.Duration, err error) {
	for _, p := range r.processes {
		d, err := bench.TreeCPU(p.PID())
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

func (r *running) log() string {
	var text string
	for _, p := range r.processes {
		text += p.Log()
	}
	return text
}

// stop ends the processes, the last started first.
func (r *running) stop() error {
	var errs []error
	for i := len(r.processes) - 1; i >= 0; i-- {
		errs = append(errs, r.processes[i].Stop())
	}
	return errors.Join(errs...)
}

// Run is a process of a kind, with the listeners that its parent left it, until ctx ends. where
// is a server's Maildir, or what a proxy connects to.
func Run(ctx context.Context, kind, where string) error {
	n := 2
	if kind == KindLinked {
		n = 1
	}
	var lns []net.Listener
	for i := range n {
		f := os.NewFile(uintptr(firstInherited+i), "listener")
		if f == nil {
			return fmt.Errorf("%s: no descriptor %d", kind, firstInherited+i)
		}
		ln, err := net.FileListener(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: this is started by waypost bench imap alone: %w", kind, err)
		}
		lns = append(lns, ln)
	}
	return serve(ctx, kind, where, lns)
}

// ErrKind: there is no such process.
var ErrKind = errors.New("no such process")

func serve(ctx context.Context, kind, where string, lns []net.Listener) error {
	a := acceptor{ctx: ctx, lns: lns}
	switch s := newServer(where); kind {
	case KindServer:
		return a.run(func(nc net.Conn) { s.client(nc, greetIMAP) }, func(nc net.Conn) { s.client(nc, greetPOP3) })
	case KindLinked:
		return a.run(s.link)
	case KindProxy:
		p, err := dialProxy(ctx, where)
		if err != nil {
			return errors.Join(err, a.close())
		}
		defer p.close()
		return a.run(func(nc net.Conn) { p.client(nc, greetIMAP) }, func(nc net.Conn) { p.client(nc, greetPOP3) })
	default:
		return errors.Join(fmt.Errorf("%w: %q", ErrKind, kind), a.close())
	}
}
