package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/internal/durable"
)

// Growth measures what single operations cost in mailboxes of several sizes, one
// operation after the other on one connection.
type Growth struct {
	// Dir is a fresh folder; what is in it stays until the caller removes it.
	Dir   string
	Peers []Peer
	// Sizes are numbers of messages, rising.
	Sizes []int
	// Operations of each kind are measured.
	Operations int
	Progress   func(line string, final bool)
}

// GrowthRow is what one operation costs in one mailbox.
type GrowthRow struct {
	Peer      string `json:"peer"`
	Mode      string `json:"mode"`
	Operation string `json:"operation"` // "delivery", "append", "flag", "expunge"
	Messages  int    `json:"messages"`  // in the mailbox at the beginning
	// ServerCPUMS is less what the server uses while nothing happens.
	ServerCPUMS float64 `json:"server_cpu_ms"`
	MedianMS    float64 `json:"median_ms"`
	// Growth is ServerCPUMS to that of the smallest mailbox.
	Growth float64 `json:"growth,omitempty"`
}

// GrowthReport is what a Growth measured.
type GrowthReport struct {
	Rows []GrowthRow `json:"rows"`
}

var growthHeads = []string{"server", "mode", "operation", "messages", "CPU ms", "median ms", "CPU × of smallest"}

func (r GrowthRow) Cells() []string {
	return []string{r.Peer, r.Mode, r.Operation, fmt.Sprint(r.Messages), fmt.Sprintf("%.3f", r.ServerCPUMS), fmt.Sprintf("%.2f", r.MedianMS), fmt.Sprintf("%.2f", r.Growth)}
}

// compare fills in the growth.
func (r *GrowthReport) compare() {
	type key struct{ peer, mode, op string }
	first := make(map[key]float64)
	for i := range r.Rows {
		row := &r.Rows[i]
		k := key{row.Peer, row.Mode, row.Operation}
		if _, ok := first[k]; !ok {
			first[k] = row.ServerCPUMS
		}
		row.Growth = Ratio(row.ServerCPUMS, first[k])
	}
}

const (
	// fillers fill a mailbox at once, where files may not simply be put there.
	fillers   = 50
	idleFor   = 6 * time.Second
	warmOps   = 20
	inboxName = "INBOX"
)

// Run runs all peers with all sizes by turns.
func (g *Growth) Run(ctx context.Context) (*GrowthReport, error) {
	rep := &GrowthReport{}
	step := 0
	for _, size := range g.Sizes {
		for _, p := range g.Peers {
			if p.Start == nil {
				continue // the limit has no mailbox
			}
			step++
			rows, err := g.one(ctx, p, size, filepath.Join(g.Dir, strconv.Itoa(step)+"-"+p.Name))
			if err != nil {
				return rep, fmt.Errorf("%s %s with %d messages: %w", p.Name, p.Mode, size, err)
			}
			rep.Rows = append(rep.Rows, rows...)
		}
	}
	rep.compare()
	return rep, nil
}

func (g *Growth) say(line string, final bool) {
	if g.Progress != nil {
		g.Progress(line, final)
	}
}

func (g *Growth) one(ctx context.Context, p Peer, size int, dir string) (rows []GrowthRow, err error) {
	what := fmt.Sprintf("%s %s, %d messages", p.Name, p.Mode, size)
	g.say(what+": filling", false)
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	srv, err := p.Start(ctx, dir, Setup{Users: 1, IMAP: true})
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopErr := srv.Stop(); err == nil {
			err = stopErr
		}
	}()
	if err := fill(ctx, srv, size); err != nil {
		return nil, err
	}
	b, err := g.open(ctx, srv, size)
	if err != nil {
		return nil, err
	}
	defer b.close()
	for _, op := range []operation{{"delivery", b.deliver}, {"append", b.append}, {"flag", b.flag}, {"expunge", b.expunge}} {
		g.say(what+": "+op.name, false)
		row, err := b.measure(ctx, op, g.Operations)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op.name, err)
		}
		row.Peer, row.Mode, row.Messages = p.Name, p.Mode, size
		g.say(fmt.Sprintf("%s: %s %.3f ms CPU each", what, op.name, row.ServerCPUMS), true)
		rows = append(rows, row)
	}
	return rows, nil
}

func fill(ctx context.Context, srv *Server, n int) error {
	if srv.Fill != nil {
		return srv.Fill(n)
	}
	l := Load{Target: srv.Target, Connections: fillers, Size: MinSize, Messages: n}
	res, err := l.Run(ctx)
	if err == nil && res.Errors > 0 {
		err = fmt.Errorf("fill: %d messages failed: %v", res.Errors, res.Samples)
	}
	return err
}

// mailbox is INBOX of the first user, open for the operations.
type mailbox struct {
	srv     *Server
	imap    *imapclient.Client
	lmtp    *run
	letters *letters
	buf     []byte
	next    uint64
	idle    float64 // CPU a second while nothing happens
	uids    []imap.UID
	uncut   func() bool
}

type operation struct {
	name string
	do   func(i int) error
}

