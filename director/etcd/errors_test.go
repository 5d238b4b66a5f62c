package etcd

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waypost/director"
)

func TestCommitError(t *testing.T) {
	for _, c := range []struct {
		err  error
		sent bool
		want error
	}{
		{context.DeadlineExceeded, false, director.ErrUnavailable},
		{context.DeadlineExceeded, true, director.ErrUnknown},
		{context.Canceled, true, director.ErrUnknown},
		{status.Error(codes.Unavailable, "connection refused"), false, director.ErrUnavailable},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), true, director.ErrUnknown},
		{rpctypes.ErrTimeout, true, director.ErrUnknown},
		{rpctypes.ErrTimeoutDueToLeaderFail, true, director.ErrUnknown},
		{rpctypes.ErrLeaderChanged, true, director.ErrUnknown},
		{rpctypes.ErrNoLeader, true, director.ErrUnknown},
		{rpctypes.ErrTooManyRequests, true, director.ErrUnavailable},
		{rpctypes.ErrNoSpace, true, director.ErrUnavailable},
		{rpctypes.ErrPermissionDenied, true, director.ErrUnavailable},
		{rpctypes.ErrInvalidAuthToken, true, director.ErrUnavailable},
		{rpctypes.ErrLeaseNotFound, true, director.ErrNotFound},
		{rpctypes.ErrDuplicateKey, true, director.ErrInvalid},
		{rpctypes.ErrRequestTooLarge, true, director.ErrInvalid},
	} {
		err := commitError(c.err, c.sent)
		for _, is := range []error{director.ErrUnavailable, director.ErrUnknown, director.ErrNotFound, director.ErrInvalid} {
			if errors.Is(err, is) != (is == c.want) {
				t.Errorf("%v, sent %v: is %q: %v", c.err, c.sent, is, errors.Is(err, is))
			}
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%v is not wrapped in %v", c.err, err)
		}
	}
}
