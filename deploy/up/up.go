// Package up runs a whole cluster on loopback in one process: an embedded
// etcd, a director, three backends, two mx, two proxies and a mover. Each is
// the role that runs alone elsewhere, started through deploy/role from an
// ordinary configuration; nothing in the tiers knows of this package.
//
// Everything lies under one data folder and survives a restart. The folder is
// locked against a second process and carries the layout's version.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"waypost/deploy/clifile"
	"waypost/deploy/role"
	"waypost/director/etcd/embedded"
	"waypost/director/member"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/telemetry"
)

// Options of Run.
type Options struct {
	// Data is the folder that holds everything; made when missing.
	Data string
	// Offset is added to every port.
	Offset int
	// Demo makes the domain example.test and some users.
	Demo bool
	// Stdout gets what listens where and `ready`; Stderr the logs.
	Stdout, Stderr      io.Writer
	LogFormat, LogLevel string
}

// Run runs the cluster until ctx ends, and returns when it has stopped in order.
func Run(ctx context.Context, o Options) error {
	log, err := telemetry.NewLogger(o.Stderr, orDefault(o.LogFormat, "text"), orDefault(o.LogLevel, "warn"))
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(o.Data)
	if err != nil {
		return err
	}
	l := layout{dir, o.Offset}
	lock, err := l.open()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	us := l.units()
	if err := free(l.ports(us)); err != nil {
		return err
	}
	if err := l.issue(us); err != nil {
		return err
	}
	etcd := l.etcdOptions(us)
	etcd.Log = log
	store, err := embedded.StartEmbedded(ctx, etcd)
	if err != nil {
		return err
	}
	defer store.Close()
	r := runner{log: log, failed: make(chan error, len(us))}
	defer r.stopAll()
	if err := r.start(ctx, us); err != nil {
		return err
	}
	if o.Demo {
		if err := l.demo(ctx); err != nil {
			return fmt.Errorf("demo users: %w", err)
		}
	}
	announce(o, l, us)
	select {
	case <-ctx.Done():
		fmt.Fprintln(o.Stdout, "stopping")
		return r.stopAll()
	case err := <-r.failed:
		return err
	}
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

const layoutVersion = "1"

// open makes or checks the data folder, and locks it.
func (l layout) open() (*durable.DirLock, error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w: choose another with --data", err)
	}
	lock, err := durable.Lock(l.dir)
	if err != nil {
		return nil, fmt.Errorf("%w: stop the other process, or choose another folder with --data", err)
	}
	if err := l.version(); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock, nil
}

func (l layout) version() error {
	p := filepath.Join(l.dir, "VERSION")
	v, err := os.ReadFile(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := l.empty(); err != nil {
			return err
		}
		if err := durable.WriteFile(p, []byte(layoutVersion+"\n"), 0o600); err != nil {
			return fmt.Errorf("data folder: %w: choose another with --data", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("data folder: %w", err)
	case strings.TrimSpace(string(v)) != layoutVersion:
		return fmt.Errorf("data folder %s was written by another version (layout %s, this waypost reads %s): run the version that wrote it, or choose another with --data", l.dir, strings.TrimSpace(string(v)), layoutVersion)
	}
	return nil
}

// empty refuses a folder that holds something else: a wrong --data must not
// mix a cluster into somebody's files.
func (l layout) empty() error {
	es, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != durable.LockName {
			return fmt.Errorf("data folder %s holds other things (%s): choose an empty one with --data", l.dir, e.Name())
		}
	}
	return nil
}

// free finds taken ports before anything is started, and names them all.
func free(addrs []string) error {
	var taken []string
	for _, a := range addrs {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			taken = append(taken, a)
			continue
		}
		if err := ln.Close(); err != nil {
			return err
		}
	}
	const show = 4
	if n := len(taken) - show; n > 0 {
		taken = append(taken[:show], fmt.Sprintf("and %d more", n))
	}
	if len(taken) > 0 {
		return fmt.Errorf("taken by another program: %s: stop it, or shift all ports with --offset", strings.Join(taken, ", "))
	}
	return nil
}