func (g *Growth) open(ctx context.Context, srv *Server, size int) (*mailbox, error) {
	letters, err := newLetters(MinSize)
	if err != nil {
		return nil, err
	}
	b := &mailbox{srv: srv, letters: letters, next: 1 << 40}
	c, err := imapclient.DialInsecure(srv.IMAP, nil)
	if err != nil {
		return nil, err
	}
	b.imap = c
	// What hangs ends with ctx.
	b.uncut = context.AfterFunc(ctx, func() { c.Close() })
	if err := b.login(size, g.Operations); err != nil {
		b.close()
		return nil, err
	}
	l := &Load{Target: srv.Target, Connections: 1, Size: MinSize}
	b.lmtp = &run{Load: l, letters: letters}
	if srv.Target.DeliveryIDs {
		b.lmtp.ids = []byte("grow-")
	}
	b.lmtp.rcpts = [][]byte{srv.Target.To[0].command()}
	if err := b.lmtp.connect(ctx); err != nil {
		b.close()
		return nil, err
	}
	// Some first: what is done once is not the operation's cost.
	for i := range warmOps {
		if err := errors.Join(b.deliver(i), b.append(i)); err != nil {
			b.close()
			return nil, err
		}
	}
	if err := Settle(ctx, srv.Settle); err != nil {
		b.close()
		return nil, err
	}
	return b, b.rest(ctx)
}

func (b *mailbox) login(size, operations int) error {
	if err := b.imap.Login(b.srv.User, b.srv.Password).Wait(); err != nil {
		return err
	}
	sel, err := b.imap.Select(inboxName, nil).Wait()
	if err != nil {
		return err
	}
	if int(sel.NumMessages) != size {
		return fmt.Errorf("%w: INBOX has %d messages, want %d", ErrCount, sel.NumMessages, size)
	}
	found, err := b.imap.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	if err != nil {
		return err
	}
	b.uids = found.AllUIDs()
	if len(b.uids) < operations {
		return fmt.Errorf("%d operations need as many messages, and there are %d", operations, len(b.uids))
	}
	return nil
}

// rest measures what the server uses while nothing happens.
func (b *mailbox) rest(ctx context.Context) error {
	before, err := TreeCPU(b.srv.PID)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := Settle(ctx, idleFor); err != nil {
		return err
	}
	after, err := TreeCPU(b.srv.PID)
	b.idle = (after - before).Seconds() / time.Since(begin).Seconds()
	return err
}

func (b *mailbox) close() {
	if b.lmtp != nil {
		b.lmtp.close()
	}
	b.uncut()
	b.imap.Close()
}

func (b *mailbox) measure(ctx context.Context, op operation, n int) (GrowthRow, error) {
	before, err := TreeCPU(b.srv.PID)
	if err != nil {
		return GrowthRow{}, err
	}
	begin := time.Now()
	lat := make(Latencies, 0, n)
	for i := range n {
		t := time.Now()
		if err := op.do(i); err != nil {
			return GrowthRow{}, err
		}
		lat = append(lat, time.Since(t))
		if err := ctx.Err(); err != nil {
			return GrowthRow{}, err
		}
	}
	if err := Settle(ctx, b.srv.Settle); err != nil {
		return GrowthRow{}, err
	}
	after, err := TreeCPU(b.srv.PID)
	if err != nil {
		return GrowthRow{}, err
	}
	used := (after - before).Seconds() - b.idle*time.Since(begin).Seconds()
	return GrowthRow{Operation: op.name, ServerCPUMS: max(0, used*1000/float64(n)), MedianMS: Millis(lat.Quantile(0.5))}, nil
}

func (b *mailbox) deliver(int) error {
	b.next++
	return b.lmtp.conns[0].c.deliver(b.letters, b.next, b.next, b.lmtp.rcpts)
}

func (b *mailbox) append(int) error {
	b.next++
	b.buf = b.letters.append(b.buf[:0], b.next, b.next)
	cmd := b.imap.Append(inboxName, int64(len(b.buf)), nil)
	_, err := cmd.Write(b.buf)
	if closeErr := cmd.Close(); err == nil {
		err = closeErr
	}
	if _, waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	return err
}

// flag marks message i of those that were there first, spread over the mailbox.
func (b *mailbox) flag(i int) error {
	return b.store(i, imap.FlagFlagged)
}

func (b *mailbox) store(i int, f imap.Flag) error {
	return b.imap.Store(imap.UIDSetNum(b.spread(i)), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{f}}, nil).Close()
}

func (b *mailbox) spread(i int) imap.UID {
	// 7919 is prime to all sizes in use, so that no message comes twice.
	return b.uids[(i*7919)%len(b.uids)]
}

// expunge removes message i; its marking is part of the cost, as it is for a
// client (RFC 4315, Section 2.1).
func (b *mailbox) expunge(i int) error {
	if err := b.store(i, imap.FlagDeleted); err != nil {
		return err
	}
	return b.imap.UIDExpunge(imap.UIDSetNum(b.spread(i))).Close()
}

// Table prints the rows for a terminal, Markdown for a document.
func (r *GrowthReport) Table(w io.Writer) error { return Table(w, growthHeads, Cells(r.Rows)) }

// Markdown prints the rows as a table in Markdown.
func (r *GrowthReport) Markdown(w io.Writer) error {
	return Markdown(w, growthHeads, Cells(r.Rows))
}
