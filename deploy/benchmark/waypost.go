// Package benchmark starts a Waypost backend for a measurement (internal/bench):
// a cluster as `waypost up` plans it, in a folder of the caller's, of which only
// what is needed runs. The directory (etcd and a director) runs in this process,
// where it is idle while mail is delivered; the backend is a process of its own,
// `waypost backend`, so that its CPU is its own, and so is a proxy where IMAP is
// wanted. Mail comes as an mx brings it: LMTP over mutual TLS with home, epoch
// and delivery id.
//
// It owns the folder while the server runs. Children end with this program.
package benchmark

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"

	"waypost/backend/fence"
	"waypost/backend/scripts"
	"waypost/deploy/clifile"
	"waypost/deploy/role"
	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
	"waypost/internal/bench"
	"waypost/internal/bench/child"
	"waypost/internal/cluster"
	"waypost/internal/vfs"
)

// Options of Peer.
type Options struct {
	// Program is the waypost to run; empty: this one.
	Program string
	// Profile, where not empty, gets a CPU profile of each backend under load,
	// with the run's folder's name added.
	Profile string
	// ProfileFor is how long it is taken.
	ProfileFor time.Duration
	// Settle is bench.Server.Settle; 0 is long enough for a backend to write what
	// its journal holds into the trees, which is part of the work.
	Settle time.Duration
}

const (
	domain = "example.test"
	// quotaBytes is never reached.
	quotaBytes = 100 << 30
	password   = "bench"
	startWait  = time.Minute
	// settle: checkpoints are at most 5 s apart.
	settle = 7 * time.Second

	backendID, proxyID = "b1", "p1"
)

// Peer is Waypost as a suite's peer.
func Peer(o Options) bench.Peer {
	return bench.Peer{Name: bench.Ours, Mode: "journal", Start: func(ctx context.Context, dir string, s bench.Setup) (*bench.Server, error) {
		return Start(ctx, dir, s, o)
	}}
}

// instance is a cluster that runs.
type instance struct {
	o       Options
	dir     string
	units   []up.Unit
	etcd    *embedded.Embedded
	leave   context.CancelFunc
	left    chan error // the director's end
	backend *child.Process
	proxy   *child.Process
	profile *profile
	access  bool // bench.Setup.Access
}

// Start runs a backend in dir, which must be fresh, and returns when it serves
// its users.
func Start(ctx context.Context, dir string, s bench.Setup, o Options) (*bench.Server, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if o.Settle <= 0 {
		o.Settle = settle
	}
	i := &instance{o: o, dir: abs, access: s.Access}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	srv, err := i.start(ctx, s)
	if err != nil {
		return nil, errors.Join(err, i.stop())
	}
	return srv, nil
}

func (i *instance) start(ctx context.Context, s bench.Setup) (*bench.Server, error) {
	offset, err := freeOffset()
	if err != nil {
		return nil, err
	}
	var etcd embedded.EmbedOptions
	if i.units, etcd, err = up.Plan(i.dir, offset); err != nil {
		return nil, err
	}
	if i.etcd, err = embedded.StartEmbedded(ctx, etcd); err != nil {
		return nil, err
	}
	if err := i.director(ctx); err != nil {
		return nil, err
	}
	if err := i.children(ctx, s.IMAP); err != nil {
		return nil, err
	}
	return i.serve(ctx, s)
}

func (i *instance) unit(r cluster.Role, id string) (up.Unit, error) {
	at := slices.IndexFunc(i.units, func(u up.Unit) bool { return u.Peer == cluster.Peer{Role: r, ID: id} })
	if at < 0 {
		return up.Unit{}, fmt.Errorf("the cluster has no %s %s", r, id)
	}
	return i.units[at], nil
}

// director runs the director in this process.
func (i *instance) director(ctx context.Context) error {
	u, err := i.unit(cluster.RoleDirector, "d1")
	if err != nil {
		return err
	}
	run, leave := context.WithCancel(context.WithoutCancel(ctx))
	i.leave, i.left = leave, make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		i.left <- role.Start(run, u.Config, slog.New(slog.DiscardHandler), func() { close(ready) })
	}()
	select {
	case <-ready:
		return nil
	case err := <-i.left:
		i.left <- nil
		return fmt.Errorf("director: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("director: %w", ctx.Err())
	}
}

// children starts the processes that are measured.
func (i *instance) children(ctx context.Context, proxy bool) (err error) {
	if i.backend, err = i.child(ctx, cluster.RoleBackend, backendID); err != nil || !proxy {
		return err
	}
	i.proxy, err = i.child(ctx, cluster.RoleProxy, proxyID)
	return err
}

// child runs a role as a process of its own.
func (i *instance) child(ctx context.Context, r cluster.Role, id string) (*child.Process, error) {
	u, err := i.unit(r, id)
	if err != nil {
		return nil, err
	}
	u.Config.Node.Pprof = i.o.Profile != "" || i.access
	if i.access {
		u.Config.Login = manySessions
	}
	file := filepath.Join(i.dir, id+".toml")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(toml.NewEncoder(f).Encode(u.Config), f.Close()); err != nil {
		return nil, err
	}
	program := i.o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	p, err := child.Start(string(r), filepath.Join(i.dir, id+".log"), exec.Command(program, string(r), "--config", file))
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx, ready("http://"+u.Config.Node.Metrics+"/readyz")); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