// issue makes what is missing: the cluster's authority and certificates, the
// one that clients see, the gossip key, and the CLI's file.
func (l layout) issue(us []Unit) error {
	ca, err := authority(l.pki(), "waypost-up")
	if err != nil {
		return err
	}
	hosts := []string{loopback, "localhost"}
	peers := []cluster.Peer{etcdPeer, adminPeer}
	for _, u := range us {
		peers = append(peers, u.Peer)
	}
	for _, p := range peers {
		if err := ca.IssueTo(l.pki(), p, hosts); err != nil {
			return err
		}
	}
	// Clients see a certificate of an authority of its own: what a mail client
	// is told to trust must have no power inside the cluster.
	public, err := authority(l.tls(), "waypost-up-clients")
	if err != nil {
		return err
	}
	if err := public.IssueTo(l.tls(), publicPeer, append(hosts, hostname)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "snapshots"), 0o700); err != nil {
		return err
	}
	if _, err := member.LoadOrCreateKey(l.gossipKey()); err != nil {
		return err
	}
	return clifile.Write(l.dir, clifile.File{Admin: l.addr(portAdmin), CA: filepath.Join(l.pki(), cluster.AuthorityCert),
		Cert: cluster.CertPath(l.pki(), adminPeer), Key: cluster.KeyPath(l.pki(), adminPeer)})
}

func authority(dir, name string) (*cluster.Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, cluster.AuthorityCert)); err == nil {
		return cluster.LoadAuthority(dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return cluster.CreateAuthority(dir, name)
}

// runner holds the roles that run, so that they stop in order.
type runner struct {
	log    *slog.Logger
	failed chan error
	mu     sync.Mutex
	run    []running
}

type running struct {
	name string
	stop context.CancelFunc
	done chan struct{}
}

// start starts the director, then all others, and waits until each serves.
// They would wait for each other by themselves; in this order they need not.
func (r *runner) start(ctx context.Context, us []Unit) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := r.startAll(ctx, us[:1]); err != nil {
		return err
	}
	return r.startAll(ctx, us[1:])
}

func (r *runner) startAll(ctx context.Context, us []Unit) error {
	ready := make([]chan struct{}, len(us))
	for i, u := range us {
		ready[i] = make(chan struct{})
		r.one(u, sync.OnceFunc(func() { close(ready[i]) }))
	}
	for i, u := range us {
		select {
		case <-ready[i]:
		case err := <-r.failed:
			return err
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s is not ready after %s; its log says why (--log-level info)", u.Peer, readyWithin)
			}
			return nil
		}
	}
	return nil
}

func (r *runner) one(u Unit, ready func()) {
	ctx, stop := context.WithCancel(context.Background())
	x := running{u.Peer.String(), stop, make(chan struct{})}
	r.mu.Lock()
	r.run = append(r.run, x)
	r.mu.Unlock()
	go func() {
		defer close(x.done)
		if err := role.Start(ctx, u.Config, r.log, ready); err != nil {
			r.failed <- fmt.Errorf("%s: %w", u.Peer, err)
		} else if ctx.Err() == nil {
			r.failed <- fmt.Errorf("%s ended by itself", u.Peer)
		}
	}()
}

// stopAll stops what runs, last started first: proxies and mx let go of their
// clients before the backends and the directory under them end.
func (r *runner) stopAll() error {
	r.mu.Lock()
	run := r.run
	r.run = nil
	r.mu.Unlock()
	for i := len(run) - 1; i >= 0; i-- {
		run[i].stop()
		<-run[i].done
	}
	var errs []error
	for {
		select {
		case err := <-r.failed:
			errs = append(errs, err)
		default:
			return errors.Join(errs...)
		}
	}
}

// Plan prepares dir for a cluster as Run would run it, and gives its roles for
// somebody who runs each as a process of its own.
func Plan(dir string, offset int) ([]Unit, embedded.EmbedOptions, error) {
	l := layout{dir, offset}
	us := l.units()
	return us, l.etcdOptions(us), l.issue(us)
}

// announce prints what listens where, how to log in, and `ready`.
func announce(o Options, l layout, us []Unit) {
	w := o.Stdout
	for _, u := range us {
		for _, s := range u.Serves {
			fmt.Fprintf(w, "%-22s %-18s %s\n", s.What, s.Addr, u.Peer.ID)
		}
	}
	fmt.Fprintf(w, "data                   %s\n", l.dir)
	fmt.Fprintf(w, "CA that clients trust  %s\n", filepath.Join(l.tls(), cluster.AuthorityCert))
	if o.Demo {
		fmt.Fprintf(w, "users                  %s with password %q\n", strings.Join(demoUsers, ", "), demoPassword)
	}
	fmt.Fprintln(w, "ready")
}
