package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/director/cache"
	"waypost/director/memory"
	"waypost/internal/bench"
	"waypost/internal/bench/move"
	"waypost/internal/cluster"
)

// movers is Waypost as a peer: two backends, and a mover that is this program.
func movers() move.Peer {
	return move.Peer{Name: bench.Ours, Mode: "SFTP over mutual TLS, fsync", Start: func(ctx context.Context, dir string) (*move.Sides, error) {
		m := &moveBench{dir: dir, home: 0}
		if err := m.start(ctx); err != nil {
			return nil, errors.Join(err, m.stop())
		}
		return &move.Sides{Source: m.tree("b1", "users"), Target: m.tree("b2", "staging"), Stop: m.stop, Pass: m.pass, Change: m.change, Busy: m.busy}, nil
	}}
}

const movedUser = director.User("user@example.test")

// moveBench is a cluster of two backends for one user.
type moveBench struct {
	dir   string
	dirct *director.Directory
	ids   map[string]*cluster.Identity
	nodes [2]*moveNode
	// home is which of them has the user.
	home int
	move director.Move
	rec  director.Record
	sent int // messages delivered so far
	ends []func() error
}

type moveNode struct {
	*backend.Server
	id     director.BackendID
	client *control.Client
}

func (m *moveBench) tree(id director.BackendID, kind string) string {
	return filepath.Join(m.dir, string(id), kind, fence.Shard(movedUser), string(movedUser), "Maildir")
}

func (m *moveBench) start(ctx context.Context) error {
	pki := filepath.Join(m.dir, "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return err
	}
	ca, err := cluster.CreateAuthority(pki, "bench")
	if err != nil {
		return err
	}
	m.ids = make(map[string]*cluster.Identity)
	for _, p := range []cluster.Peer{{Role: cluster.RoleBackend, ID: "b1"}, {Role: cluster.RoleBackend, ID: "b2"}, {Role: cluster.RoleRebalance, ID: "r1"}, {Role: cluster.RoleDirector, ID: "d1"}} {
		if err := ca.IssueTo(pki, p, []string{"127.0.0.1"}); err != nil {
			return err
		}
		if m.ids[p.ID], err = cluster.LoadIdentity(filepath.Join(pki, cluster.AuthorityCert), cluster.CertPath(pki, p), cluster.KeyPath(pki, p)); err != nil {
			return err
		}
	}
	store := memory.New()
	m.dirct = director.New(store)
	if err := m.dirct.Init(ctx, func() string { return "bench" }); err != nil {
		return err
	}
	if err := m.dirct.CreateDomain(ctx, "example.test", time.Now()); err != nil {
		return err
	}
	for i, id := range []director.BackendID{"b1", "b2"} {
		if m.nodes[i], err = m.startNode(ctx, store, id); err != nil {
			return err
		}
	}
	return m.create(ctx)
}

// startNode starts a backend; it ends with stop.
func (m *moveBench) startNode(ctx context.Context, store director.Store, id director.BackendID) (*moveNode, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c, err := cache.Open(ctx, cache.Options{Store: store})
	if err != nil {
		cancel()
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		cancel()
		return nil, errors.Join(err, c.Close())
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s, err := backend.New(backend.Config{ID: id, Listen: addr, Advertise: addr, Data: filepath.Join(m.dir, string(id)), Hostname: string(id), OwnerGrace: time.Hour},
		backend.Deps{Identity: m.ids[string(id)], Directory: m.dirct, Cache: c, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
			MX: func() map[string]cluster.Peer { return nil }})
	if err != nil {
		cancel()
		return nil, errors.Join(err, c.Close())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }() // ends with stop, which waits
	m.ends = append(m.ends, func() error {
		cancel()
		return errors.Join(<-ended, c.Close())
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil
		return nil, fmt.Errorf("backend %s ended: %w", id, err)
	}
	return &moveNode{s, id, control.NewClient(m.ids["r1"], addr, cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})}, nil
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return ln.Addr().(*net.TCPAddr).Port, ln.Close()
}

func (m *moveBench) stop() error {
	var errs []error
	for _, end := range m.ends {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// create makes the user on the first backend.
func (m *moveBench) create(ctx context.Context) error {
	at := m.nodes[0]
	admin := control.NewClient(m.ids["d1"], at.Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(at.id)})
	if _, err := control.Call[control.FenceReply](ctx, admin, control.PathPrepare, control.PrepareRequest{User: movedUser}); err != nil {
		return err
	}
	rec, err := director.Create(nil, at.id)
	if err != nil {
		return err
	}
	if err := m.dirct.CreateUser(ctx, movedUser, rec, director.Account{Created: time.Now()}); err != nil {
		return err
	}
	m.rec = rec
	_, err = control.Call[control.FenceReply](ctx, at.client, control.PathLook, control.LookRequest{User: movedUser})
	return err
}

func (m *moveBench) source() *moveNode { return m.nodes[m.home] }
func (m *moveBench) target() *moveNode { return m.nodes[1-m.home] }

// pull makes one pass; the move is planned with the first.
func (m *moveBench) pull(ctx context.Context, final bool) (control.PullProgress, error) {
	if m.move.ID == "" {
		var err error
		if m.move, err = m.dirct.PlanMove(ctx, movedUser, m.target().id, fmt.Sprint("m", m.rec.Epoch), time.Now()); err != nil {
			return control.PullProgress{}, err
		}
		if _, err := control.Call[control.FenceReply](ctx, m.target().client, control.PathStage, m.request()); err != nil {
			return control.PullProgress{}, err
		}
	}
	return m.target().client.Pull(ctx, control.PullRequest{User: movedUser, Epoch: m.move.Epoch + 1, Source: m.source().id, Node: m.source().Addr(), Final: final}, func(control.PullProgress) {})
}

func (m *moveBench) request() control.MoveRequest {
	return control.MoveRequest{User: movedUser, Epoch: m.move.Epoch + 1}
}

func (m *moveBench) pass(ctx context.Context) error {
	_, err := m.pull(ctx, false)
	return err
}

// withBox does something to the user's mailbox at home.
func (m *moveBench) withBox(ctx context.Context, home *moveNode, epoch director.Epoch, do func(mailbox.Box) error) error {
	box, err := home.Open(ctx, movedUser, home.id, epoch)
	if err != nil {
		return err
	}
	defer box.Close()
	return do(box)
}

func deliverOne(ctx context.Context, home *moveNode, box mailbox.Box, n int) error {
	x, err := home.Stage(ctx, "", bytes.NewReader(move.Message(1_000_000+n)), 0)
	if err != nil {
		return err
	}
	defer x.Discard()
	return box.Deliver(ctx, mailbox.Delivery{ID: fmt.Sprint("bench", n), Message: x, Places: []mailbox.Place{{}}})
}

// change is move.Sides's.
func (m *moveBench) change(ctx context.Context) (int, error) {
	err := m.withBox(ctx, m.source(), m.rec.Epoch, func(box mailbox.Box) error {
		f, err := box.Folder(mailbox.Inbox)
		if err != nil {
			return err
		}
		s, err := f.Snapshot()
		if err != nil {
			return err
		}
		var uids []mailbox.UID
		for i := range move.Flagged + move.Removed {
			uids = append(uids, s.Messages.At(i).UID)
		}
		if _, err := f.SetFlags(uids[:move.Flagged], mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}}); err != nil {
			return err
		}
		if _, err := f.Expunge(uids[move.Flagged:]); err != nil {
			return err
		}
		for range move.Added {
			m.sent++
			if err := deliverOne(ctx, m.source(), box, m.sent); err != nil {
				return err
			}
		}
		return nil
	})
	return move.Added - move.Removed, err
}

