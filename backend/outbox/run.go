package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"waypost/director"
	"waypost/internal/vfs"
)

// ErrRefused is what Send wraps when the message will never be taken: it is
// set aside for the operator.
var ErrRefused = errors.New("refused for good")

// Send hands an entry to an mx; message has LF line ends. nil: the mx has it
// durably.
type Send func(ctx context.Context, e Entry, message vfs.File) error

const (
	// firstPause and lastPause bound the pauses between tries of what no mx takes.
	firstPause = time.Second
	lastPause  = time.Minute
	// sendTimeout bounds one Send.
	sendTimeout = 5 * time.Minute
	// enoughFailed users, one after another whose messages no mx takes, show that
	// no mx takes anything. One alone may have sent too much, and is not to hold
	// up the others.
	enoughFailed = 3
)

// Run hands entries to mx hosts until ctx ends, the oldest first. What no mx takes
// now is tried again with growing pauses; meanwhile others go on.
func (b *Box) Run(ctx context.Context, send Send, log *slog.Logger) {
	s := sender{box: b, send: send, log: log, failed: map[string]bool{}}
	wait, armed := firstPause, false
	timer := time.NewTimer(wait)
	timer.Stop()
	defer timer.Stop()
	for again := true; ; { // at once: what the last process left
		sent := s.round(ctx, again)
		none := len(s.failed) == 0 && !s.stuck
		if none || again && sent {
			wait = firstPause
		}
		if none {
			timer.Stop()
			armed = false
		} else if !armed {
			timer.Reset(wait)
			wait, armed = min(2*wait, lastPause), true
		}
		wake := b.wake
		if s.stuck {
			wake = nil // whatever comes has to wait as well
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
			again = false
		case <-timer.C:
			again, armed = true, false
		}
	}
}

// sender is the state of Run.
type sender struct {
	box  *Box
	send Send
	log  *slog.Logger
	// failed are the entries that no mx has taken so far.
	failed map[string]bool
	// stuck: no mx takes anything, or the folder cannot be read.
	stuck bool
}

// round tries entries once each: with again all of them, what failed before last;
// else what is new. It tells whether any was sent.
func (s *sender) round(ctx context.Context, again bool) (sent bool) {
	keys, err := s.queue()
	if s.stuck = err != nil; s.stuck {
		s.log.Error("outbox not readable", "error", err)
		return false
	}
	failing := map[director.User]bool{} // since the last that was sent
	held := map[director.User]bool{}
	for _, k := range keys {
		if ctx.Err() != nil {
			return sent
		}
		if s.failed[k] && !again {
			continue
		}
		e, err := s.one(ctx, k, held)
		if err == nil {
			sent = true
			clear(failing)
			continue
		}
		if errors.Is(err, errSkipped) || ctx.Err() != nil {
			continue
		}
		s.failed[k], held[e.User], failing[e.User] = true, true, true
		s.log.Warn("outbound message waits", append(attrs(e), "error", err)...)
		if s.stuck = len(failing) >= enoughFailed; s.stuck {
			return sent
		}
	}
	return sent
}

// queue gives the keys in the order in which they are tried: the oldest first, but
// what failed before behind the rest.
func (s *sender) queue() ([]string, error) {
	keys, _, err := s.box.list()
	if err != nil {
		return nil, err
	}
	born := make(map[string]time.Time, len(keys))
	failed := make(map[string]bool, len(s.failed))
	for _, k := range keys {
		info, err := s.box.fs.Lstat(filepath.Join(s.box.dir, k+envelopeSuffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			born[k] = info.ModTime()
		}
		if s.failed[k] {
			failed[k] = true
		}
	}
	s.failed = failed // those that are gone are forgotten
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(order(failed[a], failed[b]), born[a].Compare(born[b]), cmp.Compare(a, b))
	})
	return keys, nil
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// errSkipped: not tried now.
var errSkipped = errors.New("skipped")

// one tries an entry, unless its user is in held. nil: it is no longer here.
func (s *sender) one(ctx context.Context, k string, held map[director.User]bool) (Entry, error) {
	e, message, err := s.box.open(k)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e, errSkipped // taken away by an operator
	case errors.Is(err, errMalformed):
		return e, s.refused(k, e, err)
	case err != nil:
		return e, err
	}
	defer message.Close() // it is only read
	if sent, err := s.box.wasSent(k); err != nil || sent {
		// A kill came between the note and the removal.
		return e, errors.Join(err, s.box.done(k))
	}
	if held[e.User] {
		s.failed[k] = true
		return e, errSkipped
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	err = s.send(ctx, e, message)
	switch {
	case errors.Is(err, ErrRefused):
		return e, s.refused(k, e, err)
	case err != nil:
		return e, err
	}
	s.log.Info("handed to an mx", attrs(e)...)
	if err = s.box.noteSent(k); err == nil {
		err = s.box.done(k)
	}
	if err != nil {
		return e, fmt.Errorf("an mx has it, and it cannot be removed: %w", err)
	}
	return e, nil
}

// refused sets an entry aside.
func (s *sender) refused(k string, e Entry, why error) error {
	if err := s.box.setAside(k); err != nil {
		return fmt.Errorf("%v; it cannot be set aside: %w", why, err)
	}
	s.log.Error("outbound message refused; it is set aside in the outbox", append(attrs(e), "key", k, "error", why)...)
	return nil
}

func attrs(e Entry) []any {
	return []any{"id", e.ID, "user", e.User, "kind", e.Kind, "to", len(e.To)}
}
