package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"waypost/director"
)

// errSilent: the backend did not answer somebody else a moment ago, and was not asked.
var errSilent = errors.New("backend did not answer a moment ago")

// pacing admits resumes to backends: after a restart all sessions of a backend come at
// once. There is a place for each backend of the directory that sessions were resumed on.
type pacing struct {
	most int // under way on one backend

	mu sync.Mutex // protects what follows, for moments
	of map[director.BackendID]*pace
}

type pace struct {
	places chan struct{}
	silent time.Time // when it did not answer; protected by pacing's mu
}

func newPacing(most int) *pacing {
	return &pacing{most: most, of: map[director.BackendID]*pace{}}
}

// enter waits for a place; leave gives it back, and tells whether the backend answered. It
// is errSilent if the backend need not be asked: many sessions then wait for the answer
// to one.
func (p *pacing) enter(ctx context.Context, id director.BackendID) (leave func(answered bool), err error) {
	p.mu.Lock()
	of := p.of[id]
	if of == nil {
		of = &pace{places: make(chan struct{}, p.most)}
		p.of[id] = of
	}
	p.mu.Unlock()
	select {
	case of.places <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ago := time.Since(of.silent); !of.silent.IsZero() && ago < retryEvery/2 {
		<-of.places
		return nil, fmt.Errorf("%w: backend %s", errSilent, id)
	}
	return func(answered bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		of.silent = time.Time{}
		if !answered {
			of.silent = time.Now()
		}
		<-of.places
	}, nil
}