// loadEvery is the pause between two deliveries, each with a flag set, of a user who is
// busier than most.
const loadEvery = 50 * time.Millisecond

// load delivers until the home freezes.
func (m *moveBench) load(ctx context.Context, home *moveNode, epoch director.Epoch) error {
	t := time.NewTicker(loadEvery)
	defer t.Stop()
	err := m.withBox(ctx, home, epoch, func(box mailbox.Box) error {
		f, err := box.Folder(mailbox.Inbox)
		for err == nil {
			m.sent++
			if err = deliverOne(ctx, home, box, m.sent); err != nil {
				break
			}
			var s mailbox.Snapshot
			if s, err = f.Snapshot(); err != nil {
				break
			}
			last := s.Messages.At(s.Messages.Len() - 1).UID
			if _, err = f.SetFlags([]mailbox.UID{last}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Seen}}); err != nil {
				break
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return err
	})
	if errors.Is(err, mailbox.ErrFrozen) || errors.Is(err, mailbox.ErrStale) {
		return nil
	}
	return err
}

// few is what the last hot pass may bring.
const few = 64

// busy moves the user, and makes the target the home of the next move.
func (m *moveBench) busy(ctx context.Context) (time.Duration, error) {
	loading, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var loadErr error
	home, epoch := m.source(), m.rec.Epoch
	wg.Go(func() { loadErr = m.load(loading, home, epoch) })
	took, err := m.whole(ctx)
	if err != nil {
		cancel() // the home may never freeze
	}
	wg.Wait()
	cancel()
	return took, errors.Join(err, loadErr)
}

func (m *moveBench) whole(ctx context.Context) (time.Duration, error) {
	for {
		p, err := m.pull(ctx, false)
		if err != nil {
			return 0, err
		}
		if p.Files <= few {
			break
		}
	}
	rec, err := m.rec.MarkBusy(m.target().id)
	if err == nil {
		err = m.dirct.Advance(ctx, m.move, m.rec, &rec)
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	sum, err := control.Call[control.ManifestSummary](ctx, m.source().client, control.PathFreeze, m.request())
	if err != nil {
		return 0, err
	}
	if _, err := m.pull(ctx, true); err != nil {
		return 0, err
	}
	if _, err := control.Call[control.ManifestSummary](ctx, m.target().client, control.PathSeal, control.SealRequest{User: movedUser, Epoch: rec.Epoch, Digest: sum.Digest}); err != nil {
		return 0, err
	}
	return time.Since(began), m.flip(ctx, rec)
}

func (m *moveBench) flip(ctx context.Context, busy director.Record) error {
	to, err := busy.Flip()
	if err != nil {
		return err
	}
	m.move.Phase = director.PhaseFlipped
	if err := m.dirct.Advance(ctx, m.move, busy, &to); err != nil {
		return err
	}
	for _, n := range []*moveNode{m.target(), m.source()} {
		if _, err := control.Call[control.FenceReply](ctx, n.client, control.PathLook, control.LookRequest{User: movedUser}); err != nil {
			return err
		}
	}
	m.move.Phase = director.PhaseDone
	if err := m.dirct.Advance(ctx, m.move, to, nil); err != nil {
		return err
	}
	m.rec, m.move, m.home = to, director.Move{}, 1-m.home
	return nil
}
