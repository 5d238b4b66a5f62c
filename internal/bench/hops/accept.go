package hops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// sessionTime bounds all that is read from and written to one connection: a deadline that is
// set once costs less than one for each line.
const sessionTime = time.Hour

// acceptor has connections served until a context ends.
type acceptor struct {
	ctx context.Context
	lns []net.Listener
	wg  sync.WaitGroup
}

// run serves what comes at each listener with what is at its place, and returns when ctx is over
// and everything has ended.
func (a *acceptor) run(serve ...func(net.Conn)) error {
	stop := context.AfterFunc(a.ctx, func() { _ = a.close() })
	defer stop()
	errs := make([]error, len(a.lns))
	for i, ln := range a.lns {
		a.wg.Go(func() { errs[i] = a.accept(ln, serve[i]) })
	}
	a.wg.Wait()
	return errors.Join(errs...)
}

func (a *acceptor) accept(ln net.Listener, serve func(net.Conn)) error {
	defer a.close() // nobody is to wait for the others alone
	for {
		nc, err := ln.Accept()
		if err != nil {
			if a.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		a.wg.Go(func() {
			defer nc.Close()
			uncut := context.AfterFunc(a.ctx, func() { nc.Close() })
			defer uncut()
			if nc.SetDeadline(time.Now().Add(sessionTime)) == nil {
				serve(nc)
			}
		})
	}
}

func (a *acceptor) close() error {
	var errs []error
	for _, ln := range a.lns {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
