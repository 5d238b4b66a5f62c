// Package backend is the storage node: it keeps its users' Maildirs behind
// fences, and serves LMTP, IMAP and POP3 sessions, SFTP and control calls on
// one node listener under the cluster's mutual TLS.
//
// Promises: a user is served only at the (home, epoch) of a serving fence, and
// every write is checked again under the user's lock at its commit (R1). A
// fence changes only by this backend's own linearizable read (R3). After any
// crash, a start reconciles all fences before anything is served (R9), and
// finishes what was left half done. A 250, an OK to APPEND and a seal are
// durable.
//
// Sessions survive moves and restarts (carry.go): a session whose mailbox leaves is handed off to
// its proxy, and one that comes goes on only if what its client has seen is proven to be what
// the mailbox has. A hand-off is taken once.
//
// What survives on the disk is in type disk. The package meets the other
// tiers only through protocols and package director.
package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/carry"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/fulltext"
	"waypost/backend/handed"
	"waypost/backend/imap"
	"waypost/backend/journal"
	"waypost/backend/lmtp"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/maildir"
	"waypost/backend/managesieve"
	"waypost/backend/outbox"
	"waypost/backend/pop3"
	"waypost/backend/sftp"
	"waypost/backend/sharing"
	"waypost/director"
	"waypost/director/cache"
	"waypost/director/census"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/telemetry"
	"waypost/internal/vfs"
)

// Deps is what a backend is given. All are required.
type Deps struct {
	Identity  *cluster.Identity
	Directory *director.Directory
	Cache     *cache.Client
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	// MX gives the mx nodes that are alive, by the addresses of their node
	// listeners: the way out for what filters send.
	MX func() map[string]cluster.Peer
}

// Server is a backend. New, then Serve once.
type Server struct {
	cfg   Config
	id    *cluster.Identity
	dir   *director.Directory
	cache *cache.Client
	log   *slog.Logger

	disk    disk
	lock    *durable.DirLock
	fences  *fence.Dir
	users   users
	folders *maildir.Cache
	texts   *fulltext.Store
	journal *journal.Journal
	outbox  *outbox.Box
	stager  *maildir.Stager
	peers   *peers
	mux     *cluster.Mux
	imap    *imap.Server
	pop3    *pop3.Server
	lmtp    *lmtp.Server
	sieve   *managesieve.Server
	mxNodes func() map[string]cluster.Peer
	janitor *janitor
	metrics *metrics

	// views is the run whose views of folders are believed: see viewsRun.
	views string
	// killed is when this process found that the one before had no clean end; zero if it had.
	killed time.Time
	// counted are the mailboxes opened since an unclean stop; nil after a clean one.
	counted struct {
		mu   sync.Mutex
		done map[director.User]bool
	}
	quotaExtra map[string]maildir.Extra
	uses       mailbox.Uses
	naming     mailbox.Naming // of folders, by clients and scripts
	notices    notices

	maildrops pop3.Locks
	sessions  sessions
	handed    *handed.Log
	// stopping: sessions are let go, and none begins any more.
	stopping atomic.Bool
	busy     fence.BusyUsers
	looks    *lookQueue

	digests  digests
	load     *loadMeter
	paces    paces
	receipts receipts
	archives *archive.Set
	shares   *sharing.Shares
	// mailBytes is what the mailboxes hold, as last added up.
	mailBytes atomic.Int64
	// mailWeight has more of it, for plans; nil before the first time.
	mailWeight atomic.Pointer[weight]

	snapshots snapshots
	// lost is closed when the directory says that this backend is (BackendLost).
	lost     chan struct{}
	saidLost sync.Once

	ready chan struct{}
}

