package simtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
	"waypost/director/cache"
	directory "waypost/director/memory"
	"waypost/internal/handoff"
	"waypost/internal/login"
	"waypost/internal/vfs/crashfs"
	"waypost/proxy"
)

// stage is a cluster in which sessions are real: IMAP clients, the proxy from its login
// to its carrying, the frames between proxy and backend, the IMAP engine, and the list of
// hand-offs that were accepted. What they run on is simulated: connections, the mailbox
// with its fence, and who moves it.
type stage struct {
	*world
	net     *network
	mail    *memory.Store
	hosts   map[director.BackendID]*host
	doors   []*door
	clients []*mailClient

	counted *counts
	// changers are those who still change the mailbox, or move it.
	changers int
	// harmed: something crashed or was cut, so that sessions may end.
	harmed bool
	calm   bool // nothing breaks: no session may end
	// What was appended and answered, and which UIDs somebody expunged.
	acks map[string]mailbox.UID
	gone map[mailbox.UID]bool
	// replays are the hand-offs that hosts have accepted, and the sessions whose proxies
	// do not know of it.
	replays struct {
		mu    sync.Mutex
		all   []replay
		ids   map[handoff.ID]bool
		twice []string
		lost  map[string]bool
	}
}

func newStage(s *sched, off string) (*stage, error) {
	w := &world{sched: s, store: directory.New(), ids: []director.BackendID{"b1", "b2", "b3"}, off: off, cut: map[string]bool{}, seen: map[string]int{}}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.admin = director.New(w.store)
	g := &stage{world: w, mail: memory.New(), hosts: map[director.BackendID]*host{},
		acks: map[string]mailbox.UID{}, gone: map[mailbox.UID]bool{},
		counted: &counts{said: map[string]int{}, reasons: map[string]int{}}}
	g.net = &network{w: w}
	ctx := w.ctx
	if err := w.admin.Init(ctx, func() string { return "era1" }); err != nil {
		return nil, err
	}
	if err := w.admin.CreateDomain(ctx, "example.test", time.Unix(1, 0)); err != nil {
		return nil, err
	}
	for _, id := range w.ids {
		err := w.admin.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State, b.Node = director.KindWaypost, director.BackendActive, string(id)+":1"
			return nil
		})
		if err != nil {
			return nil, err
		}
		g.hosts[id] = &host{g: g, id: id, disk: crashfs.New(w.rng.Uint64())}
	}
	rec, err := director.Create(nil, "b1")
	if err != nil {
		return nil, err
	}
	g.mail.Serve(alice, rec.Home, rec.Epoch)
	return g, w.admin.CreateUser(ctx, alice, rec, director.Account{Hash: "secret"})
}

// door is a proxy's machine.
type door struct {
	g    *stage
	name string
	run  *doorProc // nil: down
	n    int
}

type doorProc struct {
	*proxy.Server
	name   string
	port   *port
	ctx    context.Context
	stop   context.CancelFunc
	memory *cache.Client
}

// guard lets everybody in.
type guard struct{}

func (guard) Login(context.Context, login.Attempt) (login.Account, error) {
	return login.Account{User: string(alice), Hash: "secret"}, nil
}

func (guard) Acquire(string, netip.Addr) (func(), error) { return func() {}, nil }

func (d *door) boot() error {
	g := d.g
	d.n++
	p := &doorProc{name: d.name, port: &port{w: g.world, who: d.name, shy: true}}
	p.ctx, p.stop = context.WithCancel(g.ctx)
	var err error
	if p.memory, err = cache.Open(p.ctx, cache.Options{Store: p.port}); err != nil {
		return err
	}
	cfg := proxy.DefaultConfig()
	cfg.AllowPlaintext, cfg.LoginWait, cfg.DeadWait, cfg.ResumeWait = true, 10*time.Minute, 10*time.Minute, 10*time.Minute
	p.Server, err = proxy.Assemble(cfg, proxy.Deps{
		Node: d.name, Directory: p.memory, Guard: guard{}, Log: slog.New(&listening{g: g, p: p}),
		Dial: func(ctx context.Context, id director.BackendID, _ string) (net.Conn, error) {
			return g.dial(ctx, p, id)
		},
		Jitter: func(d time.Duration) time.Duration { return d },
	})
	if err != nil {
		return err
	}
	d.run = p
	g.running.Go(func() {
		<-p.ctx.Done()
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Shutdown(over) // of one that was killed nobody waits for the rest
		_ = p.memory.Close() // has no snapshot to write
	})
	return nil
}

// kill ends a proxy as kill -9 does: its connections break, and nothing goes out any more.
func (d *door) kill() {
	p := d.run
	d.g.note(d.name, "killed")
	p.port.dead.Store(true)
	d.g.cutAll(func(c *cable) bool {
		return strings.HasPrefix(c.name, d.name+">") || strings.Contains(c.name, ">"+d.name+".")
	})
	p.stop()
	d.run = nil
}

func (g *stage) cutAll(pick func(*cable) bool) {
	for _, c := range g.net.alive(pick) {
		c.cut(true, true)
	}
}

// dial is a proxy's connection to a backend.
func (g *stage) dial(ctx context.Context, p *doorProc, id director.BackendID) (net.Conn, error) {
	if p.port.dead.Load() {
		return nil, errDown
	}
	if err := g.step(ctx, p.name, "dial "+string(id)); err != nil {
		return nil, err
	}
	h := g.hosts[id].run
	if p.port.dead.Load() || h == nil || !h.ready || g.cut[string(id)+"/net"] {
		return nil, errDown
	}
	near, far := g.net.connect(p.name, string(id), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1000})
	g.running.Go(func() { h.serve(far) })
	return near, nil
}

