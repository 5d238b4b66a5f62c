package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"waypost/director"
)

// sentKey is the context key of the mark that sentHandler sets.
type sentKey struct{}

// withSent gives a context whose call sets the flag once any of it may have
// gone out: the only way to know that a failed transaction was not done.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

// sentHandler is a gRPC stats handler that watches for the first bytes of a call.
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			sent.Store(true)
		}
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}

// readError is for calls that change nothing.
func readError(err error) error {
	if errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrEmptyKey) {
		return fmt.Errorf("%w: %w", director.ErrInvalid, err)
	}
	return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
}

// commitError says whether a failed transaction may have been done.
func commitError(err error, sent bool) error {
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%w: %w", director.ErrNotFound, err)
	case isAnyOf(err, rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrEmptyKey, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: %w", director.ErrInvalid, err)
	case !sent || refused(err):
		return fmt.Errorf("%w: %w", director.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", director.ErrUnknown, err)
}

func isAnyOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// refused is true for etcd's own answers that say it did nothing. Its answers
// of code Unavailable (no leader, leader changed, timed out) are not: they may
// come after the proposal.
func refused(err error) bool {
	var answer rpctypes.EtcdError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound,
		codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted:
		return true
	}
	return false
}

// isTemporary is true when etcd could not be asked.
func isTemporary(err error) bool {
	if isAnyOf(err, context.Canceled, context.DeadlineExceeded) {
		return true
	}
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		return answer.Code() == codes.Unavailable
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}