// New opens the disk and the listener. It serves nothing yet, and needs no
// directory yet.
func New(cfg Config, d Deps) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Server{cfg: cfg, id: d.Identity, dir: d.Directory, cache: d.Cache, log: d.Log, mxNodes: d.MX,
		ready: make(chan struct{}), lost: make(chan struct{}), looks: newLookQueue(), shares: sharing.NewShares(nil), peers: newPeers(d.Identity)}
	if self := d.Identity.Self(); self.Role != cluster.RoleBackend || self.ID != string(cfg.ID) {
		return nil, fmt.Errorf("backend %s: the certificate is %s: use the one that was issued for backend/%s", cfg.ID, self, cfg.ID)
	}
	b.folders = maildir.NewCache(cfg.FolderCacheBytes)
	b.texts = fulltext.New(fulltext.Options{Log: d.Log, Room: b.textsRoom})
	b.users = users{open: make(map[director.User]*user), fences: make(map[director.User]fence.Fence), maxIdle: cfg.OpenUsers}
	b.sessions = sessions{open: make(map[*session]struct{}), named: make(carry.Names), max: cfg.MaxSessions}
	b.janitor = newJanitor(b)
	b.notices.todo = make(chan notice, maxNotices)
	b.naming = cfg.naming()
	if b.uses, err = cfg.uses(); err != nil {
		return nil, err
	}
	if b.quotaExtra, err = cfg.extra(); err != nil {
		return nil, err
	}
	b.paces.all = make(map[director.User]*paceOf)
	b.receipts.bases = make(map[director.User]receiptBase)
	if err := b.openArchives(); err != nil {
		return nil, err
	}
	if b.disk, b.lock, err = openDisk(cfg.Data); err != nil {
		return nil, err
	}
	b.load = newLoadMeter(cfg.Data)
	b.snapshots = snapshots{root: b.disk.snapshots(), open: make(map[string]bool)}
	b.digests.open(b.disk)
	if err := b.open(d.Metrics); err != nil {
		if b.journal != nil {
			err = errors.Join(err, b.journal.Close())
		}
		if b.handed != nil {
			err = errors.Join(err, b.handed.Close())
		}
		return nil, errors.Join(err, b.lock.Unlock())
	}
	return b, nil
}

func (b *Server) open(reg prometheus.Registerer) (err error) {
	if b.metrics, err = newMetrics(reg, b); err != nil {
		return err
	}
	if b.fences, err = fence.OpenDir(b.disk.fences()); err != nil {
		return err
	}
	err = b.fences.All(func(u director.User, f fence.Fence, err error) error {
		if err != nil {
			b.log.Error("unreadable fence: the user is refused", "user", u, "error", err)
			f = fence.Fence{State: fence.Unreadable}
		}
		b.users.fences[u] = f
		return nil
	})
	if err != nil {
		return err
	}
	if b.outbox, err = outbox.Open(vfs.OS, b.disk.outbox()); err != nil {
		return err
	}
	if b.handed, err = handed.Open(vfs.OS, b.disk.handed(), time.Now); err != nil {
		return err
	}
	if err := b.openJournal(); err != nil {
		return err
	}
	if err := b.clearRestores(); err != nil {
		return err
	}
	if b.stager, err = maildir.NewStager(b.digests.files, b.journal, b.disk.incoming()); err != nil {
		return err
	}
	if b.mux, err = b.id.Listen(b.cfg.Listen, b.log); err != nil {
		return fmt.Errorf("backend %s: %w", b.cfg.ID, err)
	}
	b.imap = imap.New(imap.Options{Log: b.log, Metrics: reg, Stops: b.stopping.Load, Separator: b.naming.Separator, Limits: imap.Limits{AppendBytes: b.cfg.MaxMessageBytes}})
	var uidl pop3.UIDL
	if b.cfg.POP3UIDL != "" {
		if uidl, err = pop3.ParseUIDL(b.cfg.POP3UIDL); err != nil {
			return err
		}
	}
	b.pop3 = pop3.New(pop3.Options{Log: b.log, Metrics: reg, UIDL: uidl, Capabilities: []string{"USER", "SASL PLAIN LOGIN", "STLS"}})
	filter, err := b.newFilter()
	if err != nil {
		return err
	}
	b.sieve = b.newManageSieve(reg)
	b.lmtp = lmtp.New(lmtp.Options{Store: b, Filter: filter, Hostname: b.cfg.Hostname, Log: b.log, Metrics: reg, MaxMessage: b.cfg.MaxMessageBytes, Accounts: b.account, Draining: b.mux.Draining()})
	b.routes()
	return nil
}

