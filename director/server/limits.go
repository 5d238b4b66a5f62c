package server

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"waypost/director"
	"waypost/director/admin"
)

func (s *Server) getLimits(ctx context.Context, _ *call) (any, error) {
	v, err := s.dir.Limits(ctx)
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return limitsOf(v.Value), nil
}

func (s *Server) patchLimits(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.SetLimit](c)
	if err != nil {
		return nil, err
	}
	c.object = "moves"
	if req.Backend != "" {
		c.object = "moves of " + string(req.Backend)
		if err := director.ValidBackendID(req.Backend); err != nil {
			return nil, err
		}
	}
	all, err := s.dir.SetLimit(ctx, req.Backend, func(l *director.Limit) {
		if req.BytesPerSecond != nil {
			l.BytesPerSecond = *req.BytesPerSecond
		}
		if req.Moves != nil {
			l.Moves = *req.Moves
		}
	})
	if err != nil {
		return nil, err
	}
	return limitsOf(all), nil
}

func limitsOf(l director.Limits) admin.Limits {
	out := admin.Limits{Limit: admin.Limit(l.Limit), Backends: []admin.BackendLimit{}}
	for _, id := range slices.Sorted(maps.Keys(l.Backends)) {
		out.Backends = append(out.Backends, admin.BackendLimit{Backend: id, Limit: admin.Limit(l.Backends[id])})
	}
	return out
}
