// Package etcd is a director.Store on an etcd cluster. It is the only room,
// with its sub-packages, that imports etcd.
//
// It owns all keys under its prefix. Every read is linearizable. What is
// written is durable on a majority of the members when Commit says done; when
// it cannot be known, Commit says ErrUnknown, and ErrUnavailable only when
// nothing was sent or etcd refused it. It never repeats a Commit by itself.
//
// Calls without a deadline get one of 5 seconds; List has one for each of its
// parts instead. A store can be opened while etcd is away. Members of version
// 3.5 and later will do; from 3.7 on List streams.
//
// All methods are safe for concurrent use.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"waypost/director"
	"waypost/director/etcd/zaplog"
)

const (
	// DefaultPrefix is Options.Prefix's default.
	DefaultPrefix = "/waypost/"
	// callLimit is the deadline of calls that have none.
	callLimit = 5 * time.Second
	// callsMost bounds even calls with a deadline of their own.
	callsMost = time.Hour
	// maxKeys is director.Store's limit of GetAll.
	maxKeys = 100
	// maxOps is etcd's own limit of compares and of operations, unless it was
	// configured otherwise; the same everywhere, so that nothing works by luck.
	maxOps = 128
)

// Options of Open.
type Options struct {
	// Endpoints are "host:port" or URLs of the members.
	Endpoints []string
	// TLS is nil for plain connections.
	TLS *tls.Config
	// Username and Password are for an etcd with authentication; or empty.
	Username, Password string
	// Prefix is put before every key; "" is DefaultPrefix.
	Prefix string
	// Log may be nil. The client's own complaints are of level debug: whoever
	// makes a call gets its error.
	Log *slog.Logger
}

// Store implements director.Store.
type Store struct {
	opts    Options
	log     *slog.Logger
	prefix  string
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup // watches, leases and the progress asker
	watches atomic.Int64   // how many are running
	pages   paging

	client atomic.Pointer[clientv3.Client]
	mu     sync.Mutex // held while connecting and closing
	closed bool
}

var _ director.Store = (*Store)(nil)

// Open gives a store. That etcd cannot be reached is no error yet; options or
// credentials that can never work are.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Endpoints) == 0 {
		return nil, fmt.Errorf("etcd: no endpoints: %w", director.ErrInvalid)
	}
	s := &Store{opts: o, log: o.Log, prefix: o.Prefix, pages: defaultPaging}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if _, err := s.connect(ctx); err != nil && !errors.Is(err, director.ErrUnavailable) {
		s.stop()
		return nil, err
	}
	s.running.Go(s.askProgress)
	return s, nil
}

// connect gives the client, and makes it when there is none: with a password
// etcd must be there for that, else it connects when it is first used.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	if s.closed {
		return nil, errClosed()
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	limit := callLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(time.Millisecond, min(limit, time.Until(deadline))) // 0 would be for ever
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: s.opts.Endpoints, TLS: s.opts.TLS, Username: s.opts.Username, Password: s.opts.Password,
		Context: s.ctx, DialTimeout: limit,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, PermitWithoutStream: true,
		Logger: zaplog.New(s.log, slog.LevelDebug, slog.LevelDebug),
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(sentHandler{}),
			// gRPC would wait up to two minutes between tries.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
		},
	})
	if err != nil {
		return nil, openError(err)
	}
	s.client.Store(c)
	return c, nil
}

func errClosed() error {
	return fmt.Errorf("%w: the store is closed", director.ErrUnavailable)
}

// begin gives what a call needs: the client, and a context with a deadline
// that ends with the store.
func (s *Store) begin(ctx context.Context, limit time.Duration) (*clientv3.Client, context.Context, context.CancelFunc, error) {
	if s.ctx.Err() != nil {
		return nil, nil, nil, errClosed()
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, has := ctx.Deadline(); has {
		limit = callsMost
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	return c, ctx, cancel, nil
}

// Get implements director.Store.
func (s *Store) Get(ctx context.Context, key string) (director.Entry, error) {
	es, err := s.GetAll(ctx, []string{key})
	if err != nil {
		return director.Entry{}, err
	}
	return es[0], nil
}

// GetAll implements director.Store: one read-only transaction.
func (s *Store) GetAll(ctx context.Context, keys []string) ([]director.Entry, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("read %d keys at once, at most %d: %w", len(keys), maxKeys, director.ErrInvalid)
	}
	c, ctx, cancel, err := s.begin(ctx, callLimit)
	if err != nil {
		return nil, err
	}
	defer cancel()
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpGet(s.prefix + k)
	}
	if len(ops) == 0 {
		return nil, nil
	}
	r, err := c.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, readError(err)
	}
	es := make([]director.Entry, len(keys))
	for i, k := range keys {
		es[i] = director.Entry{Key: k}
		if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			es[i] = s.entry(kvs[0])
		}
	}
	return es, nil
}

// Commit implements director.Store.
func (s *Store) Commit(ctx context.Context, guards []director.Guard, ops []director.Op) (int64, bool, error) {
	if len(guards) > maxOps || len(ops) > maxOps {
		return 0, false, fmt.Errorf("transaction of %d guards and %d operations, at most %d: %w", len(guards), len(ops), maxOps, director.ErrInvalid)
	}
	c, ctx, cancel, err := s.begin(ctx, callLimit)
	if err != nil {
		return 0, false, err
	}
	defer cancel()
	ctx, sent := withSent(ctx)
	r, err := c.Txn(ctx).If(s.compares(guards)...).Then(s.ops(ops)...).Commit()
	if err != nil {
		return 0, false, commitError(err, sent.Load())
	}
	return r.Header.Revision, r.Succeeded, nil
}

func (s *Store) compares(guards []director.Guard) []clientv3.Cmp {
	cs := make([]clientv3.Cmp, len(guards))
	for i, g := range guards {
		// An absent key's ModRevision is 0.
		cs[i] = clientv3.Compare(clientv3.ModRevision(s.prefix+g.Key), "=", g.Rev)
	}
	return cs
}

func (s *Store) ops(ops []director.Op) []clientv3.Op {
	os := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch {
		case op.Delete:
			os[i] = clientv3.OpDelete(s.prefix + op.Key)
		case op.Lease != 0:
			os[i] = clientv3.OpPut(s.prefix+op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		default:
			os[i] = clientv3.OpPut(s.prefix+op.Key, string(op.Value))
		}
	}
	return os
}

// Close implements director.Store. It does not wait for calls; they fail.
func (s *Store) Close() error {
	s.mu.Lock() // against Watch and Grant, which start goroutines
	s.stop()
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if c := s.client.Load(); c != nil {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("close etcd client: %w", err)
		}
	}
	return nil
}

// openError tells what can never work from what may later.
func openError(err error) error {
	if errors.Is(err, rpctypes.ErrAuthFailed) {
		return fmt.Errorf("etcd: wrong user name or password: %w", err)
	}
	if isTemporary(err) {
		return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	return fmt.Errorf("etcd: %w", err)
}