func (b *Server) routes() {
	calls := http.NewServeMux()
	const (
		mover, admin, dir = cluster.RoleRebalance, cluster.RoleAdmin, cluster.RoleDirector
	)
	calls.Handle(control.PathLook, control.Handle(b.lookCall, mover, admin, dir, cluster.RoleBackend))
	calls.Handle(control.PathPrepare, control.Handle(b.prepare, dir))
	calls.Handle(control.PathStage, control.Handle(b.stageSeeded, mover))
	calls.Handle(control.PathFreeze, control.Handle(b.freeze, mover))
	calls.Handle(control.PathSeal, control.Handle(b.sealKept, mover))
	calls.Handle(control.PathLoad, control.Handle(b.loadCall, mover, admin, dir))
	calls.Handle(control.PathPace, control.Handle(b.setPace, mover))
	calls.Handle(control.PathSending, control.Handle(b.sending, mover))
	calls.HandleFunc(control.PathVerify, b.verifyCall)
	calls.Handle(control.PathPull, http.HandlerFunc(b.pullCall))
	calls.Handle(control.PathAdopt, http.HandlerFunc(b.adoptCall))
	calls.Handle(control.PathManifest, control.Handle(b.manifestCall, cluster.RoleBackend))
	calls.Handle(control.PathUsage, control.Handle(b.usage, dir, admin))
	calls.Handle(control.PathSessions, control.Handle(b.listSessions, dir, admin))
	calls.Handle(control.PathKick, control.Handle(b.kick, dir, admin))
	calls.Handle(census.Path, control.Handle(b.census, mover))
	checks := &checker{b: b}
	calls.HandleFunc(control.PathCheck, checks.check)
	calls.HandleFunc(control.PathRepair, checks.repair)
	b.backupRoutes(calls)
	b.mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{mover, admin, dir, cluster.RoleBackend}, b.onceReady(calls))

	files := &sftp.Server{Open: b.openPaced, Log: b.log}
	b.mux.Handle(cluster.ProtoSFTP, []cluster.Role{cluster.RoleBackend}, b.whenReady(b.servePaced(files.Serve)))
	b.mux.Handle(cluster.ProtoSession, []cluster.Role{cluster.RoleProxy}, b.whenReady(b.serveSession))
	b.mux.Handle(cluster.ProtoLMTP, []cluster.Role{cluster.RoleMX, cluster.RoleBackend}, b.whenReady(func(ctx context.Context, c *tls.Conn, from cluster.Peer) {
		b.lmtp.Serve(ctx, c, from.String())
	}))
}

// pullCall streams a pass's progress, one JSON object a line.
func (b *Server) pullCall(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.PullRequest](r, cluster.RoleRebalance)
	if err == nil {
		// The listener bounds whole requests; this one may take long.
		err = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	out := control.NewProgressWriter(w)
	done, err := b.pullKept(r.Context(), req, out.Report)
	out.End(done, err)
}

// Addr is where the node listener listens.
func (b *Server) Addr() string { return b.mux.Addr().String() }

// Ready is closed when the backend serves.
func (b *Server) Ready() <-chan struct{} { return b.ready }

// Serve brings the fences up to date and serves until ctx ends; then it hands its
// sessions off, or says BYE where that cannot be, finishes deliveries under way, and
// closes the disk. It waits for the directory as long as need be.
func (b *Server) Serve(ctx context.Context) error {
	err := b.serve(ctx)
	b.closeUsers()
	b.texts.Close()
	if cerr := b.mux.Close(); err == nil {
		err = cerr
	}
	// Nothing writes any more. An error leaves the journal for the next start.
	return errors.Join(err, b.journal.Close(), b.handed.Close(), b.lock.Unlock())
}

func (b *Server) serve(ctx context.Context) error {
	// The listener answers before there is anything to serve: fences can be read
	// while the directory is away. All else waits until this backend is ready.
	var listening sync.WaitGroup
	defer listening.Wait()
	serveCtx, endServe := context.WithCancel(context.WithoutCancel(ctx))
	defer endServe()
	served := make(chan error, 1)
	listening.Go(func() { served <- b.mux.Serve(serveCtx) })
	if err := b.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	stop := b.cache.Subscribe(func(c director.Change) {
		if cache.IsReload(c) {
			b.reobserve()
			return
		}
		b.observe(c)
	})
	defer stop()
	b.reobserve() // what changed between the listing and the subscription
	var wg sync.WaitGroup
	work, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { b.runLooks(work) })
	wg.Go(func() { b.watchBusy(work) })
	wg.Go(func() { b.janitor.run(work) })
	wg.Go(func() { b.outbox.Run(work, b.send, b.log) })
	wg.Go(func() { b.notify(work) })
	wg.Go(func() { b.weigh(work) })
	wg.Go(func() { b.texts.Run(work, b.openTexts) })
	wg.Go(func() { b.keepIncarnation(work) })
	close(b.ready)
	b.log.Info("backend serves", "address", b.Addr(), "data", b.cfg.Data)
	select {
	case err := <-served:
		return err
	case <-b.journal.Failed():
		// What is on the disk is not known: the next start finds out.
		return fmt.Errorf("backend %s: the journal failed: %w", b.cfg.ID, b.journal.Err())
	case <-b.lost:
		return b.errLost()
	case <-ctx.Done():
	}
	return b.drain(ctx)
}