// listening hears from a proxy's log how sessions end.
type listening struct {
	g *stage
	p *doorProc
}

func (l *listening) Enabled(context.Context, slog.Level) bool { return true }
func (l *listening) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *listening) WithGroup(string) slog.Handler            { return l }

// allowed are the reasons for which a session may end where something broke: nobody knows
// what the client has seen, or whether a resume was done.
var allowed = []string{"unproven", "lost"}

func (l *listening) Handle(_ context.Context, r slog.Record) error {
	if l.p.port.dead.Load() {
		return nil
	}
	switch r.Message {
	case "session handed off":
		l.g.counted.saw(r.Message)
	case "session resumed":
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "after" {
				l.g.counted.saw(r.Message + " after " + a.Value.String())
			}
			return true
		})
	case "session not carried":
		session, reason := "", ""
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "session":
				session = a.Value.String()
			case "reason":
				reason = a.Value.String()
			}
			return true
		})
		l.g.counted.ended(reason)
		if reason == string(handoff.Lost) {
			l.g.lostSession(session)
		}
	}
	return nil
}

func (g *stage) lostSession(id string) {
	g.replays.mu.Lock()
	defer g.replays.mu.Unlock()
	if g.replays.lost == nil {
		g.replays.lost = map[string]bool{}
	}
	g.replays.lost[id] = true
}

// counts are what proxies tell at any time, be it their turn or not.
type counts struct {
	mu      sync.Mutex
	said    map[string]int
	reasons map[string]int
}

func (c *counts) saw(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said[what]++
}

func (c *counts) ended(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reasons[reason]++
}

// check is what holds whenever all is quiet.
func (g *stage) check() {
	places := map[string][]string{}
	for _, id := range g.ids {
		h := g.hosts[id].run
		if h == nil {
			continue
		}
		h.mu.Lock()
		for _, l := range h.living {
			if !l.begun.Load() {
				continue // its proxy may have lost it before anything was said, and tried again
			}
			places[l.session] = append(places[l.session], fmt.Sprintf("%s at %s, epoch %d", l.client, id, l.epoch))
			if box, err := g.mail.Open(context.Background(), alice, id, l.epoch); err != nil {
				g.fail("I5: %s lives at %s, epoch %d: %v", l.client, id, l.epoch, err)
			} else {
				box.Close()
			}
		}
		h.mu.Unlock()
	}
	for _, id := range slices.Sorted(maps.Keys(places)) {
		if len(places[id]) > 1 {
			slices.Sort(places[id])
			g.fail("I5: a session lives at %d places: %s", len(places[id]), strings.Join(places[id], "; "))
		}
	}
	g.replays.mu.Lock()
	for _, what := range g.replays.twice {
		g.fail("I5: %s", what)
	}
	g.replays.mu.Unlock()
	g.counted.mu.Lock()
	defer g.counted.mu.Unlock()
	for reason, n := range g.counted.reasons {
		if !slices.Contains(allowed, reason) || !g.harmed {
			g.fail("I5: %d sessions were not carried: %s", n, reason)
		}
	}
}

// judge compares the mailbox with what clients were told of it and of what they gave it.
func (g *stage) judge() {
	rec, err := g.admin.Location(context.Background(), alice)
	if err != nil {
		g.fail("record: %v", err)
		return
	}
	box, err := g.mail.Open(context.Background(), alice, rec.Value.Home, rec.Value.Epoch)
	if err != nil {
		g.fail("I2: the home's mailbox: %v", err)
		return
	}
	defer box.Close()
	truth, names, err := contents(box)
	if err != nil {
		g.fail("I2: the mailbox: %v", err)
		return
	}
	for name, uids := range names {
		if len(uids) > 1 {
			g.fail("I3: %s is there as UIDs %v", name, uids)
		}
	}
	for name, uid := range g.acks {
		if !g.gone[uid] && !slices.Contains(names[name], uid) {
			g.fail("I2: %s was appended as UID %d, and is there as %v", name, uid, names[name])
		}
	}
	for _, c := range g.clients {
		if c.view == nil {
			continue // it ended without a session
		}
		if told := c.view.String(); told != truth {
			g.fail("I4: %s was told of %s, and there is %s", c.name, told, truth)
		}
	}
}

// contents shows a mailbox as a client's view does, and which UIDs a message has.
func contents(box mailbox.Box) (string, map[string][]mailbox.UID, error) {
	names := map[string][]mailbox.UID{}
	folder, err := box.Folder(mailbox.Inbox)
	if err != nil {
		return "", nil, err
	}
	snap, err := folder.Snapshot()
	if err != nil {
		return "", nil, err
	}
	v := &mailView{}
	for _, m := range snap.Messages.All() {
		v.all = append(v.all, told{uid: uint32(m.UID), flags: flagNames(m.Flags), known: true})
		body, err := folder.Open(m.UID)
		if err != nil {
			return "", nil, err
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return "", nil, err
		}
		line, _, _ := strings.Cut(string(text), "\r\n")
		name := strings.TrimPrefix(line, "Subject: ")
		names[name] = append(names[name], m.UID)
	}
	return v.String(), names, nil
}

func flagNames(f mailbox.Flags) string {
	all := slices.Clone(f.Keywords)
	for bit, name := range map[mailbox.System]string{mailbox.Seen: `\Seen`, mailbox.Flagged: `\Flagged`, mailbox.Deleted: `\Deleted`, mailbox.Answered: `\Answered`, mailbox.Draft: `\Draft`} {
		if f.Has(bit) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