func ready(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, res.Status)
		}
		return nil
	}
}

// serve makes the users and says how to reach them.
func (i *instance) serve(ctx context.Context, s bench.Setup) (*bench.Server, error) {
	b, err := i.unit(cluster.RoleBackend, backendID)
	if err != nil {
		return nil, err
	}
	mx, err := i.unit(cluster.RoleMX, "mx1")
	if err != nil {
		return nil, err
	}
	p, err := i.unit(cluster.RoleProxy, proxyID)
	if err != nil {
		return nil, err
	}
	id, err := cluster.LoadIdentity(mx.Config.Node.CA, mx.Config.Node.Cert, mx.Config.Node.Key)
	if err != nil {
		return nil, err
	}
	to, err := i.users(ctx, s, b.Config.Backend.Data)
	if err != nil {
		return nil, err
	}
	srv := &bench.Server{
		Target: bench.Target{From: "sender@example.org", To: to, DeliveryIDs: true, Dial: func(ctx context.Context) (net.Conn, error) {
			c, err := id.Dial(ctx, b.Config.Node.Listen, b.Peer, cluster.ProtoLMTP)
			if err != nil {
				return nil, err // not c: a nil *tls.Conn in an interface is not nil
			}
			return c, nil
		}},
		PID: i.backend.PID(), Mail: filepath.Join(b.Config.Backend.Data, "users"), Settle: i.o.Settle,
		IMAP: p.Config.Proxy.IMAP[0], User: userName(0), Password: password, Log: i.log, Stop: i.stop,
	}
	if s.Access {
		srv.Access = i.accessTo(b, p, to[0])
	}
	if i.o.Profile != "" && !s.Access {
		srv.Begin = func() {
			i.profile = takeProfile(b.Config.Node.Metrics, i.o.ProfileFor, i.o.Profile+"-"+filepath.Base(i.dir))
		}
	}
	return srv, nil
}

func userName(n int) string { return "u" + strconv.Itoa(n) + "@" + domain }

// users makes them at the backend, with what s wants; the first has a password.
func (i *instance) users(ctx context.Context, s bench.Setup, data string) ([]bench.Recipient, error) {
	f, err := clifile.Read(i.dir)
	if err != nil {
		return nil, err
	}
	id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	c := admin.NewClient(f.Admin, id)
	defer c.Close()
	if err := i.backend.Await(ctx, known(c)); err != nil {
		return nil, err
	}
	if _, err := c.CreateDomain(ctx, domain); err != nil {
		return nil, err
	}
	var to []bench.Recipient
	for n := range s.Users {
		req := admin.CreateUser{User: userName(n), Home: backendID}
		if n == 0 {
			req.Password = password
		}
		if s.Quota {
			req.QuotaBytes = quotaBytes
		}
		u, err := c.CreateUser(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", req.User, err)
		}
		folder := userFolder(data, u.User)
		// The home adopts the new tree when it hears of the record.
		if err := i.backend.Await(ctx, there(folder)); err != nil {
			return nil, err
		}
		if s.Sieve {
			if err := activate(folder); err != nil {
				return nil, fmt.Errorf("script of %s: %w", u.User, err)
			}
		}
		to = append(to, bench.Recipient{Address: req.User, Home: string(u.Home), Epoch: uint64(u.Epoch)})
	}
	return to, nil
}

func userFolder(data string, u director.User) string {
	return filepath.Join(data, "users", fence.Shard(u), string(u))
}

// known: the director has heard of the backend by gossip.
func known(c *admin.Client) func(context.Context) error {
	return func(ctx context.Context) error {
		bs, err := c.Backends(ctx)
		if err != nil {
			return err
		}
		for _, b := range bs {
			if b.ID == director.BackendID(backendID) && b.Alive != nil && *b.Alive {
				return nil
			}
		}
		return errors.New("the director has not heard of it")
	}
}

func there(path string) func(context.Context) error {
	return func(context.Context) error {
		_, err := os.Stat(path)
		return err
	}
}

// activate makes bench.Script the active one of the user whose folder is given,
// before the backend has looked.
func activate(folder string) error {
	s := scripts.New(vfs.OS, folder, scripts.Limits{})
	if err := s.Put("main", []byte(bench.Script)); err != nil {
		return err
	}
	return s.SetActive("main")
}

// stop ends everything, last started first.
func (i *instance) stop() error {
	var errs []error
	if i.profile != nil {
		errs = append(errs, i.profile.wait())
	}
	errs = append(errs, i.stopChildren())
	if i.leave != nil {
		i.leave()
		errs = append(errs, <-i.left)
	}
	if i.etcd != nil {
		errs = append(errs, i.etcd.Close())
	}
	return errors.Join(errs...)
}

func (i *instance) stopChildren() error {
	var errs []error
	for _, p := range []**child.Process{&i.proxy, &i.backend} {
		if *p != nil {
			errs = append(errs, (*p).Stop())
			*p = nil
		}
	}
	return errors.Join(errs...)
}

func (i *instance) log() string {
	if i.backend == nil {
		return ""
	}
	return i.backend.Log()
}