// begin does what must be done before anything is served, and repeats it while
// the directory is away.
func (b *Server) begin(ctx context.Context) error {
	for {
		err := b.tryBegin(ctx)
		if err == nil || !errors.Is(err, director.ErrUnavailable) && !errors.Is(err, director.ErrUnknown) {
			return err
		}
		b.log.Warn("waiting for the directory", "error", err)
		pause(ctx, time.Second)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (b *Server) tryBegin(ctx context.Context) error {
	if err := b.register(ctx); err != nil {
		return err
	}
	if err := b.cache.WaitReady(ctx); err != nil {
		return err // quotas and disabled accounts are read from it
	}
	if err := b.disk.beginIncarnation(ctx, b.dir, b.cfg.ID, telemetry.NewID); err != nil {
		return err
	}
	if err := b.letGoOfStale(ctx); err != nil {
		return err
	}
	return b.reconcileAll(ctx)
}

// register writes the backend's address, and at its first start its weight and
// capacity, which the directory owns from then on.
func (b *Server) register(ctx context.Context) error {
	return b.dir.PutBackend(ctx, b.cfg.ID, func(r *director.Backend, known bool) error {
		if !known {
			r.Kind, r.State, r.Weight, r.CapacityBytes = director.KindWaypost, director.BackendActive, b.cfg.Weight, b.cfg.CapacityBytes
		}
		if r.Kind != director.KindWaypost {
			return fmt.Errorf("backend %s is of kind %s in the directory: give this one another id: %w", b.cfg.ID, r.Kind, director.ErrInvalid)
		}
		if r.State == director.BackendLost {
			return b.errLost()
		}
		r.Node = b.cfg.Advertise
		return nil
	})
}

func (b *Server) closeUsers() {
	for _, u := range b.users.all() {
		u.mu.Lock()
		if err := u.closeAccount(); err != nil {
			b.log.Error("close mailbox", "user", u.name, "error", err)
		}
		u.mu.Unlock()
	}
}

func (b *Server) servedUsers() int {
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	n := 0
	for _, f := range b.users.fences {
		if f.State == fence.Serving || f.State == fence.Frozen {
			n++
		}
	}
	return n
}

// account tells LMTP whether a user takes mail.
func (b *Server) account(u director.User) (disabled, known bool) {
	a, _, known := b.cache.Account(u)
	return a.Disabled, known
}

// limit is a user's quota; ok is false for an account that is not known.
func (b *Server) limit(u director.User) (l mailbox.Limit, ok bool) {
	a, _, ok := b.cache.Account(u)
	return mailbox.Limit{Bytes: a.QuotaBytes, Messages: a.QuotaMessages}, ok
}

// Stage implements mailbox.Store.
func (b *Server) Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
	return b.stager.Stage(ctx, header, r, max)
}

// peers keeps one control client for each other node, so that connections are
// used again.
type peers struct {
	id *cluster.Identity
	mu sync.Mutex
	by map[string]*control.Client
	// plain are those for other interfaces than package control's.
	plain map[string]*http.Client
}

func newPeers(id *cluster.Identity) *peers {
	return &peers{id: id, by: make(map[string]*control.Client), plain: make(map[string]*http.Client)}
}

// http gives a client of the node at an address, which must prove to be want.
func (p *peers) http(node string, want cluster.Peer) *http.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := want.String() + " " + node
	c := p.plain[key]
	if c == nil {
		c = p.id.HTTPClient(want, cluster.ProtoControl)
		p.plain[key] = c
	}
	return c
}

func (p *peers) client(node string, want cluster.Peer) *control.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := want.String() + " " + node
	c := p.by[key]
	if c == nil {
		c = control.NewClient(p.id, node, want)
		p.by[key] = c
	}
	return c
}
